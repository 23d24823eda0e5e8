"""How the tests of the security report remove the protections of its controls.

A round does several harms at once. All rounds together fail every control, and each of its tests but those in
``NEVER_FAILED``. To add a control, add a harm to the cheapest round: that of harms that a running Redis takes, that for
which it restarts, or that for which the container is recreated.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Harm:
    """A way to remove a protection, and the tests that must fail because of it.

    ``failures`` are these tests by control. ``shell`` runs on the host. ``compose`` is merged into the service of
    Redis, which is then recreated. ``redis`` are commands of the admin, where ``{config}`` is the new name of CONFIG.
    ``certificate`` is the name in another certificate for Redis. ``last`` is a shell command that runs last. ``plugin``
    is a pytest plugin for the report, in which $STORE is the path of the secret store. ``cure`` undoes what no deploy
    repairs.
    """

    name: str
    failures: dict[str, set[str]]
    redis: tuple[str, ...] = ()
    certificate: str = ""
    shell: str = ""
    compose: str = ""
    last: str = ""
    plugin: str = ""
    cure: str = "true"


ENABLE_COMMANDS = "cd /srv/redis && sed -i '/ \"\"$/d' secrets/server/commands.conf"

# Harms that a running Redis takes.
LIVE_HARMS = (
    Harm(
        "a redisctl that follows links",
        # Of the same length, because it is inside an archive.
        shell="LC_ALL=C sed -i 's/^_UNTRUSTED = os.O_NOFOLLOW |/_UNTRUSTED = os.O_CLOEXEC  |/' /srv/redis/redisctl",
        failures={"container isolation": {"test_redisctl_follows_no_link_of_redis"}},
    ),
    Harm(
        "users without passwords",
        redis=(
            "ACL SETUSER sessions nopass",
            "ACL SETUSER queues off",
            "ACL SETUSER eve on nopass ~* +@all",
            # With protected mode Redis would refuse all connections once the default user needs no password.
            "{config} SET protected-mode no",
            "ACL SETUSER default on nopass -get",
        ),
        failures={
            "authentication": {
                "test_users_are_those_of_the_settings",
                "test_every_user_needs_a_password",
                "test_only_passwords_of_the_store_are_valid",
                "test_strangers_are_refused",
                "test_wrong_passwords_are_refused",
                "test_password_without_user_name_is_refused",
                "test_default_user_logs_in_only_if_enabled",
                "test_every_user_logs_in[queues]",
                "test_restart_keeps_the_current_passwords",
                "test_redis_runs_as_the_settings_say",
            }
        },
    ),
    Harm(
        "all rights for the sessions user, the keys of others for another one, and too few for the others",
        redis=("ACL SETUSER sessions ~* &* +@all", "ACL SETUSER shop ~*", "ACL SETUSER queues -evalsha"),
        failures={
            "least privilege": {
                "test_user_may_do_nothing_else",
                "test_users_may_call_exactly_their_reviewed_commands",
                "test_user_may_do_what_its_clients_need[queues]",
                "test_configured_users_reach_only_their_own_keys",
                "test_default_user_has_the_rights_of_applications",
                "test_real_client_is_refused",
                "test_new_names_do_not_help_other_users",
            }
        },
    ),
    Harm(
        "the container's address open to other hosts: loaded, watched, and so in the file that health compares with",
        shell="sed -i 's/^\tchain entering {$/&\\n\t\taccept/' /srv/redis/network.nft && "
        "systemctl reload redis-network && systemctl start redis-network-watch.service && "
        "redisctl health --json | grep -q 'loaded and watched'",
        failures={"network": {"test_loaded_rules_are_exactly_those_of_the_settings[host]"}},
    ),
    Harm(
        "clients without limits, a small container, no reserve, and no rights over scripts",
        redis=(
            "{config} SET maxmemory-clients 0 proto-max-bulk-len 512mb client-query-buffer-limit 1gb lua-time-limit 0 "
            'maxclients 10000 client-output-buffer-limit "normal 0 0 0 pubsub 0 0 0"',
            "ACL SETUSER admin -script|kill -function|kill",
        ),
        shell="docker update --memory 1400m --memory-swap 1400m redis && "
        "systemctl stop redis-network-watch.timer redis-network-watch.path && "
        "nsenter --net --target $(docker inspect --format '{{.State.Pid}}' redis) nft flush ruleset",
        failures={
            "availability": {
                "test_requests_and_values_have_a_limit",
                "test_unread_replies_have_a_limit",
                "test_all_clients_together_have_a_limit",
                "test_container_has_memory_for_data_and_clients",
                "test_connections_are_reserved",
                "test_connections_have_limits_in_front_of_redis",
                "test_admin_may_stop_scripts_and_clients",
                "test_scripts_have_a_time_limit",
            },
            "container isolation": {"test_memory_is_limited"},
            "network": {
                "test_network_filter_is_loaded_at_boot_and_watched",
                "test_loaded_rules_are_exactly_those_of_the_settings[container]",
            },
        },
    ),
    Harm(
        "another certificate for servers and clients, old TLS versions, CBC, and a port without TLS",
        certificate="another.invalid",
        redis=(
            # Debian's OpenSSL refuses old versions at its default security level.
            "{config} SET tls-ciphers ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-GCM-SHA384:@SECLEVEL=0 "
            'tls-auth-clients optional tls-protocols "TLSv1.1 TLSv1.2"',
            "{config} SET port 6390",
        ),
        failures={
            "TLS": {
                "test_server_has_the_configured_certificate",
                "test_other_names_and_cas_are_refused",
                "test_old_tls_versions_are_refused",
                "test_each_cipher_of_tls_1_2_is_accepted",
                "test_all_other_ciphers_of_tls_1_2_are_refused",
                "test_ciphers_of_tls_1_3_are_those_configured",
                "test_certificates_are_for_one_purpose",
                "test_other_hosts_reach_only_the_tls_port",
                "test_client_certificate_is_required_if_configured",
            }
        },
        # Closes the port without a restart by the deploy.
        cure="docker restart redis",
    ),
    Harm(
        "another image under the image's name",
        last="image=$(docker inspect --format '{{.Config.Image}}' redis) && "
        "docker commit --change 'LABEL other=1' redis $image",
        failures={"version": {"test_redis_runs_the_image_that_the_settings_name", "test_image_is_the_pinned_one"}},
    ),
    Harm(
        "a failed check whose message contains all secrets",
        plugin="import os, pathlib\n"
        "def pytest_runtest_call(item):\n"
        "    if 'passwords_cannot' in item.name: raise AssertionError(pathlib.Path(os.environ['STORE']).read_text())\n",
        failures={"authentication": {"test_passwords_cannot_be_guessed"}},
    ),
    Harm(
        "a secret store in a directory that others can write",
        plugin="import os, pathlib\n"
        "store = pathlib.Path(os.environ['STORE']).parent\n"
        "def pytest_collection_finish(): store.chmod(0o777)\n"
        "def pytest_unconfigure(): store.chmod(0o700)\n",
        failures={"file permissions": {"test_secret_store_belongs_to_its_owner"}},
    ),
)
# Harms for which Redis restarts.
RESTART_HARMS = (
    Harm(
        "commands under their own names, code in the server, and an admin who may run it",
        shell=f"{ENABLE_COMMANDS} && echo 'enable-debug-command yes' >>config/redis.conf",
        redis=(
            "ACL SETUSER admin +@all",
            "FUNCTION LOAD \"#!lua name=left\\nredis.register_function('left', function() return 1 end)\"",
        ),
        failures={
            "dangerous commands": {
                "test_renamed_and_disabled_commands_are_unknown",
                "test_redis_runs_as_the_settings_say",
                "test_no_user_may_call",
                "test_server_has_no_code_but_the_settings_modules",
            },
            "least privilege": {"test_user_may_do_nothing_else"},
        },
        # The AOF keeps the function, and no deploy changes data.
        cure="{ cat /srv/redis/secrets/admin | sed 's/^/AUTH admin /'; echo; echo FUNCTION FLUSH; } | "
        "docker exec -i redis redis-cli -s /run/redis/redis.sock",
    ),
    Harm(
        "published to everybody, on networks that lead out, with name servers, next to another container and Docker's "
        "API",
        shell="cd /srv/redis && docker compose down && "
        'sed -i \'s/host_ip: "127.0.0.1"/host_ip: "0.0.0.0"/; s/internal: true/internal: false/; '
        's/enable_ip_masquerade: "false"/enable_ip_masquerade: "true"/; /^    dns: /d\' compose.yml && '
        "docker compose up --detach --wait && docker network connect bridge redis && "
        "docker run --detach --name by-hand --network redis_edge --entrypoint sleep "
        "$(docker inspect --format '{{.Image}}' redis) 600 && "
        "cp $(command -v python3) /root/dockerd && "
        "systemd-run --quiet --unit by-hand-api /root/dockerd -m http.server --bind 127.0.0.1 2375 && sleep 1",
        failures={
            "network": {
                "test_port_listens_only_where_the_settings_say",
                "test_container_publishes_nothing_else",
                "test_only_configured_addresses_accept_connections",
                "test_redis_is_on_its_own_networks_alone",
                "test_backend_network_is_internal",
                "test_no_rule_masquerades_redis",
                "test_nothing_outside_answers_redis",
                "test_redis_has_no_name_server",
                "test_only_redis_is_on_the_edge_network",
                "test_docker_does_not_listen_on_the_network",
            }
        },
        cure="docker rm --force by-hand; systemctl stop by-hand-api; rm -f /root/dockerd",
    ),
    Harm(
        "no network filter, and nothing that watches it",
        shell="systemctl disable --now redis-network-watch.timer redis-network-watch.path && "
        "systemctl stop redis-network-watch.service && nft delete table inet redoubt_redis",
        failures={
            "network": {
                "test_network_filter_is_loaded_at_boot_and_watched",
                "test_network_filter_drops_what_is_not_allowed",
                "test_network_filter_admits_only_redis_allow_from",
                "test_loaded_rules_are_exactly_those_of_the_settings[host]",
                # It is also published to everybody in this round.
                "test_redis_is_reachable_from_outside_only_if_set",
                "test_nothing_outside_answers_redis",
            }
        },
    ),
)
# Harms for which the container is recreated, and those to files.
CONTAINER_HARMS = (
    Harm(
        "files open to others",
        # The account and its group have the numbers of Redis.
        shell="cd /srv/redis && useradd --uid 999 --gid 999 --no-create-home by-hand && "
        "chmod 755 config data && chmod 644 config/redis.conf && chmod 750 logs && chmod 640 logs/redis.log && "
        "install -d -o 999 -m 755 data/previous && chmod 755 data/live && "
        "chmod 644 data/live/appendonlydir/*.manifest && chmod 777 backups && chown 1000 logs/redis.log && "
        "chmod 440 secrets/admin && chmod 755 secrets secrets/server && chmod 444 secrets/server/health && "
        "chmod 440 config/tls/*.key && "
        "install -d socket && python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('socket/redis.sock')\" && "
        "ln -s /etc/shadow backups/shadow && "
        "chmod 666 /etc/logrotate.d/redis /etc/systemd/system/redis-recover.service && chmod 777 /srv",
        failures={
            "file permissions": {
                "test_path_has_its_kind_owner_and_mode[data-d-root-448]",
                "test_path_has_its_kind_owner_and_mode[data/live-d-redis-448]",
                "test_path_has_its_kind_owner_and_mode[config/redis.conf-f-redis-384]",
                "test_only_listed_paths_have_rights_for_others",
                "test_redis_creates_private_files",
                "test_members_of_redis_group_read_no_more",
                "test_no_account_has_the_uid_of_redis",
                "test_redis_owns_its_data_and_logs",
                "test_root_owns_the_data_next_to_live",
                "test_backups_are_private_and_read_only",
                "test_no_other_user_can_write_below_the_root",
                "test_other_users_can_read_only_public_files",
                "test_each_user_has_its_own_secret_file",
                "test_directories_above_the_root_belong_to_root",
                "test_files_that_root_executes_belong_to_root",
                "test_files_grant_no_more_than_their_mode",
                "test_only_redis_can_read_the_secrets[other-False]",
            },
            "TLS": {"test_private_keys_are_readable_by_redis_and_root"},
            "network": {"test_socket_exists_only_if_configured", "test_only_the_socket_group_can_use_the_socket"},
        },
        cure="userdel by-hand; rm -r /srv/redis/socket; chmod 755 /srv; rm /srv/redis/backups/shadow; "
        "rmdir /srv/redis/data/previous; chown 999 /srv/redis/logs/redis.log; "
        "chmod 600 /srv/redis/logs/redis.log /srv/redis/data/live/appendonlydir/*.manifest",
    ),
    Harm(
        "a password in the environment, in arguments and in files",
        shell="printf 'REDIS_PASSWORD=%s\\n' \"$(cat /srv/redis/secrets/sessions)\" | "
        "tee /run/by-hand.env /etc/by-hand.env >/tmp/by-hand.env && "
        "cp /tmp/by-hand.env /srv/redis/by-hand.env && chmod 644 /srv/redis/by-hand.env && "
        "install -o 999 -g 999 -m 400 /srv/redis/secrets/admin /srv/redis/secrets/server/by-hand && "
        'systemd-run --quiet --unit by-hand sh -c \'exec sh -c "sleep 600; :" "$(cat /srv/redis/secrets/sessions)"\'',
        compose="""
            env_file: [/run/by-hand.env]
        """,
        failures={
            "secrets exposure": {
                "test_source_shows_no_secret[docker inspect]",
                "test_source_shows_no_secret[docker inspect of all containers]",
                "test_source_shows_no_secret[files for all to read]",
                "test_source_shows_no_secret[settings of the host]",
                "test_source_shows_no_secret[temporary files]",
                "test_no_process_shows_a_secret",
                "test_container_has_only_the_images_variables",
                "test_container_has_only_the_secrets_it_uses",
            },
            "file permissions": {"test_other_users_can_read_only_public_files"},
        },
        cure="systemctl stop by-hand; rm -f /srv/redis/secrets/server/by-hand; "
        "rm -f /run/by-hand.env /etc/by-hand.env /tmp/by-hand.env /srv/redis/by-hand.env",
    ),
    Harm(
        "root in a privileged container without limits and umask, with Docker's socket, root's data and the host's "
        "processes",
        # Redis does not own what root writes there.
        shell="touch /srv/redis/data/live/by-hand",
        compose="""
            privileged: true
            user: "0:0"
            entrypoint: [redis-server, /etc/redis/redis.conf]
            ulimits: {core: -1, nofile: 20000}
            group_add: ["27"]
            read_only: false
            pid: host
            ipc: host
            uts: host
            device_cgroup_rules: ["c 1:3 r"]
            userns_mode: host
            labels: {redoubt.package: "redis-server=5:7.0.0-1"}
            security_opt: [seccomp=unconfined]
            volumes:
              - /var/run/docker.sock:/var/run/docker.sock
              - {type: bind, source: /etc, target: /host, read_only: true, bind: {propagation: rslave}}
              - /srv/redis/data:/everything
            memswap_limit: -1
            deploy: {resources: {limits: {cpus: "2", memory: 4g, pids: 100000}}}
        """,
        failures={
            "container isolation": {
                "test_memory_is_limited",
                "test_redis_never_swaps",
                "test_cpus_are_limited",
                "test_processes_are_limited",
                "test_no_process_has_a_capability",
                "test_processes_run_without_privileges[Uid-{uid}\\t{uid}\\t{uid}\\t{uid}]",
                "test_processes_run_without_privileges[Core-1 1]",
                "test_processes_are_in_no_other_groups",
                "test_no_namespace_is_shared_with_the_host",
                "test_docker_adds_no_rights",
                "test_only_data_and_logs_are_writable",
                "test_writable_memory_is_what_docker_needs",
                "test_mount_is_read_only",
                "test_write_to_read_only_mount_fails",
                "test_redis_cannot_reach_docker",
                "test_only_directories_of_the_instance_are_mounted",
                "test_no_mount_contains_working_data[data/previous]",
                "test_no_mount_contains_working_data[data/staging]",
                "test_no_mount_contains_working_data[data/rollback]",
                "test_no_mount_contains_working_data[data/journal.json]",
                "test_kernel_shows_no_working_data_in_the_container",
                "test_the_kernels_settings_are_read_only",
                "test_the_kernels_secrets_are_covered",
                "test_docker_options_grant_nothing_else[PidMode-]",
                "test_docker_options_grant_nothing_else[IpcMode-private]",
                "test_docker_options_grant_nothing_else[UTSMode-]",
                "test_docker_options_grant_nothing_else[DeviceCgroupRules-None]",
                "test_docker_options_grant_nothing_else[GroupAdd-None]",
                "test_docker_options_grant_nothing_else[UsernsMode-]",
                "test_no_mount_propagates_to_the_host",
                "test_open_files_suffice_for_all_clients",
                "test_no_filter_is_turned_off",
            },
            "file permissions": {"test_redis_owns_its_data_and_logs", "test_redis_creates_files_for_itself_alone"},
            "version": {"test_label_names_the_running_package", "test_running_version_has_all_security_fixes"},
        },
        # SIGKILL: a Redis that stops cleanly would write more files as root.
        cure="docker kill redis; rm /srv/redis/data/live/by-hand; "
        "chown -R 999:999 /srv/redis/data/live /srv/redis/logs; "
        "find /srv/redis/data/live /srv/redis/logs -type f -exec chmod 600 {} +",
    ),
)
ROUNDS = {"live": LIVE_HARMS, "restart": RESTART_HARMS, "container": CONTAINER_HARMS}

# Tests of the report that no round fails, with the reason. Every other test of a control is in the rounds.
NEVER_FAILED = {
    "test_script_has_no_more_rights_than_its_user": "writes, so an auditor's report leaves it out",
    "test_subscriber_hears_only_its_own_channels": "writes, so an auditor's report leaves it out",
    "test_limits_survive_a_reload_of_systemd": "writes, so an auditor's report leaves it out",
    "test_apparmor_confines_redis": "containers have no AppArmor; tests/smoke runs it in a virtual machine",
    "test_selinux_confines_redis_if_docker_uses_it": "disposable hosts have no SELinux",
    "test_server_has_the_version_of_the_tag": "needs a second version of the server under the same tag",
    "test_tls_port_does_not_answer_without_tls": "no setting of Redis makes its TLS port answer without TLS",
    "test_certificate_is_valid_long_enough": "about the store of this machine, which a deploy renews",
    "test_each_password_belongs_to_one_user_of_one_host": "about the store of this machine, which generates passwords",
    "test_new_names_cannot_be_guessed": "about the store of this machine, which generates names",
    "test_renamed_commands_work_by_their_new_names": "shows that the new names work, so that the tests can use them",
    "test_redis_is_reachable_on_the_host": "shows that clients can connect at all",
    "test_search_finds_existing_secrets": "shows that the search for secrets works",
}
