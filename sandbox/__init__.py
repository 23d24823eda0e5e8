"""Disposable hosts on one machine, and everything that they need.

`python -m sandbox up` starts a host to deploy to, also on a bare Debian machine, and `python -m sandbox clean` removes
everything again. Nothing is installed: missing programs are unpacked under `.sandbox/`, which holds all state.

The modules, in the order in which they are used:

    tools.py         Debian packages, unpacked instead of installed
    engine.py        Docker: the running one, or one of the sandbox
    network.py       the network on which hosts reach each other
    base_image.py    the image on which all others are built
    image_build.py   the images of hosts, and the archive of the Redis image
    images.py        the archives that were built
    hosts.py         hosts: the interface for tests and for the inventory
    container.py     hosts as system containers
    vm.py            hosts as virtual machines
    disk.py          the disks of virtual machines, and QEMU
    ssh_identity.py  the keys and the machine-id of a host
    ssh.py           keys, known hosts, the generated ssh_config
    cleanup.py       removes everything
"""
