"""Every file and directory that a deploy writes to a host.

The list lets one command inspect them all.
"""

from redoubt import backup_units, compose, host_files, kernel_tuning, network_filter, recovery_units
from redoubt.filesystem import AbsentPath, DesiredDirectory, DesiredFile
from redoubt.instance import Instance


def of(instance: Instance) -> list[DesiredDirectory | DesiredFile | AbsentPath]:
    """Return the desired files and directories.

    The tasks write them. A path that is missing here costs a command.
    """
    settings, identity = instance.settings, instance.identity
    certificates: list[DesiredDirectory | DesiredFile] = []
    if identity:
        certificates += host_files.certificate_files(settings, identity)
        certificates += host_files.certificate_config(settings, identity)
    return [
        *(kernel_tuning.files() if settings.redis_host_tuning else []),
        *host_files.root(settings),
        *host_files.directories(settings),
        *host_files.redisctl_program(settings),
        *recovery_units.files(settings),
        instance.acl,
        *host_files.secret_files(settings, instance.secrets),
        *certificates,
        *host_files.config_files(settings),
        host_files.activedefrag_file(settings),
        *host_files.log_rotation(settings),
        *network_filter.files(settings),
        compose.compose_file(settings, selinux=instance.facts.selinux),
        *(backup_units.files(settings) if settings.redis_backup_schedule else []),
        host_files.redisctl_config(settings),
        host_files.deployed_settings(settings),
    ]
