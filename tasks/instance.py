"""Removal: stopping, starting and removing an instance. Day-2 verbs, in day2/: they work where a deploy would not."""

from gevent.lock import RLock
from pyinfra import host, inventory
from pyinfra.api import Host, deploy
from pyinfra.api.exceptions import PyinfraError

from redoubt import secret_store
from redoubt.operations.instance import remove_instance, start_instance, stop_instance
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import Settings
from tasks import deploy_lock
from tasks.summary import at_the_end

_checked: dict[str, Settings] = {}
_lock = RLock()


@deploy("Stop")
def stop() -> None:
    """Stop the instance in order, its data on disk; no backup is taken meanwhile. It stays so over a reboot."""
    settings = _settings()
    stop_instance(name="Stop Redis, its services and its backups", settings=settings)
    if settings.redis_restart == "always":
        at_the_end(host.name, [f"redis_restart = 'always' starts {settings.redis_name} when the engine starts again"])


@deploy("Start")
def start() -> None:
    """Start a stopped instance as it is, and wait until it is healthy."""
    start_instance(name="Start Redis, its services and its backups", settings=_settings())


@deploy("Remove")
def remove() -> None:
    """Take the instance off the host. Its data and backups stay, unless ``redis_remove_data`` in the host's data says
    so."""
    settings = _settings()
    asked = str(host.data.get("redis_remove_data") or "")
    remove_instance(name="Remove the instance", settings=settings, asked=asked)
    store = secret_store.location(settings, host.name)
    at_the_end(host.name, [f"its passwords stay in {store}: what is kept of its data needs them, and so do its copies"])


def _settings() -> Settings:
    """The settings of the current host. The first to come here locks all: none is changed when one cannot be."""
    with _lock:
        if not _checked:
            _check_all()
    return _checked[host.name]


def _check_all() -> None:
    hosts: dict[Host, Settings] = {}
    problems: dict[Host, str] = {}
    for one in inventory.get_active_hosts():
        try:
            hosts[one] = load(one.data.dict())
        except SettingsError as error:
            problems[one] = str(error)
    if problems := problems or deploy_lock.hold(hosts):
        lines = [f"  {one.name}: {problem}" for one, problem in problems.items()]
        raise PyinfraError("\n".join(["nothing was changed on any host:", *lines]))
    _checked.update({one.name: settings for one, settings in hosts.items()})
