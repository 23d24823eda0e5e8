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
# Mounted into the container as /data: the only part of DATA that Redis owns.
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

# Names the instance to which the root belongs. A deploy writes it before anything else, and it stays with the data.
MARKER = ".redoubt"
# The instance's nftables table, in nft's language.
NETWORK_FILTER = "network.nft"

# The table in the container's network namespace, and the script of the watch.
CLIENT_LIMITS, NETWORK_WATCH_SCRIPT = "clients.nft", "network-watch.sh"

# What a removal leaves on the host unless it is asked to remove the data.
KEPT = (DATA, BACKUPS)
_OWN = (
    *(COMPOSE_FILE, COMPOSE_OVERRIDE, NETWORK_FILTER, CLIENT_LIMITS, NETWORK_WATCH_SCRIPT, "ca.crt", ".incoming"),
    *(CONFIG, LOGS, SECRETS, SOCKET, ROLLBACK_CONFIG, ROLLBACK_PARTIAL),
    *(DEPLOYED_SETTINGS, PROGRAM_CONFIG, PROGRAM),
)

# The systemd units, without the name of the instance. Starts backups, and takes one.
BACKUP_TIMER, BACKUP_SERVICE = "backup.timer", "backup.service"
# Starts a rotation of redis.log every hour, and rotates it.
LOG_TIMER, LOG_SERVICE = "logs.timer", "logs.service"
# Loads the instance's nftables table.
NETWORK_SERVICE = "network.service"
# Looks every few seconds whether the table is loaded, and loads it again.
NETWORK_WATCH_TIMER, NETWORK_WATCH_SERVICE = "network-watch.timer", "network-watch.service"
# Has the watch look as soon as Docker starts a container.
NETWORK_WATCH_PATH = "network-watch.path"
# Starts the recovery while a journal exists, and finishes a transaction whose process has ended.
RECOVER_PATH, RECOVER_SERVICE = "recover.path", "recover.service"
# Undoes what the data of a Redis that has started changed in the server.
LOADED_SERVICE = "loaded.service"
# Restores data files at boot, before Docker starts.
RECOVER_FILES_SERVICE = "recover-files.service"
UNITS = (
    *(BACKUP_TIMER, BACKUP_SERVICE, LOG_TIMER, LOG_SERVICE),
    *(NETWORK_WATCH_TIMER, NETWORK_WATCH_PATH, NETWORK_WATCH_SERVICE, NETWORK_SERVICE),
    *(RECOVER_PATH, RECOVER_SERVICE, RECOVER_FILES_SERVICE, LOADED_SERVICE),
)
# Units whose start may change the rules of the kernel: the watch then looks at once.
NETWORK_EVENTS = ("docker.service", "firewalld.service", "nftables.service", "ufw.service")

SYSTEMD_UNITS = "/etc/systemd/system"
HISTORY_DIR = "/var/log/redoubt"


def lock_file(name: str) -> str:
    """Return the lock file of an instance. It is in memory, so a reboot releases it."""
    return f"/run/redoubt-{name}.lock"


def history_file(name: str) -> str:
    """Return the file with the records of deploys. A removal keeps it."""
    return f"{HISTORY_DIR}/{name}.jsonl"


def filter_table(name: str) -> str:
    """Return the name of the instance's nftables table.

    nftables allows no hyphens in names without quotes.
    """
    return f"redoubt_{name.replace('-', '_')}"


def filter_snapshot(name: str) -> str:
    """Return the file with the table as the kernel listed it when it was loaded."""
    return f"/run/redoubt-{name}.nft"


def start_record(name: str) -> str:
    """Return the record of the last start whose data was compared.

    Its first line is the start in Docker's notation; then follow messages.
    """
    return f"/run/redoubt-{name}-start"


def client_limits_snapshot(name: str) -> str:
    """Return the file with the container's table as nft lists it."""
    return f"/run/redoubt-{name}-clients.nft"


def unit(name: str, part: str) -> str:
    """Return the systemd unit of an instance for one of UNITS."""
    return f"{name}-{part}"


def units(name: str) -> tuple[str, ...]:
    """Return all systemd units that an instance may have.

    A unit that starts another one comes first.
    """
    return tuple(unit(name, part) for part in UNITS)


def logrotate_file(name: str) -> str:
    """Return the file by which logrotate rotates the log of an instance."""
    return f"/etc/logrotate.d/{name}"


def outside_root(name: str) -> tuple[str, ...]:
    """Return the files that a deploy writes outside the root.

    They have the name of the instance, and their first line says that Redoubt has written them. In the command, the
    program's interpreter comes first.
    """
    return (logrotate_file(name), *(f"{SYSTEMD_UNITS}/{unit}" for unit in units(name)), command(name))


def removable(name: str, root: Path, *, data: bool) -> list[Path]:
    """Return everything that belongs to an instance, in the order of removal.

    ``data`` includes its data. The program comes last: as long as it is there, an interrupted removal can be run again.
    """
    targets = ("multi-user.target", "timers.target", *NETWORK_EVENTS)
    system = Path(SYSTEMD_UNITS)
    return [
        *(system / f"{target}.wants" / unit for target in targets for unit in units(name)),
        *(Path(file) for file in outside_root(name) if file != command(name)),
        Path(filter_snapshot(name)),
        Path(client_limits_snapshot(name)),
        Path(start_record(name)),
        *(root / part for part in ((*KEPT, *_OWN, MARKER) if data else _OWN)),
        Path(modules_dir(str(root))),
        Path(command(name)),
    ]


def command(name: str) -> str:
    """Return the command by which root operates an instance.

    It ends in the name of the instance, unless that is redis.
    """
    return "/usr/local/sbin/redisctl" if name == "redis" else f"/usr/local/sbin/redisctl-{name}"
