"""Preflight: read the settings of every host, look at every host, and refuse before anything is changed."""

from gevent.lock import RLock
from gevent.pool import Pool
from pyinfra import host, inventory
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_host

from redoubt import facts, image, preflight, secretstore
from redoubt.instance import Instance
from redoubt.settings import Settings, SettingsError, load

_checked: dict[str, Instance] = {}
_lock = RLock()


def preflight_all() -> Instance:
    """The instance to deploy to the current host: valid settings, its secrets, and facts that stand for it.

    The first host to come here checks all, so that the problems of all hosts are reported together and none
    is changed when one cannot be deployed. Makes missing passwords on this machine. Raises PyinfraError.
    """
    with _lock:
        if not _checked:
            _check_all()
    return _checked[host.name]


def _check_all() -> None:
    hosts = {one.name: one for one in inventory.get_active_hosts()}
    found: dict[str, list[str]] = {name: [] for name in hosts}
    settings: dict[str, Settings] = {}
    wrong: dict[str, frozenset[str]] = {}
    stored: dict[str, int] = {}
    for name, one in hosts.items():
        try:
            settings[name] = load(one.data.dict())
            _check_archive(settings[name])
        except SettingsError as error:
            settings[name], wrong[name] = error.partial, error.wrong
            found[name] += error.problems
        except image.ArchiveError as error:
            found[name].append(str(error))

        try:
            stored[name] = secretstore.check(settings[name], name)
        except secretstore.SecretsError as error:
            found[name].append(str(error))

    probed = dict(Pool().imap_unordered(lambda one: (one.name, _probe(one, settings[one.name])), hosts.values()))
    for name, facts_ in probed.items():
        if facts_ is None:
            found[name].append("the host did not answer as expected; the lines above say more")
        else:
            found[name] += preflight.problems(settings[name], facts_, wrong.get(name, ()))
            if name in stored:
                path = secretstore.path_for(settings[name], name)
                found[name] += preflight.stale_store(path, stored[name], settings[name].root, facts_)
    _refuse(found)

    try:
        secrets = {name: secretstore.ensure(settings[name], name) for name in hosts}
    except (OSError, secretstore.SecretsError) as error:
        raise PyinfraError(f"nothing was changed on any host; passwords cannot be kept here: {error}") from error
    _checked.update(
        {name: Instance(settings[name], secrets[name], facts_) for name, facts_ in probed.items() if facts_}
    )


def _check_archive(settings: Settings) -> None:
    if settings.redis_image_archive:
        image.in_archive(settings.redis_image_archive, settings.redis_image)


def _probe(one: Host, settings: Settings) -> preflight.HostFacts | None:
    with ctx_host.use(one):
        probed: preflight.HostFacts | None = one.get_fact(
            facts.HostProbe, instance=settings.redis_name, root=settings.root
        )
        return probed


def _refuse(found: dict[str, list[str]]) -> None:
    if not any(found.values()):
        return
    lines = ["nothing was changed on any host; mend this first:"]
    for name, problems in found.items():
        lines += [f"  {name}: {problem}" for problem in problems]
    raise PyinfraError("\n".join(lines))
