"""Preflight: inspect all hosts and report all blockers before any change.

It reads the settings of all hosts first.
"""

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
    image_archive,
    image_config,
    instance_conflicts,
    plan_log,
    secret_store,
    tracked_secrets,
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
    """Return the current host's instance: valid settings, secrets and facts.

    A day-2 verb does not ``deploy``: due certificates wait for the next deploy. One that changes no host does not
    ``lock`` any.

    The first host that comes here checks all hosts, so that the problems of all are reported together and none changes
    if one cannot be deployed. Creates missing passwords on this machine. Raises PyinfraError.
    """
    with _lock:
        if not _checked:
            _check_all(deploys=deploys, locks=locks)
    plan_log.note(host.name, "ready")
    return _checked[host.name]


@dataclass
class _HostPlan:
    """What this machine knows about a host before the inspection.

    ``version_checked`` says that the version in the image is known and allowed. ``stored_secrets`` are the passwords on
    this machine, None if they cannot be read. ``ca_problem`` is why a deploy would issue the certificate by another CA,
    empty if it would not.
    """

    settings: Settings
    invalid: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    version_checked: bool = False
    stored_secrets: Secrets | None = None
    ca_problem: str = ""


def now() -> datetime:
    """Return the time with which the expiry of certificates is compared."""
    return datetime.now(UTC)


def _check_all(*, deploys: bool, locks: bool) -> None:
    hosts = {each.name: each for each in inventory.get_active_hosts()}
    plans = {name: _check_settings(each) for name, each in hosts.items()}
    if locks and not any(plan.problems for plan in plans.values()):
        # Lock before the inspection, so that nothing changes between the inspection and the deploy.
        blockers = deploy_lock.hold({hosts[name]: plan.settings for name, plan in plans.items()})
        for locked_host, blocker in blockers.items():
            plans[locked_host.name].problems.append(blocker)
        _refuse(plans)
    facts = dict(Pool().imap_unordered(lambda each: (each.name, _inspect(each, plans[each.name])), hosts.values()))
    for name, host_facts in facts.items():
        plans[name].problems += _host_problems(name, plans[name], host_facts)
        for warning in host_checks.warnings(plans[name].settings, host_facts) if host_facts else ():
            plans[name].warnings.append(warning)
            plan_log.note(name, "warning", warning)
    entries = {
        name: instance_conflicts.Entry(
            plans[name].settings, host_facts.machine, host_facts.memory, host_facts.neighbours, plans[name].invalid
        )
        for name, host_facts in facts.items()
        if host_facts
    }
    for name, problems in instance_conflicts.problems(entries).items():
        plans[name].problems += problems
    _refuse(plans)

    try:
        secrets = {name: secret_store.load_or_create(plan.settings, name) for name, plan in plans.items()}
        identities = {name: _identity(plan, name, deploys=deploys) for name, plan in plans.items()}
    except (OSError, SecretsError) as error:
        raise PyinfraError(f"Nothing was changed on any host. The secrets cannot be stored: {error}") from error
    for name, plan in plans.items():
        for warning in plan.warnings:
            logger.warning(f"{hosts[name].print_prefix}{warning}")
    instances = {
        name: Instance(plans[name].settings, secrets[name], host_facts, plans[name].version_checked, identities[name])
        for name, host_facts in facts.items()
        if host_facts
    }
    for name, instance in instances.items():
        host_state.of(hosts[name]).entries = all_files.of(instance)
    _checked.update(instances)


def _host_problems(name: str, plan: _HostPlan, facts: HostFacts | None) -> list[str]:
    if facts is None:
        return ["the host did not answer as expected; see the lines above"]
    problems = host_checks.problems(plan.settings, facts, plan.invalid)
    if plan.stored_secrets is not None:
        path, stored = secret_store.location(plan.settings, name), plan.stored_secrets
        problems += host_checks.check_secret_store(path, stored.generation, plan.settings.root, facts)
        problems += host_checks.check_repository_password(path, stored.repository, plan.settings, facts)
    return problems + host_checks.check_ca(plan.ca_problem, plan.settings.root, facts)


def _identity(plan: _HostPlan, name: str, *, deploys: bool) -> Identity | None:
    """Return the certificate.

    Only a deploy issues a new one, because only a deploy writes it to the host.
    """
    if deploys or not certificate_store.issues(plan.settings):
        return certificate_store.load_or_create(plan.settings, name, now())
    return None if plan.ca_problem else certificate_store.load(plan.settings, name)


def _check_settings(each: Host) -> _HostPlan:
    """Check everything about a host that needs no connection."""
    try:
        plan = _HostPlan(load(each.data.dict()))
    except SettingsError as error:
        plan = _HostPlan(error.valid_part, error.invalid, list(error.problems))
    try:
        _check_version(plan)
    except image_archive.ArchiveError as error:
        plan.problems.append(str(error))
    try:
        plan.stored_secrets = secret_store.check(plan.settings, each.name)
    except SecretsError as error:
        plan.problems.append(str(error))
    # The certificate depends on these settings: report each problem once.
    if not any(name in problem for problem in plan.problems for name in ("redis_tls", "redis_secrets")):
        problems = certificate_store.check(plan.settings, each.name, now())
        plan.problems += problems
        plan.ca_problem = "" if problems else certificate_store.ca_problem(plan.settings, each.name)
    if not plan.problems:
        plan.warnings += tracked_secrets.warnings(plan.settings, each.name)
    return plan


def _check_version(plan: _HostPlan) -> None:
    """Check the version in the image, if its name or its archive shows it.

    Raises ArchiveError.
    """
    settings = plan.settings
    if plan.invalid & {"redis_engine", "redis_image", "redis_allow_vulnerable_version"}:
        return
    build = image_config.build_named(settings.redis_image)
    if settings.redis_image_archive and not plan.problems:
        if settings.redis_image_archive_digest:
            image_archive.check_digest(settings.redis_image_archive, settings.redis_image_archive_digest)
        config = image_archive.config_in(settings.redis_image_archive, settings.redis_image)
        build = image_config.build_in(config.get("config") or {}) or build
    if build is not None:
        verdict = host_checks.check_version(settings, build)
        plan.problems += [verdict.problem] if verdict.problem else []
        plan.warnings += [verdict.warning] if verdict.warning else []
        # Docker ignores a tag next to a digest.
        plan.version_checked = "@" not in settings.redis_image
        return
    engine = image_config.engine_named(settings.redis_image)
    if engine not in (None, settings.redis_engine):
        plan.problems.append(host_checks.other_engine(settings, engine))


def _inspect(each: Host, plan: _HostPlan) -> HostFacts | None:
    """Inspect a host.

    Unless this is a dry run, an interrupted transaction is finished first.
    """
    settings, state = plan.settings, host_state.of(each)
    stored = plan.stored_secrets
    acl = host_files.acl_file(settings, stored).content if stored and _has_passwords(settings, stored) else ""
    with ctx_host.use(each):
        facts = state.inspect(each, settings, acl)
        if facts and facts.instance.interrupted and state.run:
            logger.info(
                f"{each.print_prefix}{facts.instance.interrupted.operation} was interrupted: finishing it first"
            )
            # A recovery that fails may have ended the transaction: then the deploy can repair the instance.
            recover_instance(each, settings)
            facts = state.inspect(each, settings, acl)
            if facts and facts.instance.interrupted:
                plan.problems.append(
                    f"{facts.instance.interrupted.operation} was interrupted and cannot be finished: the lines above "
                    "say why. Fix that, then deploy again"
                )
        return facts


def _has_passwords(settings: Settings, stored: Secrets) -> bool:
    """Say whether this machine has a password of every user.

    The ACL file can be compared only then.
    """
    return {user.name for user in users(settings)} <= set(stored.passwords)


def _refuse(plans: dict[str, _HostPlan]) -> None:
    if not any(plan.problems for plan in plans.values()):
        return
    lines = ["Nothing was changed on any host. Fix these problems first:"]
    for name, plan in plans.items():
        lines += [f"  {name}: {problem}" for problem in plan.problems]
    raise PyinfraError("\n".join(lines))
