"""Settings of all hosts. Uncomment a line to change it; what it costs on a running host is in brackets.

A group's own file (group_data/<group>.py) and a host's data in the inventory come before this file.
docs/settings.md has the same list as a table. 'make settings' writes both from redoubt/settings/model.py.
"""

from redoubt.ssh_transport import transport

# Halves the time of a deploy: paramiko leaves Nagle's algorithm on.
ssh_paramiko_connect_kwargs = {"transport_factory": transport}

# -- Instance

# Name of the instance. The container, the Compose project, the networks and the host paths derive from it.
# [makes a new instance beside the old one]
# redis_name = "redis"

# Directory on the host that holds config, data, backups, logs and secrets. Default: /srv/<redis_name>. [makes
# a new instance beside the old one]
# redis_root = "/srv/redis"

# Name of the web application: its sessions are the keys <redis_app_name>:session:<id>. [applied live]
# redis_app_name = "app"

# -- Image

# redis, or valkey: the free fork of Redis 7.2, which speaks the same protocol. Data of Redis 7.4 and newer is
# not read by it, and its own from 9.0 on not by Redis. [restarts Redis]
# redis_engine = "redis"

# Image with a pinned version, and a digest where you know it (name:tag@sha256:...). With redis_engine =
# 'valkey' the default is docker.io/valkey/valkey:9.1.4. [restarts Redis]
# redis_image = "docker.io/library/redis:8.10.2"

# registry: the host pulls the image. archive: a file made by 'docker save' is pushed over SSH and loaded; the
# host needs no registry. [no restart]
# redis_image_source = "registry"

# With source archive: path of the archive on the machine that deploys. [no restart]
# redis_image_archive = "images/redis-8.10.2.tar"

# Deploy a version that lacks security fixes (redoubt/versions.py), with a warning that names them. [no
# restart]
# redis_allow_vulnerable_version = False

# -- Changes

# Changes that may cost data and are refused otherwise. eviction: redis_maxmemory below what Redis holds;
# policy: a redis_maxmemory_policy that evicts more than the one before; persistence: redis_appendonly from
# True to False. For one deploy: --data redis_allow_data_loss=eviction. [no restart]
# redis_allow_data_loss = []

# -- Memory and eviction

# Memory for data; what you size the instance by. Redis notation: 1gb is 1024^3 bytes. [applied live]
# redis_maxmemory = "1gb"

# What goes when memory is full. volatile-*: only keys with a TTL (sessions), never RQ's queues and jobs.
# [applied live]
# redis_maxmemory_policy = "volatile-lru"

# Keys compared for each eviction; more is closer to true LRU. [applied live]
# redis_maxmemory_samples = 10

# A hash of up to this many fields is stored compactly. [applied live]
# redis_hash_max_listpack_entries = 1024

# ... when none of its values is longer than this (bytes). [applied live]
# redis_hash_max_listpack_value = 256

# Size of a list's nodes: -1 is 4 KiB, -2 is 8 KiB, up to -5; a positive number counts elements. [applied
# live]
# redis_list_max_listpack_size = -1

# Free memory of evicted, expired and deleted keys in a background thread. [applied live]
# redis_lazyfree = True

# Defragment memory while running. auto: on where the image's build supports it; yes on a build that does not
# is refused before Redis is touched. [applied live]
# redis_activedefrag = "auto"

# -- Persistence

# RDB snapshots, as '<seconds> <changes>' pairs. '' turns them off. [applied live]
# redis_save = "900 1 300 10 60 10000 30 100000"

# Log every write (AOF). [applied live]
# redis_appendonly = True

# When the AOF is flushed to disk. everysec: a power cut loses about one second at most. [applied live]
# redis_appendfsync = "everysec"

# Rewrite the AOF when it has grown by this much (percent, 0: never). [applied live]
# redis_auto_aof_rewrite_percentage = 100

# ... and is at least this big. [applied live]
# redis_auto_aof_rewrite_min_size = "64mb"

# Write the time into the AOF, so that a restore can go back to a moment. Redis 7.0 and newer, and Valkey.
# [applied live]
# redis_aof_timestamps = True

# Flush RDB and AOF rewrites to disk in small portions, so that clients see no latency spike. [applied live]
# redis_incremental_fsync = True

# -- Backups

# When backups are taken, as systemd's OnCalendar has it: daily, hourly, 'Mon..Fri 03:00'; in the host's time
# zone, or one that is named ('03:00 Europe/Berlin'). '': never by itself. [no restart]
# redis_backup_schedule = "*-*-* 03:00:00"

# Seconds within which a host waits after that, always as long: many hosts do not write at once. [no restart]
# redis_backup_randomized_delay = 1800

# Load each backup in a container of its own and look at what it holds, which takes the memory of a second
# Redis meanwhile. [no restart]
# redis_backup_verify = True

# Before another version of the server is started, load the backup that is taken then with both versions. It
# takes the memory of a second Redis meanwhile; without it the backup is taken and not tried. [no restart]
# redis_upgrade_verify = True

# redisctl health warns when the newest verified backup is older (hours), and is critical at twice that. [no
# restart]
# redis_backup_max_age = 26

# Backups kept: the last one of each of so many hours, [no restart]
# redis_backup_keep_hourly = 24

# ... of so many days, [no restart]
# redis_backup_keep_daily = 7

# ... of so many weeks, [no restart]
# redis_backup_keep_weekly = 4

# ... and of so many months; the same off the host. [no restart]
# redis_backup_keep_monthly = 6

# Where each backup is copied to as well, encrypted, by restic: sftp:user@host:/path, s3:https://host/bucket,
# gs:bucket:/path, rest:https://host/path, or a directory. Each instance has its own. '': nowhere. [no
# restart]
# redis_backup_restic_repository = ""

# What gets restic there, as paths of files on the machine that deploys: ssh_key and known_hosts (sftp),
# aws_credentials (s3), google_credentials (gs), ca_certificate (s3, rest), client_certificate (rest). [no
# restart]
# redis_backup_repository_files = {}

# -- Clients

# Connections at a time. [restarts Redis]
# redis_maxclients = 10000

# Close a connection that was idle for this long (0: never). Subscribers and blocked workers are exempt.
# [applied live]
# redis_timeout = 300

# Seconds between TCP keepalive probes; finds dead peers. [applied live]
# redis_tcp_keepalive = 60

# Connections that may wait to be accepted. [restarts Redis]
# redis_tcp_backlog = 511

# Number of databases. [restarts Redis]
# redis_databases = 16

# Events that Redis publishes. Ex: the expiry of keys, on __keyevent@<db>__:expired. [applied live]
# redis_notify_keyspace_events = "Ex"

# -- Access

# Further users, each with a password of its own, a role (session, queue, cache, read-only, metrics or
# custom), key patterns, channels and further ACL rules. None sees another's keys. [applied live]
# redis_users = {}

# Turn the default user on, with a generated password and the rights of the session and queue users together,
# for clients that know only a password. Meanwhile admin writes no other keys and no transactions. [applied
# live]
# redis_enable_default_user = False

# Commands that nobody can call. [restarts Redis]
# redis_disabled_commands = ["FLUSHDB", "FLUSHALL", "DEBUG", "EVAL"]

# Commands that get a name generated once for this instance; the name is kept with the secrets. [restarts
# Redis]
# redis_renamed_commands = ["CONFIG", "SHUTDOWN"]

# Where the machine that deploys keeps passwords. file: plain files that only you can read; sops: files that
# SOPS encrypts, fit to be committed; command: whatever redis_secrets_command reaches, such as Vault. [no
# restart]
# redis_secrets_source = "file"

# With source file or sops: directory on the machine that deploys, with one file for each host and instance.
# [no restart]
# redis_secrets_dir = "secrets"

# With source command: a program and its first arguments. It is called with 'get' or 'put', the host and the
# document's name, see docs/secrets.md. [no restart]
# redis_secrets_command = []

# -- Network

# Port published on the host. [restarts Redis]
# redis_port = 6379

# Addresses of the host on which the port is published. () publishes nothing: only containers on the network
# <redis_name>_backend reach Redis. A published port bypasses ufw. [restarts Redis]
# redis_bind = ["127.0.0.1"]

# Networks that reach the published port from outside; all others are dropped before Docker sees them. ():
# whoever reaches an address of redis_bind, which may then not be 0.0.0.0 or ::. [applied live]
# redis_allow_from = []

# Listen on <redis_root>/socket/redis.sock as well, for applications on the host itself. [restarts Redis]
# redis_unix_socket = False

# Group on the host, by number, whose members may use the socket. [restarts Redis]
# redis_unix_socket_gid = 999

# -- TLS

# required: redis_port speaks TLS (1.2 and 1.3) and nothing else does. both: TLS on redis_tls_port, plain on
# redis_port, while clients move. [restarts Redis]
# redis_tls = "off"

# With 'both': the port of TLS. [restarts Redis]
# redis_tls_port = 6380

# ca: a CA of your own, kept with the secrets, issues certificates, and a deploy renews them. files: you give
# the three files below. [applied live]
# redis_tls_source = "ca"

# With source files: the certificate and what leads from it to the CA (PEM), on the machine that deploys.
# [applied live]
# redis_tls_cert = "tls/redis-1.crt"

# ... its key, without a passphrase. [applied live]
# redis_tls_key = "tls/redis-1.key"

# ... and the CA (one or more), by which clients know the server, and Redis its clients. [applied live]
# redis_tls_ca = "tls/ca.crt"

# Names and IP addresses by which clients reach Redis, beside the host's name in the inventory and redis_bind.
# With source files: those that the certificate must have. [applied live]
# redis_tls_names = []

# With source ca: days that a certificate is valid. In their last third a deploy replaces it. [applied live]
# redis_tls_days = 365

# Whether clients show a certificate of the CA too: no, if they have one, or always. They log in all the same.
# [applied live]
# redis_tls_auth_clients = "no"

# -- Container limits

# Memory limit. Default: 1.5 x redis_maxmemory, which leaves room for forks, buffers and fragmentation
# (measured, see docs/sizing.md). [applied live]
# redis_container_memory = "1536M"

# Memory the kernel tries to leave to Redis when the host runs short. [applied live]
# redis_container_memory_reservation = "512M"

# CPU limit, in cores. [applied live]
# redis_container_cpus = 1.0

# CPU share kept under contention, in cores. Docker has no hard reservation: it becomes a weight (1.0 is
# 1024). [applied live]
# redis_container_cpu_reservation = 0.5

# Processes and threads: Redis's own, a saving child and health checks. [applied live]
# redis_container_pids = 128

# Open files. Default: redis_maxclients + 1024 (Redis needs 32 more than clients; the rest is files and
# forks). [restarts Redis]
# redis_container_nofile = 11024

# Seconds that a stopping Redis has to save before it is killed. Default: 30 + 1 for each 50 MiB of
# redis_maxmemory (a slow cloud volume writes 50 MiB/s). [restarts Redis]
# redis_stop_grace_period = 51

# Docker's restart policy. [applied live]
# redis_restart = "unless-stopped"

# -- Health check

# Seconds between checks. [restarts Redis]
# redis_health_interval = 30

# Seconds after which a check has failed. [restarts Redis]
# redis_health_timeout = 10

# Failed checks in a row that make Redis unhealthy. [restarts Redis]
# redis_health_retries = 5

# Seconds after a start in which failures do not count. [restarts Redis]
# redis_health_start_period = 10

# -- Logs

# How much Redis logs. [applied live]
# redis_loglevel = "notice"

# Redis's log file is rotated daily, and at this size. [no restart]
# redis_logfile_max_size = "10M"

# Rotated log files kept. [no restart]
# redis_logfile_rotations = 14

# Size of a file of the container's own output (json-file). [restarts Redis]
# redis_container_log_max_size = "10M"

# Files of it kept. [restarts Redis]
# redis_container_log_max_file = 3

# Commands slower than this go to the slow log (microseconds; -1: none, 0: all). [applied live]
# redis_slowlog_log_slower_than = 10000

# Entries of the slow log. [applied live]
# redis_slowlog_max_len = 256

# Events slower than this are kept by the latency monitor (milliseconds; 0: off). [applied live]
# redis_latency_monitor_threshold = 100

# -- Application

# Compose services of your own, as in a Compose file; they join Redis's network and wait until it is healthy.
# [no restart]
# redis_app_services = {}

# -- Host

# Set the host's kernel up for Redis, now and at every boot: memory overcommit, huge pages, swappiness, the
# ceiling of backlogs. False leaves it alone, as on a host that is a container: its kernel is not its own. [no
# restart]
# redis_host_tuning = True

# Where the container engine comes from on a host that has none. distribution: docker.io and Compose v2 of the
# system; docker: Docker's own apt repository; none: refuse. auto: distribution, or docker where the system
# has no Compose v2 (Debian 12). [no restart]
# redis_docker_source = "auto"

# Deploy to a system that is not in the list of supported ones. [no restart]
# redis_allow_unsupported_system = False

# -- Further directives

# Further redis.conf directives that have no setting of their own here. [restarts Redis]
# redis_extra_config = {}
