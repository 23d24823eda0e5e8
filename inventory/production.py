"""Your own hosts: pyinfra inventory/production.py deploy.py

A host is a name that SSH can reach, alone or with data of its own:

    redis = [
        "redis-1.example.com",
        ("redis-2.example.com", {"ssh_user": "ops", "_sudo": True, "redis_maxmemory": "4gb"}),
        "@local",  # this very machine
    ]

- How to connect: ssh_user, ssh_port, ssh_key, ssh_hostname, ssh_known_hosts_file; ~/.ssh/config is read as well.
- A user who is not root needs sudo: "_sudo": True.
- What to deploy: every setting in group_data/all.py may stand here too; the nearest to the host wins
  (--data on the command line, then the host, then its groups, then all.py).
- Any list in this file is a group; a file group_data/<group>.py holds settings for a group alone.
- On the first deploy a host's key is added to your known_hosts. "ssh_strict_host_key_checking": "yes" refuses
  hosts that are not in it yet.
"""

redis: list[str | tuple[str, dict[str, object]]] = []
