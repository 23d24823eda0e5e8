"""Names and paths of an instance on its host. Both programs take them from here."""

from pathlib import Path

from redisctl.__main__ import modules_dir

# Below the instance's root.
CONFIG = "config"
BACKUPS = "backups"
LOGS = "logs"
SECRETS = "secrets"
SERVER_SECRETS = "secrets/server"
REPOSITORY_SECRETS = "secrets/repository"
SOCKET = "socket"
# Root's directory, mode 0700, on the file system of the data. The container cannot reach it.
DATA = "data"
# Mounted into the container as /data: the only part of DATA that uid 999 owns.
LIVE = "data/live"
# Data that a restore, an import, a repair or a rollback replaced, one directory each.
PREVIOUS = "data/previous"
# New data of a transaction, before it becomes the live data.
STAGING = "data/staging"
# The data of the version that an upgrade replaces, until the new version is healthy.
ROLLBACK_DATA = "data/rollback"
# The journal of the running or interrupted transaction.
JOURNAL = "data/journal.json"
# An import that is running: its state, the password of the source, and the copy's data.
IMPORT = "import"
# The files that the running Redis was created from, while a deploy replaces them.
ROLLBACK_CONFIG = "rollback"
# Where it is copied to and removed from; it has secrets.
ROLLBACK_PARTIAL = "rollback.partial"
COMPOSE_FILE = "compose.yml"
# What a running container was created with that has changed since. Compose would recreate the container otherwise.
COMPOSE_OVERRIDE = "compose.created.yml"
PROGRAM = "redisctl"
PROGRAM_CONFIG = "redisctl.json"
# The settings of the last deploy that finished.
DEPLOYED_SETTINGS = "settings.json"
ACTIVEDEFRAG_FILE = "config/activedefrag.conf"

# What a removal leaves on the host unless it is asked to remove the data.
KEPT = (DATA, BACKUPS)
_OWN = (
    *(COMPOSE_FILE, COMPOSE_OVERRIDE, "network.nft", "ca.crt", ".incoming"),
    *(CONFIG, LOGS, SECRETS, SOCKET, ROLLBACK_CONFIG, ROLLBACK_PARTIAL),
    *(DEPLOYED_SETTINGS, PROGRAM_CONFIG, PROGRAM),
)

# The systemd units, without the name of the instance. Starts backups, and takes one.
BACKUP_TIMER, BACKUP_SERVICE = "backup.timer", "backup.service"
# Loads the instance's nftables table.
FIREWALL_SERVICE = "network.service"
# Starts the recovery while a journal exists, and finishes a transaction whose process has ended.
RECOVER_PATH, RECOVER_SERVICE = "recover.path", "recover.service"
# Restores data files at boot, before Docker starts.
RECOVER_FILES_SERVICE = "recover-files.service"
UNITS = (BACKUP_TIMER, BACKUP_SERVICE, FIREWALL_SERVICE, RECOVER_PATH, RECOVER_SERVICE, RECOVER_FILES_SERVICE)

SYSTEMD_UNITS = "/etc/systemd/system"
HISTORY_DIR = "/var/log/redoubt"


def lock_file(name: str) -> str:
    """Return the lock file of an instance. It is in memory, so a reboot releases it."""
    return f"/run/redoubt-{name}.lock"


def history_file(name: str) -> str:
    """Return the file with the records of deploys. A removal keeps it."""
    return f"{HISTORY_DIR}/{name}.jsonl"


def unit(name: str, part: str) -> str:
    """Return the systemd unit of an instance for one of UNITS."""
    return f"{name}-{part}"


def units(name: str) -> tuple[str, ...]:
    """Return all systemd units that an instance may have.

    A unit that starts another one comes first.
    """
    return tuple(unit(name, part) for part in UNITS)


def removable(name: str, root: Path, *, data: bool) -> list[Path]:
    """Return everything that belongs to an instance, in the order of removal.

    ``data`` includes its data. The program comes last: as long as it is there, an interrupted removal can be run again.
    """
    directories = ("multi-user.target.wants", "timers.target.wants")
    system = Path(SYSTEMD_UNITS)
    return [
        *(system / directory / unit for directory in directories for unit in units(name)),
        *(system / unit for unit in units(name)),
        Path(f"/etc/logrotate.d/{name}"),
        *(root / part for part in ((*KEPT, *_OWN) if data else _OWN)),
        Path(modules_dir(str(root))),
        Path(command(name)),
    ]


def command(name: str) -> str:
    """Return the command by which root operates an instance.

    It ends in the name of the instance, unless that is redis.
    """
    return "/usr/local/sbin/redisctl" if name == "redis" else f"/usr/local/sbin/redisctl-{name}"
