"""The systemd units that finish an interrupted restore, upgrade or start.

They run at boot, or when the process of the operation dies. One more looks at what Redis loaded, after each start.
"""

from redisctl import paths
from redoubt.filesystem import DesiredFile
from redoubt.host_files import redisctl_path, template
from redoubt.settings.model import Settings


def files(settings: Settings) -> list[DesiredFile]:
    """Return the units."""
    name = settings.redis_name
    values = {
        "s": settings,
        "program": redisctl_path(settings),
        "journal": paths.JOURNAL,
        "data": paths.DATA,
        "files_unit": paths.unit(name, paths.RECOVER_FILES_SERVICE),
        "network_filter": paths.unit(name, paths.NETWORK_SERVICE),
    }
    units = {
        "recover.path.j2": paths.unit(name, paths.RECOVER_PATH),
        "recover.service.j2": paths.unit(name, paths.RECOVER_SERVICE),
        "recover-files.service.j2": paths.unit(name, paths.RECOVER_FILES_SERVICE),
        "loaded.service.j2": paths.unit(name, paths.LOADED_SERVICE),
    }
    return [
        DesiredFile(f"{paths.SYSTEMD_UNITS}/{unit}", template(source, **values), mode=0o644, uid=0, gid=0)
        for source, unit in units.items()
    ]


def enabled(settings: Settings) -> tuple[str, str]:
    """Return the units that a boot starts. The first one also runs between boots."""
    return paths.unit(settings.redis_name, paths.RECOVER_PATH), paths.unit(
        settings.redis_name, paths.RECOVER_FILES_SERVICE
    )
