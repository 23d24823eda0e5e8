"""Instance: the day-2 verbs that stop, start and remove it.

They are called from day2/ and also work if a deploy is refused.
"""

from gevent.lock import RLock
from gevent.pool import Pool
from pyinfra import host, inventory
from pyinfra.api import Host, deploy
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_host

from redoubt import host_checks, host_state, removal, secret_store
from redoubt.operations.common import instance_state
from redoubt.operations.instance import remove_instance, start_instance, stop_instance
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import Settings
from tasks import deploy_lock
from tasks.summary import print_at_end

_checked: dict[str, Settings] = {}
_lock = RLock()


@deploy("Stop")
def stop() -> None:
    """Stop the instance with its data on disk, and its backups.

    It stays stopped after a reboot.
    """
    stop_instance(name="Stop Redis, its services and its backups", settings=_settings())


@deploy("Start")
def start() -> None:
    """Start a stopped instance as it is, and wait until it is healthy."""
    start_instance(name="Start Redis, its services and its backups", settings=_settings())


@deploy("Remove")
def remove() -> None:
    """Remove the instance from its host.

    Its data and backups stay unless redis_remove_data confirms their removal.
    """
    settings = _settings()
    confirmation = str(host.data.get("redis_remove_data") or "")
    remove_instance(name="Remove the instance", settings=settings, confirmation=confirmation)
    present = instance_state(settings, sizes=True)
    if removal.removable(settings, present, data=True):
        store = secret_store.location(settings, host.name)
        needed = removal.kept(settings, present) and not confirmation
        reason = ": the data and the backups that were kept need them" if needed else ", and nothing needs them now"
        print_at_end(host.name, [f"its passwords stay in {store}{reason}"])


def _settings() -> Settings:
    """Return the settings of the current host.

    The first host locks all hosts, so that none changes if one cannot be changed.
    """
    with _lock:
        if not _checked:
            _check_all()
    return _checked[host.name]


def _check_all() -> None:
    hosts: dict[Host, Settings] = {}
    blockers: dict[Host, str] = {}
    for each in inventory.get_active_hosts():
        try:
            hosts[each] = load(each.data.dict())
        except SettingsError as error:
            blockers[each] = str(error)
    blockers = blockers or deploy_lock.hold(hosts)
    if not blockers:
        for each, blocker in Pool().imap_unordered(lambda item: _inspect(*item), list(hosts.items())):
            if blocker:
                blockers[each] = blocker
    if blockers:
        lines = [f"  {each.name}: {blocker}" for each, blocker in blockers.items()]
        raise PyinfraError("\n".join(["Nothing was changed on any host:", *lines]))
    _checked.update({each.name: settings for each, settings in hosts.items()})


def _inspect(each: Host, settings: Settings) -> tuple[Host, str]:
    """Inspect a host, and return why nothing can be changed there."""
    with ctx_host.use(each):
        facts = host_state.of(each).inspect(each, settings, sizes=True)
    if facts is None:
        return each, "the host did not answer as expected; see the lines above"
    if facts.uid != 0:
        return each, f"this runs as uid {facts.uid} on the host and needs root: set _sudo = True or use --sudo"
    return each, "\n    ".join(host_checks.check_root_owner(settings, facts))
