"""Disposable hosts on one machine, and everything it takes to make them.

`python -m sandbox up` turns a bare Debian machine into one that runs a host to
deploy to; `python -m sandbox clean` turns it back. Nothing is installed on the
machine: what is missing is unpacked under `.sandbox/`, where all state lives.

A reader finds the parts in the order in which they are used:

    tools.py         Debian packages, unpacked instead of installed
    engine.py        the Docker engine: the one that answers, or one of our own
    network.py       the fleet network, on which hosts see each other
    base_image.py    the image that all others start from
    image_build.py   the hosts' images and the Redis archive
    images.py        what was built, for whoever uses it
    hosts.py         hosts: the interface for tests and for the inventory
    container.py     the kind of host that is a system container
    vm.py            the kind that is a virtual machine
    disk.py          its disk and its emulator
    ssh_identity.py  what makes a host this one
    ssh.py           keys, known hosts, the generated ssh_config
    cleanup.py       the way back
"""
