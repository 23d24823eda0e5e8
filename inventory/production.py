"""Your own hosts: pyinfra inventory/production.py deploy.py

A host is a name that SSH can reach, with or without data of its own:

    redis = [
        "redis-1.example.com",
        ("redis-2.example.com", {"ssh_user": "ops", "_sudo": True, "redis_maxmemory": "4gb"}),
        "@local",  # this machine
    ]

- Connection: ssh_user, ssh_port, ssh_key, ssh_hostname, ssh_known_hosts_file. pyinfra also reads ~/.ssh/config.
- A user other than root needs sudo: "_sudo": True.
- Settings: a host can have every setting of group_data/all.py. The most specific value applies: --data on the command
  line, then the host, then its groups, then all.py.
- Each list in this file is a group. The file group_data/<group>.py has the settings of a group.
- The first deploy adds a host's key to your known_hosts. "ssh_strict_host_key_checking": "yes" refuses hosts that are
  not in it yet.
"""

redis: list[str | tuple[str, dict[str, object]]] = []
