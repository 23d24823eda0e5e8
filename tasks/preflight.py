"""Preflight: read the settings of every host, look at every host, and refuse before anything is changed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from gevent.lock import RLock
from gevent.pool import Pool
from pyinfra import host, inventory, logger
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_host

from redoubt import (
    all_files,
    certificate_store,
    host_checks,
    host_files,
    host_state,
    image_config,
    instance_conflicts,
    plan_log,
    secret_store,
)
from redoubt.acl import users
from redoubt.certificates import Identity
from redoubt.facts.host import HostFacts
from redoubt.instance import Instance
from redoubt.operations.common import recover_instance
from redoubt.secret_backends import SecretsError
from redoubt.secret_store import Secrets
from redoubt.settings.load import SettingsError, load
from redoubt.settings.model import Settings
from tasks import deploy_lock

_checked: dict[str, Instance] = {}
_lock = RLock()


def preflight_all(*, deploys: bool = True, locks: bool = True) -> Instance:
    """The instance to deploy to the current host: valid settings, its secrets, and facts that stand for it.

    A day-2 verb ``deploys`` nothing: certificates that are due wait for the next deploy. One that changes no host
    ``locks`` none.

    The first host to come here checks all, so that the problems of all hosts are reported together and none
    is changed when one cannot be deployed. Makes missing passwords on this machine. Raises PyinfraError.
    """
    with _lock:
        if not _checked:
            _check_all(deploys=deploys, locks=locks)
    plan_log.note(host.name, "ready")
    return _checked[host.name]


@dataclass
class _HostPlan:
    """What is known of a host before anybody looks at it. ``version_checked``: the version in its image is."""

    settings: Settings
    invalid: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)
    warning: str = ""
    version_checked: bool = False
    # Its passwords on this machine; None where they cannot be read.
    stored_secrets: Secrets | None = None
    # Why a deploy would issue its certificate by another CA, in words; nothing where it would not.
    ca_problem: str = ""


def now() -> datetime:
    """By which certificates are judged."""
    return datetime.now(UTC)


def _check_all(*, deploys: bool, locks: bool) -> None:
    hosts = {one.name: one for one in inventory.get_active_hosts()}
    checked = {name: _check(one) for name, one in hosts.items()}
    if locks and not any(one.problems for one in checked.values()):
        # Before the first look: what is seen is what is changed.
        held = deploy_lock.hold({hosts[name]: one.settings for name, one in checked.items()})
        for locked, problem in held.items():
            checked[locked.name].problems.append(problem)
        _refuse(checked)
    probed = dict(Pool().imap_unordered(lambda one: (one.name, _inspect(one, checked[one.name])), hosts.values()))
    for name, facts_ in probed.items():
        one = checked[name]
        if facts_ is None:
            one.problems.append("the host did not answer as expected; the lines above say more")
        else:
            one.problems += host_checks.problems(one.settings, facts_, one.invalid)
            if one.stored_secrets is not None:
                path = secret_store.location(one.settings, name)
                one.problems += host_checks.check_secret_store(
                    path, one.stored_secrets.generation, one.settings.root, facts_
                )
                one.problems += host_checks.check_repository_password(
                    path, one.stored_secrets.repository, one.settings, facts_
                )
            one.problems += host_checks.check_ca(one.ca_problem, one.settings.root, facts_)
    entries = {
        name: instance_conflicts.Entry(
            checked[name].settings, facts_.machine, facts_.memory, facts_.neighbours, checked[name].invalid
        )
        for name, facts_ in probed.items()
        if facts_
    }
    for name, found in instance_conflicts.problems(entries).items():
        checked[name].problems += found
    _refuse(checked)

    try:
        secrets = {name: secret_store.load_or_create(one.settings, name) for name, one in checked.items()}
        identities = {name: _identity(one, name, deploys=deploys) for name, one in checked.items()}
    except (OSError, SecretsError) as error:
        raise PyinfraError(f"Nothing was changed on any host. The secrets cannot be stored: {error}") from error
    for name, one in checked.items():
        if one.warning:
            logger.warning(f"{hosts[name].print_prefix}{one.warning}")
    instances = {
        name: Instance(checked[name].settings, secrets[name], facts_, checked[name].version_checked, identities[name])
        for name, facts_ in probed.items()
        if facts_
    }
    for name, instance in instances.items():
        host_state.of(hosts[name]).entries = all_files.of(instance)
    _checked.update(instances)


def _identity(one: _HostPlan, name: str, *, deploys: bool) -> Identity | None:
    """The certificate; only a deploy issues another, for it alone brings that to the host."""
    if deploys or not certificate_store.issues(one.settings):
        return certificate_store.load_or_create(one.settings, name, now())
    return None if one.ca_problem else certificate_store.load(one.settings, name)


def _check(one: Host) -> _HostPlan:
    try:
        checked = _HostPlan(load(one.data.dict()))
    except SettingsError as error:
        checked = _HostPlan(error.valid_part, error.invalid, list(error.problems))
    try:
        _judge(checked)
    except image_config.ArchiveError as error:
        checked.problems.append(str(error))
    try:
        checked.stored_secrets = secret_store.check(checked.settings, one.name)
    except SecretsError as error:
        checked.problems.append(str(error))
    # What is said of these already is not said again.
    if not any(name in problem for problem in checked.problems for name in ("redis_tls", "redis_secrets")):
        found = certificate_store.check(checked.settings, one.name, now())
        checked.problems += found
        checked.ca_problem = "" if found else certificate_store.ca_problem(checked.settings, one.name)
    return checked


def _judge(checked: _HostPlan) -> None:
    """Judge the version in the image as far as this machine knows it. Raises ArchiveError."""
    settings = checked.settings
    if checked.invalid & {"redis_engine", "redis_image", "redis_allow_vulnerable_version"}:
        return
    build = image_config.build_named(settings.redis_image)
    if settings.redis_image_archive and not checked.problems:
        config = image_config.config_in_archive(settings.redis_image_archive, settings.redis_image)
        build = image_config.build_in(config.get("config") or {}) or build
    if build is not None:
        verdict = host_checks.check_version(settings, build)
        checked.problems += [verdict.problem] if verdict.problem else []
        checked.warning = verdict.warning
        # Beside a digest the tag is a remark that no engine reads.
        checked.version_checked = "@" not in settings.redis_image
        return
    engine = image_config.engine_named(settings.redis_image)
    if engine not in (None, settings.redis_engine):
        checked.problems.append(host_checks.other_engine(settings, engine))


def _inspect(one: Host, checked: _HostPlan) -> HostFacts | None:
    """Inspect a host; finish an interrupted transaction first, unless this is a dry run."""
    settings, known = checked.settings, host_state.of(one)
    stored = checked.stored_secrets
    acl = host_files.acl_file(settings, stored).content if stored and _has_passwords(settings, stored) else ""
    with ctx_host.use(one):
        facts = known.inspect(one, settings, acl)
        if facts and facts.instance.interrupted and known.run:
            logger.info(f"{one.print_prefix}{facts.instance.interrupted.operation} was interrupted: finishing it first")
            if recover_instance(one, settings):
                facts = known.inspect(one, settings, acl)
        return facts


def _has_passwords(settings: Settings, stored: Secrets) -> bool:
    """Say whether this machine has a password of every user, so that the ACL file can be compared."""
    return {user.name for user in users(settings)} <= set(stored.passwords)


def _refuse(checked: dict[str, _HostPlan]) -> None:
    if not any(one.problems for one in checked.values()):
        return
    lines = ["Nothing was changed on any host. Fix these problems first:"]
    for name, one in checked.items():
        lines += [f"  {name}: {problem}" for problem in one.problems]
    raise PyinfraError("\n".join(lines))
