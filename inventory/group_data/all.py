"""Settings of all hosts. To change a setting, uncomment its line.

The brackets say what a change costs. A group's file (group_data/<group>.py) and a host's data in the inventory take
precedence over this file. docs/settings.md shows the same settings as tables. 'make settings' writes both from
redoubt/settings/sections/.
"""

from redoubt.ssh_transport import transport

# Saves about 40 ms for each SSH command on a fast link: paramiko does not turn Nagle's algorithm off.
ssh_paramiko_connect_kwargs = {"transport_factory": transport}

# -- Instance

# Name of the instance. The container, the Compose project, the networks and the paths on the host derive from
# it. [creates a new instance next to the old one]
# redis_name = "redis"

# Directory on the host for configuration, data, backups, logs and secrets. Default: /srv/<redis_name>.
# [creates a new instance next to the old one]
# redis_root = "/srv/redis"

# Number of the user that Redis runs as. It owns data, backups, logs and secrets on the host, so no account of
# the host may have it. The images need no account with this number. A change restarts Redis twice and gives
# the files to the new user. [restarts Redis]
# redis_uid = 999

# Number of the group that Redis runs as. A group of the host may have it, because the group has no rights.
# [restarts Redis]
# redis_gid = 999

# Name of the web application. The keys of its sessions are <redis_app_name>:session:<id>. [applied live]
# redis_app_name = "app"

# -- Image

# redis or valkey, the free fork of Redis 7.2 with the same protocol. Valkey does not read data of Redis 7.4
# and newer, and Redis does not read data of Valkey 9.0 and newer. [restarts Redis]
# redis_engine = "redis"

# Image with a pinned version, and with a digest if you know it (name:tag@sha256:...). With redis_engine =
# 'valkey' the default is docker.io/valkey/valkey:9.1.4. [restarts Redis]
# redis_image = "docker.io/library/redis:8.10.2"

# registry: the host pulls the image. archive: the deploy copies a file made by 'docker save' to the host over
# SSH and loads it, so the host needs no registry. [no restart]
# redis_image_source = "registry"

# With redis_image_source = 'archive': path of the archive on the machine that deploys. [no restart]
# redis_image_archive = "images/redis-8.10.2.tar"

# Digest of the archive, from 'sha256sum FILE'. Another file is refused, on this machine and on the host. [no
# restart]
# redis_image_archive_digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

# Deploy a version that lacks security fixes (see docs/versions.md). Every deploy then warns and names them.
# [no restart]
# redis_allow_vulnerable_version = False

# -- Changes

# Changes that may lose data and are refused otherwise. eviction: redis_maxmemory becomes lower than the
# memory that Redis uses. policy: the new redis_maxmemory_policy evicts more keys than the old one.
# persistence: redis_appendonly changes from True to False. empty: Redis starts empty, because its data is
# missing on a host where it was deployed. For one deploy: --data redis_allow_data_loss=eviction. [no restart]
# redis_allow_data_loss = []

# -- Memory and eviction

# Memory for data. Choose the size of the instance by this setting. Redis notation: 1gb is 1024^3 bytes.
# [applied live]
# redis_maxmemory = "1gb"

# Which keys Redis evicts when memory is full. volatile-*: only keys with a TTL (sessions), never RQ's queues
# and jobs. [applied live]
# redis_maxmemory_policy = "volatile-lru"

# Keys that Redis compares for each eviction. More is closer to true LRU. [applied live]
# redis_maxmemory_samples = 10

# Maximum number of fields of a hash that Redis stores compactly. [applied live]
# redis_hash_max_listpack_entries = 1024

# Maximum length of the values of such a hash, in bytes. [applied live]
# redis_hash_max_listpack_value = 256

# Size of the nodes of a list. -1: 4 KiB, -2: 8 KiB, up to -5: 64 KiB. A positive number counts elements.
# [applied live]
# redis_list_max_listpack_size = -1

# Free the memory of evicted, expired and deleted keys in a background thread. [applied live]
# redis_lazyfree = True

# Defragment memory while Redis runs. auto: yes if the build in the image supports it. yes: refuse the deploy
# if it does not. [applied live]
# redis_activedefrag = "auto"

# -- Persistence

# When Redis writes RDB snapshots: pairs of '<seconds> <changes>'. '' turns them off. [applied live]
# redis_save = "900 1 300 10 60 10000 30 100000"

# Write every change to the append-only file (AOF). [applied live]
# redis_appendonly = True

# When Redis flushes the AOF to disk. everysec: a power cut loses about one second of writes at most. [applied
# live]
# redis_appendfsync = "everysec"

# Growth since the last rewrite at which Redis rewrites the AOF (percent, 0: never). [applied live]
# redis_auto_aof_rewrite_percentage = 100

# Minimum size of the AOF for a rewrite. [applied live]
# redis_auto_aof_rewrite_min_size = "64mb"

# Write timestamps into the AOF, which point-in-time restores need. Redis 7.0 and newer, and Valkey. [applied
# live]
# redis_aof_timestamps = True

# Flush RDB snapshots and AOF rewrites to disk in small portions, which avoids latency spikes. [applied live]
# redis_incremental_fsync = True

# -- Backups

# When systemd takes backups, as an OnCalendar expression: daily, hourly, 'Mon..Fri 03:00'. In the host's time
# zone, or in one that you name ('03:00 Europe/Berlin'). '': never. [no restart]
# redis_backup_schedule = "*-*-* 03:00:00"

# Maximum delay of a backup in seconds. Each host has its own fixed delay, so that many hosts do not write at
# the same time. [no restart]
# redis_backup_randomized_delay = 1800

# Load each backup in a separate container and check its contents. This needs the memory of a second Redis
# while it runs. [no restart]
# redis_backup_verify = True

# Before an upgrade starts, load the backup with the old and the new version. This needs the memory of a
# second Redis while it runs. False: the upgrade still takes a backup, but does not load it. [no restart]
# redis_upgrade_verify = True

# Hours. redisctl health warns if the newest verified backup is older, and is critical at twice that age. [no
# restart]
# redis_backup_max_age = 26

# Number of hourly backups to keep: the newest one of each hour. The same numbers apply to off-host copies.
# [no restart]
# redis_backup_keep_hourly = 24

# Number of daily backups to keep. [no restart]
# redis_backup_keep_daily = 7

# Number of weekly backups to keep. [no restart]
# redis_backup_keep_weekly = 4

# Number of monthly backups to keep. [no restart]
# redis_backup_keep_monthly = 6

# restic repository for encrypted copies of the backups: sftp:user@host:/path, s3:https://host/bucket,
# gs:bucket:/path, rest:https://host/path, or a directory. Each instance needs its own. '': no copies. [no
# restart]
# redis_backup_restic_repository = ""

# Credentials for the repository, as paths of files on the machine that deploys: ssh_key and known_hosts
# (sftp), aws_credentials (s3), google_credentials (gs), ca_certificate (s3, rest), client_certificate (rest).
# [no restart]
# redis_backup_repository_files = {}

# -- Clients

# Maximum number of connections of clients over TCP. Redis accepts 32 more, a reserve for the health check,
# redisctl, and admin on the socket. [restarts Redis]
# redis_maxclients = 10000

# Maximum number of connections from one address. All programs on the host that use 127.0.0.1 count as one.
# Default: half of redis_maxclients. [applied live]
# redis_maxclients_per_source = 5000

# Memory for the requests and replies of all clients together, in addition to redis_maxmemory. Above it, Redis
# disconnects the clients that use most. One reply may use half of it. Default: 1/8 of redis_maxmemory, at
# least 16mb and 4 x redis_max_value (see docs/sizing.md). [applied live]
# redis_client_memory = "128mb"

# Maximum size of one value in a request. A transaction may have twice as much. Redis answers more with an
# error and closes the connection. Default: 1/4 of redis_client_memory, which is also the maximum. [applied
# live]
# redis_max_value = "32mb"

# Close a connection that was idle for this long (seconds, 0: never). Subscribers and blocked workers are
# exempt. [applied live]
# redis_timeout = 300

# Seconds between TCP keepalive probes, which detect dead peers. [applied live]
# redis_tcp_keepalive = 60

# Connections that may wait to be accepted. [restarts Redis]
# redis_tcp_backlog = 511

# Number of databases. A deploy refuses fewer than have keys. [restarts Redis]
# redis_databases = 16

# Keyspace events that Redis publishes. Ex: expired keys, on the channel __keyevent@<db>__:expired. [applied
# live]
# redis_notify_keyspace_events = "Ex"

# -- Access

# Additional users. Each has its own password, a role (session, queue, cache, read-only, metrics or custom),
# key patterns, channels and additional ACL rules. A user reaches only keys that match its patterns. [applied
# live]
# redis_users = {}

# Enable the default user, for clients that know only a password. It gets a generated password and the rights
# of the users sessions and queues together. While it is enabled, admin cannot write other keys or use
# transactions. [applied live]
# redis_enable_default_user = False

# Commands that no client can call. [restarts Redis]
# redis_disabled_commands = ["FLUSHDB", "FLUSHALL", "DEBUG", "EVAL"]

# Commands that get a generated name, one for each instance. The names are stored with the secrets. [restarts
# Redis]
# redis_renamed_commands = ["CONFIG", "SHUTDOWN"]

# Where the machine that deploys stores passwords. file: plain files that only you can read. sops: files that
# SOPS encrypts and that can be committed. command: a program of your own (redis_secrets_command), for example
# for Vault. [no restart]
# redis_secrets_source = "file"

# With redis_secrets_source = 'file' or 'sops': directory on the machine that deploys. It has one file for
# each host and instance. [no restart]
# redis_secrets_dir = "secrets"

# With redis_secrets_source = 'command': a program and its first arguments. It is called with 'get' or 'put',
# the host and the name of the document (see docs/secrets.md). [no restart]
# redis_secrets_command = []

# -- Network

# Port that Docker publishes on the host. [restarts Redis]
# redis_port = 6379

# Addresses of the host on which Docker publishes the port. [] publishes nothing: only containers on the
# network <redis_name>_backend reach Redis. A published port bypasses ufw. [restarts Redis]
# redis_bind = ["127.0.0.1"]

# Networks that may reach the published port from outside. The network filter drops all others before they
# reach Docker. []: everyone who can reach an address of redis_bind, which may then be 0.0.0.0 or :: only if
# TLS is required. Clients on the host are never restricted. [applied live]
# redis_allow_from = []

# IPv4 network of the bridge <redis_name>_edge, which carries the published port. Nothing else on the host may
# use its addresses. Default: 16 addresses of 198.18.0.0/15, which derive from redis_name. [restarts Redis]
# redis_edge_subnet = "198.18.7.16/28"

# Listen on <redis_root>/socket/redis.sock as well, for applications on the same host. Its connections may
# also use the reserve of redis_maxclients. [restarts Redis]
# redis_unix_socket = False

# Number of the group on the host whose members may use the socket. 0: root alone. [restarts Redis]
# redis_unix_socket_gid = 0

# -- TLS

# required: redis_port accepts only TLS (1.2 and 1.3), and there is no other port. both: TLS on redis_tls_port
# and plain connections on redis_port, while you move clients to TLS. [restarts Redis]
# redis_tls = "off"

# With redis_tls = 'both': the port for TLS. [restarts Redis]
# redis_tls_port = 6380

# ca: a CA that the first deploy creates issues the certificates, and a deploy renews them. It is stored with
# the secrets. files: you provide redis_tls_cert, redis_tls_key and redis_tls_ca, and a pair for clients if
# Redis requires one. [applied live]
# redis_tls_source = "ca"

# With redis_tls_source = 'files': path of the certificate on the machine that deploys, with its intermediate
# certificates (PEM). [applied live]
# redis_tls_cert = "tls/redis-1.crt"

# With redis_tls_source = 'files': path of its key, without a passphrase. [applied live]
# redis_tls_key = "tls/redis-1.key"

# With redis_tls_source = 'files': path of the CA certificates. Clients check the server with them, and Redis
# checks its clients. [applied live]
# redis_tls_ca = "tls/ca.crt"

# With redis_tls_source = 'files': path of a certificate for clients, with its intermediate certificates
# (PEM). Redis and its health check show it to servers that ask for one. redis_tls_auth_clients = 'yes' needs
# it. [applied live]
# redis_tls_client_cert = "tls/redis-1-client.crt"

# With redis_tls_source = 'files': path of its key, without a passphrase. [applied live]
# redis_tls_client_key = "tls/redis-1-client.key"

# Names and IP addresses that clients use, in addition to the host's name in the inventory and redis_bind.
# With redis_tls_source = 'files': names that the certificate must have. [applied live]
# redis_tls_names = []

# With redis_tls_source = 'ca': days that a certificate is valid. A deploy renews it in the last third.
# [applied live]
# redis_tls_days = 365

# Whether Redis asks clients for a certificate of the CA. no: never. optional: Redis checks it if a client
# sends one. yes: every client needs one. Clients log in with a password in any case. [applied live]
# redis_tls_auth_clients = "no"

# -- Container limits

# Memory limit. Default: 1.5 x redis_maxmemory, which leaves room for forks, buffers and fragmentation
# (measured, see docs/sizing.md), and redis_client_memory. [applied live]
# redis_container_memory = "1664M"

# Memory that the kernel tries to leave to Redis when the host runs short. [applied live]
# redis_container_memory_reservation = "512M"

# CPU limit, in cores. [applied live]
# redis_container_cpus = 1.0

# Share of the CPU when the host is busy, in cores. Docker has no hard reservation, so this becomes a weight
# (1.0 is 1024). [applied live]
# redis_container_cpu_reservation = 0.5

# Maximum number of processes and threads: Redis, its saving child and the health check. [applied live]
# redis_container_pids = 128

# Maximum number of open files. Default: redis_maxclients + 1056. Redis needs 64 more than redis_maxclients: a
# reserve of 32 connections, and 32 files. The rest is for files and forks. [restarts Redis]
# redis_container_nofile = 11056

# Seconds that Redis has to save its data before Docker kills it. Default: 30, and 1 more for each 50 MiB of
# redis_maxmemory (a slow cloud volume writes 50 MiB/s). [restarts Redis]
# redis_stop_grace_period = 51

# Docker's restart policy. A stopped instance stays stopped with all of them. [applied live]
# redis_restart = "unless-stopped"

# -- Health check

# Seconds between two checks. [restarts Redis]
# redis_health_interval = 30

# Seconds after which a check fails. [restarts Redis]
# redis_health_timeout = 10

# Failed checks in a row that make Redis unhealthy. [restarts Redis]
# redis_health_retries = 5

# Seconds after a start during which failed checks do not count. [restarts Redis]
# redis_health_start_period = 10

# -- Logs

# How much Redis logs. [applied live]
# redis_loglevel = "notice"

# Size above which redis.log is rotated, at most once an hour. It is also rotated daily. [no restart]
# redis_logfile_max_size = "10M"

# Number of rotated log files to keep. [no restart]
# redis_logfile_rotations = 14

# Maximum size of a log file with the container's output (json-file). [restarts Redis]
# redis_container_log_max_size = "10M"

# Number of log files with the container's output to keep. [restarts Redis]
# redis_container_log_max_file = 3

# Commands that take longer than this go to the slow log (microseconds; -1: none, 0: all). [applied live]
# redis_slowlog_log_slower_than = 10000

# Number of entries in the slow log. [applied live]
# redis_slowlog_max_len = 256

# The latency monitor records events that take longer than this (milliseconds; 0: off). [applied live]
# redis_latency_monitor_threshold = 100

# -- Application

# Your own services, as in a Compose file. They join Redis's network and start when Redis is healthy. [no
# restart]
# redis_app_services = {}

# -- Host

# Set kernel parameters for Redis, now and at every boot: memory overcommit, huge pages, swappiness and the
# maximum backlog. Set it to False on a host that is a container, because its kernel belongs to the machine
# below. [no restart]
# redis_host_tuning = True

# Where Docker comes from on a host without it. distribution: docker.io and Compose v2 from the system's
# packages. docker: Docker's apt repository. none: refuse the deploy. auto: distribution, or docker if the
# system has no package of Compose v2 (Debian 12). [no restart]
# redis_docker_source = "auto"

# Deploy to an operating system that is not in the list of supported ones. [no restart]
# redis_allow_unsupported_system = False

# -- Further directives

# Directives of redis.conf that have no setting of their own. Refused are directives that Redoubt manages,
# names of data files (dbfilename, appendfilename, appenddirname), with which Redis would start empty, and
# directives that change its role (replicaof, cluster-enabled). [restarts Redis]
# redis_extra_config = {}
