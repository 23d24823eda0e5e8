"""Operations: each compares one part of a host with what is wanted and mends the difference.

All are no-ops when nothing differs, and say why they change what they change.
"""

import difflib
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pyinfra import host, logger, state
from pyinfra.api import FileUploadCommand, FunctionCommand, StringCommand, operation
from pyinfra.api.exceptions import OperationError

from redoubt import (
    certificatestore,
    facts,
    image,
    network,
    planned,
    preflight,
    redisconf,
    removal,
    render,
    schedule,
    secretstore,
    service,
    tuning,
)
from redoubt.secretstore import Secrets
from redoubt.settings import REDIS_GID, REDIS_UID, Settings, changes
from redoubt.tree import Absent, Directory, File, Obstacle, plan
from redoubt.versions import Build

# How long to wait for another apt: unattended upgrades of a fresh server take some minutes.
APT_LOCK_SECONDS = 300

# What the file says that is written after an image was asked whether it can defragment.
_ANSWER = "# Found out by asking image {0}: {1}.\nactivedefrag {1}\n"

_OWNER = f"{REDIS_UID}:{REDIS_GID}"

Commands = Generator[StringCommand | FileUploadCommand | FunctionCommand, None, None]


@operation()
def tree(entries: Sequence[Directory | File | Absent]) -> Commands:
    """Make directories and files exist with their owner (by number), mode and contents.

    Replaces a file whole or not at all. Removes a file only by its own name (``Absent``); what is of another kind
    is an error.
    ``--diff`` shows what changes in files that are not secret.
    """
    files = {entry.path: entry for entry in entries if isinstance(entry, File)}
    expected = {path: file.digest for path, file in files.items() if file.secret}
    present = host.get_fact(
        facts.Paths,
        paths=[entry.path for entry in entries],
        secret=list(expected),
        _stdin=facts.Unseen("".join(f"{digest}  {path}\n" for path, digest in expected.items())),
    )
    try:
        steps = plan(entries, present)
    except Obstacle as error:
        yield from _stop(str(error))
        return
    if not steps:
        host.noop("as wanted")
    # All before the first step: a dry run goes no further than that.
    for step in steps:
        _say(f"{step.path}: {step.why}")
        if step.stdin is not None and state.config.DIFF:
            _show_diff(files[step.path])
    for step in steps:
        if step.stdin is None:
            yield StringCommand(step.command)
        else:
            yield StringCommand(step.command, _stdin=step.stdin)


@operation()
def kernel_tuned(kernel: Mapping[str, str]) -> Commands:
    """Set the values of the running kernel that Redis asks for; ``kernel`` is what they are, by path.

    Changes the whole host, at once and until the next boot: the files for the next one are another operation's.
    """
    differing = tuning.differences(kernel)
    if not differing:
        host.noop("as wanted")
    for knob, now in differing:
        _say(f"{knob.path} is {now}, should be {knob.value}")
    for knob, _ in differing:
        yield StringCommand(f"printf '%s\\n' {shlex.quote(knob.value)} >{shlex.quote(knob.path)}")


@operation()
def packages(names: Sequence[str]) -> Commands:
    """Install Debian packages that are missing, from lists fetched just then. Those that are there stay as they are.

    pyinfra's own apt.packages fails where another apt is at work, as on a server that was just made.
    """
    installed: set[str] = host.get_fact(facts.InstalledPackages, names=list(names))
    missing = sorted(set(names) - installed)
    if not missing:
        host.noop("installed")
        return
    _say(f"missing: {', '.join(missing)}")
    yield StringCommand(
        facts.script("install-packages.sh", PACKAGES=" ".join(missing), LOCK_SECONDS=str(APT_LOCK_SECONDS))
    )


@operation()
def image_loaded(reference: str, archive: str, upload_dir: str) -> Commands:
    """Load an image from an archive on this machine, unless the host has that very image already.

    Pushes the archive to a directory of the login user's in ``upload_dir`` on the host, loads it into the engine
    and removes it. (Under sudo pyinfra itself would upload to /tmp, under a name that any user can foresee.)
    """
    wanted = image.in_archive(archive, reference)
    there = host.get_fact(facts.Image, reference=reference)
    if there and image.of_inspect(there) == wanted:
        host.noop(f"{reference} is loaded")
        return
    _say(f"{reference}: {'another image has its name' if there else 'missing'}")
    directory = f"{upload_dir}/.incoming"
    quoted = shlex.quote(directory)
    yield StringCommand(f'rm -rf {quoted} && install -d -m 0700 -o "${{SUDO_UID:-${{DOAS_USER:-0}}}}" {quoted}')
    yield FileUploadCommand(archive, f"{directory}/image.tar", _sudo=False, _doas=False)
    # Removed once it is open: whatever ends this early leaves nothing, and takes nothing from the run after it.
    yield StringCommand(f"exec 3<{quoted}/image.tar && rm -rf {quoted} && docker load --quiet <&3")


@operation()
def image_pulled(reference: str) -> Commands:
    """Pull an image, unless the host has it. A pinned reference is not pulled again."""
    if host.get_fact(facts.Image, reference=reference):
        host.noop(f"{reference} is there")
        return
    _say(f"{reference}: missing")
    yield StringCommand(f"docker pull --quiet {shlex.quote(reference)}")


@operation()
def version_judged(settings: Settings) -> Commands:
    """Refuse an image whose server lacks security fixes, or that does not tell its version. Changes nothing.

    For an image that could not be judged by its name or its archive: while it is not on the host yet, as in a dry run,
    nothing is said.
    """
    build = host.get_fact(facts.ImageBuild, reference=settings.redis_image)
    if build is None and not state.is_executing:
        return
    if build is None:
        yield from _stop(_tells_no_version(settings))
        return
    verdict = preflight.version(settings, build)
    if verdict.problem:
        yield from _stop(verdict.problem)
        return
    host.noop(f"{settings.redis_image} is {build}")
    if verdict.warning and state.is_executing:
        logger.warning(f"{host.print_prefix}{verdict.warning}")


def _tells_no_version(settings: Settings) -> str:
    return f"redis_image = {settings.redis_image!r} does not tell its version: 'redis-server --version' fails in it"


@operation()
def upgrade_proven(settings: Settings, serves: Build) -> Commands:
    """Take a verified backup and have another version load it before that is started; nothing for the same version.

    ``serves`` is what runs. On the host it writes a backup, redisctl, which takes it, and a copy of what Redis was made
    from, for ``compose_up``. Fails, with Redis untouched, where there is no room for it, or where the new version does
    not read what the old one wrote.
    """
    build = host.get_fact(facts.ImageBuild, reference=settings.redis_image)
    if build is None and not state.is_executing:
        _say(f"{settings.redis_name} runs {serves}, and another image comes: of another version, after a backup")
        return
    if build is None:
        yield from _stop(f"{_tells_no_version(settings)}. {serves} goes on serving")
        return
    if (build.engine, build.numbers) == (serves.engine, serves.numbers):
        host.noop(f"{settings.redis_image} is the version that runs")
        return
    _say(f"{settings.redis_name} runs {serves}, and {settings.redis_image} is {build}")
    program, told, *_ = render.redisctl_files(settings)
    present = host.get_fact(facts.Paths, paths=[program.path, told.path], secret=[])
    # What is told of backups goes with the former settings, until a deploy has come to its end.
    wanted = [program] if told.path in present else [program, told]
    for step in plan(wanted, present):
        yield StringCommand(step.command, _stdin=step.stdin or "")
    verify = "yes" if settings.redis_upgrade_verify else ""
    prove = _on_instance(settings, "prove-upgrade.sh", IMAGE=settings.redis_image, VERIFY=verify)
    yield StringCommand(f"{_on_instance(settings, 'way-back.sh')}\n{prove}")


@operation()
def activedefrag_detected(reference: str, path: str, *, required: bool) -> Commands:
    """Write the included file that turns active defragmentation on where the image's build supports it.

    Asks the image itself. The answer is kept with the image's id, and asked for anew when the file says anything
    else. Fails when defragmentation is ``required`` and the build has none: Redis would refuse to start.
    """
    there = host.get_fact(facts.Image, reference=reference)
    usable = [_ANSWER.format(there.get("Id"), value) for value in (["yes"] if required else ["yes", "no"])]
    text = host.get_fact(facts.FileText, path=path)
    if text in usable:
        yield from tree._inner(entries=[File(path, text)])
        return
    _say(f"{path}: not known for this image")
    yield StringCommand(
        facts.script(
            "detect-activedefrag.sh",
            IMAGE=reference,
            FILE=path,
            OWNER=_OWNER,
            REQUIRED="yes" if required else "no",
        )
    )


@operation()
def data_handed_over(settings: Settings, to: Literal["log", "dump"]) -> Commands:
    """Have the running Redis start its log of writes, or see to it that its stop writes a snapshot.

    What a configuration does not read is not there for it: turned on over a snapshot, the log starts empty.
    """
    _say("turns the log of writes on, and waits until all data is in it" if to == "log" else "turns snapshots on")
    yield StringCommand(
        _on_instance(
            settings,
            "hand-over-data.sh",
            TO=to,
            SAVE=settings.redis_save,
            WAIT=str(settings.stop_grace_period),
        )
    )


@operation()
def network_loaded(settings: Settings) -> Commands:
    """Load the filter before the published port, now and at every boot, where what is loaded differs from its file.

    The table is replaced in one step. It affects this instance's port alone.
    """
    unit, rules = network.unit(settings), f"{settings.root}/network.nft"
    differing = host.get_fact(facts.NetworkState, table=network.table(settings), unit=unit, rules=rules)
    if not differing:
        host.noop("as wanted")
        return
    for why in differing:
        _say(f"{settings.redis_name}'s port: {why}")
    yield StringCommand(
        f"systemctl daemon-reload && systemctl enable --quiet {unit} && systemctl reload-or-restart {unit}"
    )


@operation()
def network_removed(settings: Settings) -> Commands:
    """Take the filter before the published port away, with its unit and its file."""
    _say(f"{settings.redis_name}'s port: no network is named any more")
    yield StringCommand(f"systemctl disable --quiet --now {network.unit(settings)}")
    yield from tree._inner(entries=network.files(settings))
    yield StringCommand("systemctl daemon-reload")


@operation()
def schedule_started(settings: Settings) -> Commands:
    """Have systemd take backups by the units that are there, now and after every boot, where it does not yet.

    Another calendar that would have come since the last backup has one taken soon.
    """
    timer, job = schedule.timer(settings), schedule.job(settings)
    differing = host.get_fact(facts.TimerState, timer=timer, job=job)
    if not differing:
        host.noop("as wanted")
        return
    for why in differing:
        _say(why)
    yield StringCommand(f"systemctl daemon-reload && systemctl enable --quiet {timer} && systemctl restart {timer}")


@operation()
def schedule_removed(settings: Settings) -> Commands:
    """Take the units away that take backups. One that is being taken is finished."""
    timer, job = schedule.timer(settings), schedule.job(settings)
    _say(f"{settings.redis_name}: redis_backup_calendar is empty")
    yield StringCommand(
        f"systemctl disable --quiet --now {timer}; systemctl clean --what=state {timer}; "
        f"systemctl reset-failed {job} 2>/dev/null; true"
    )
    yield from tree._inner(entries=schedule.files(settings))
    yield StringCommand("systemctl daemon-reload")


@operation()
def acl_written(settings: Settings, acl: File) -> Commands:
    """Write the ACL file, once the image was seen to start with its users; fails in Redis's words otherwise."""
    writing = list(tree._inner(entries=[acl]))
    if any("_stdin" in command.connector_arguments for command in writing):
        trial = facts.script("try-users.sh", IMAGE=settings.redis_image, OWNER=_OWNER)
        yield StringCommand(trial, _stdin=acl.content)
    yield from writing


@operation()
def users_applied(settings: Settings, acl: File, *, now: bool = False) -> Commands:
    """Give the running Redis the users of the ACL file, without a restart; connections stay open.

    Nothing where Redis is about to start anew and reads the file by itself, unless it must be ``now``. Fails when Redis
    refuses a user, which then stays as it was.
    """
    current = _service_state(settings, acl)
    if service.is_silent(settings, current):
        yield from _stop(
            f"{settings.redis_name} is healthy by its check, and did not answer within 10 s: look at the load of the "
            "host, and deploy again"
        )
        return
    if now and not current.acl:
        yield from _stop(f"{settings.redis_name} does not answer, and cannot be given other passwords: deploy first")
        return
    reasons = service.users_drift(settings, current)
    if not reasons or (service.is_to_be_replaced(settings, current) and not now):
        host.noop("as wanted, or read at the start to come")
        return
    for reason in reasons:
        _say(reason)
    script = _on_instance(settings, "apply-users.sh")
    yield StringCommand(script, _stdin=acl.content)


@operation()
def certificate_loaded(settings: Settings, acl: File, digest: str, written: Callable[[], bool]) -> Commands:
    """Have the running Redis load the certificate of this digest, without a restart; connections stay open.

    ``written`` tells, once the deploy is under way, whether its files were: whoever changed them by hand may have had
    Redis load what they made of them. Nothing where it is about to start anew and reads it by itself. Fails when Redis
    refuses it, and keeps the former.
    """
    current = _service_state(settings, acl)
    anew = state.is_executing and written()
    reasons = service.certificate_drift(settings, digest, current, written=anew)
    if not reasons or service.is_to_be_replaced(settings, current):
        host.noop("as wanted, or read at the start to come")
        return
    for reason in reasons:
        _say(reason)
    directives = " ".join(f'{name} "{value}"' for name, value in redisconf.certificate(settings, digest).items())
    yield StringCommand(_on_instance(settings, "load-certificate.sh", DIRECTIVES=directives))


@operation()
def client_certificate_issued(settings: Settings, client: str, directory: str) -> Commands:
    """Issue a certificate for a client, into a directory on this machine; nothing while the one there is good."""
    why = certificatestore.client_is_due(settings, client, directory, datetime.now(UTC))
    if not why:
        host.noop("as wanted")
        return
    _say(f"{directory}: {why}")
    yield FunctionCommand(certificatestore.issue_client, (settings, client, directory, datetime.now(UTC)), {})


@operation()
def passwords_kept(settings: Settings, host_name: str, before: Secrets, after: Secrets) -> Commands:
    """Store changed passwords on this machine. Fails when somebody else changed them since they were read."""
    if before == after:
        host.noop("as wanted")
        return
    _say(f"{secretstore.place(settings, host_name)}: {_changed_users(before, after)}")
    yield FunctionCommand(secretstore.keep, (settings, host_name, before, after), {})


def _changed_users(before: Secrets, after: Secrets) -> str:
    changed = [user for user, valid in after.valid().items() if valid != before.valid()[user]]
    return f"passwords of {', '.join(changed)}"


@operation()
def redisctl_run(settings: Settings, line: str) -> Commands:
    """Run redisctl on the host with the words of a line, and say what it prints. Fails when it does not end with 0."""
    if not state.is_executing:
        yield StringCommand("true")
        return
    # Split here, so that the host's shell makes nothing else of it.
    said = host.get_fact(facts.Redisctl, program=render.redisctl_path(settings), words=shlex.split(line))
    for one in said.lines:
        _say(one)
    if said.code != 0:
        yield from _stop(f"redisctl ended with {said.code}")


@operation()
def instance_stopped(settings: Settings) -> Commands:
    """Stop the instance's containers within their grace, and the timer of its backups. Fails where Redis was killed."""
    there = _present(settings)
    units = {schedule.timer(settings), service.unit(settings)}
    left = sorted(units & (there.active | there.enabled))
    if not there.running and not left:
        host.noop("stopped" if there.containers else "there is none")
        return
    if there.held:
        yield from _stop(f"nothing was stopped: {removal.held(settings, there)}")
        return
    _say(f"{settings.redis_name}: {', '.join(there.running or left)} runs")
    yield StringCommand(
        _alone(
            settings,
            "stop-instance.sh",
            UNITS=" ".join(sorted(units)),
            GRACE=str(settings.stop_grace_period),
        )
    )


@operation()
def instance_started(settings: Settings) -> Commands:
    """Start the instance as it is and wait until it is healthy; its backups as well, where it has a schedule."""
    there = _present(settings)
    timer = schedule.timer(settings) if settings.redis_backup_calendar else ""
    if not any(path == f"{settings.root}/compose.yml" for path, _ in there.paths):
        yield from _stop(f"there is no {settings.redis_name} in {settings.root}: deploy it")
        return
    stopped = [name for name, status in there.containers if status != "running"]
    if settings.redis_name in there.healthy and not stopped and (not timer or timer in there.active & there.enabled):
        host.noop("runs, and is healthy")
        return
    _say(f"{settings.redis_name}: {', '.join(stopped) or 'not all of it'} is stopped, or not healthy")
    wait = service.wait_timeout(settings)
    yield StringCommand(
        _alone(
            settings,
            "start-instance.sh",
            TIMER=timer,
            WAIT=str(wait),
        )
    )


@operation()
def instance_removed(settings: Settings, asked: str) -> Commands:
    """Remove all that is the instance's on the host but its data and backups; ``asked`` in the right words, those too.

    Refuses before anything is removed; ended halfway, it is finished by the next run. Other instances, the engine,
    images and the kernel's settings stay.
    """
    there = _present(settings)
    refusals = removal.refusals(settings, there, asked)
    if refusals:
        yield from _stop(f"nothing was removed: {'; '.join(refusals)}")
        return
    data = bool(asked)
    left = removal.left(settings, there, data=data)
    kept = [] if data else removal.kept(settings, there)
    if not left:
        host.noop(f"gone; kept: {', '.join(kept) or 'nothing'}")
        return
    for one in left:
        _say(f"{one}: removed")
    for one in kept:
        _say(f"{one}: kept")
    yield StringCommand(
        _alone(
            settings,
            "remove-instance.sh",
            UNITS=" ".join(removal.units(settings)),
            GRACE=str(settings.stop_grace_period),
            PATHS=" ".join(removal.paths(settings, data=data)),
        )
    )


def _present(settings: Settings) -> removal.Present:
    present: removal.Present = host.get_fact(
        facts.InstanceState,
        instance=settings.redis_name,
        root=settings.root,
        units=removal.units(settings),
        paths=removal.paths(settings, data=True),
    )
    return present


@operation()
def waited(seconds: int) -> Commands:
    """Wait, on this machine; an interruption leaves both passwords of each user valid."""
    yield FunctionCommand(time.sleep, (seconds,), {})


@operation()
def services_moved(settings: Settings, acl: File) -> Commands:
    """Fail when a service of the project was started before the passwords that it reads were changed."""
    state_ = _service_state(settings, acl)
    behind = [one for one in service.drift(settings, state_).replace if one != settings.redis_name]
    if not behind:
        host.noop("none has")
        return
    yield from _stop(
        f"{', '.join(behind)} of {settings.redis_name}'s project started before passwords were changed, and may still "
        "use a former one: deploy, which starts them anew, and retire then"
    )


def _service_state(settings: Settings, acl: File) -> service.ServiceState:
    state: service.ServiceState = host.get_fact(
        facts.ServiceState,
        instance=settings.redis_name,
        root=settings.root,
        reference=settings.redis_image,
        mounts=render.mounts(settings),
        _stdin=facts.Unseen(acl.content),
    )
    return state


@operation()
def changed_live(settings: Settings, acl: File, deployed: Mapping[str, Any]) -> Commands:
    """Change the running Redis and the limits of its container to what the settings say; connections stay open.

    Nothing where it is about to start anew. ``deployed`` are the settings of the last deploy, to say which differ.
    Fails when Redis or the engine refuses: Redis takes all or nothing.
    """
    current = _service_state(settings, acl)
    change = service.live(settings, current)
    if not change:
        host.noop("as wanted, or read at the start to come")
        return
    for why in (*changes(settings, deployed, "live"), *change.reasons):
        _say(why)
    yield StringCommand(
        _on_instance(
            settings,
            "change-live.sh",
            CONFIG_SET="\n".join(redisconf.set_commands(settings, dict(change.config))),
            UPDATE=service.update_options(settings) if change.limits else "",
            GROWS="yes" if change.grows else "",
            MEMORY=str(settings.memory_limit),
            OVERLAY=render.made_with(settings, change.made_with),
            MADE_WITH=render.MADE_WITH,
        )
    )


@operation()
def compose_up(settings: Settings, acl: File, deployed: Mapping[str, Any]) -> Commands:
    """Bring the Compose project up, wait until it is healthy, and replace what runs from older files.

    Does nothing when what runs is what the settings say. Tries the configuration first, beside what runs. When Redis
    does not become healthy the operation fails and shows the containers and the last lines of their logs. Where that is
    another version, the former one comes back with its files and its data, and what the new one wrote is kept aside.
    Broken off by a reboot, it is gone on with at boot, by a unit that is there only meanwhile.
    ``deployed`` are the settings of the last deploy, to say for which of them Redis starts anew.
    """
    current = _service_state(settings, acl)
    drift = service.drift(settings, current)
    if not drift:
        host.noop("healthy, and made from these files")
        return
    if service.starts_anew(settings, current):
        for why in changes(settings, deployed, "restart") or ["what follows"]:
            _say(f"{settings.redis_name} starts anew for {why}")
    for reason in drift.reasons:
        _say(reason)
    if drift.data_lost:
        yield from _stop(
            f"{settings.redis_name} runs on a directory that is no longer {settings.root}/data: what it holds may be "
            "in memory alone, and a restart would lose it. Nothing was restarted. Put the directory back, or save the "
            f"data through a client; then run docker stop {settings.redis_name} on the host and deploy again"
        )
        return
    if drift.guests:
        yield from _stop(
            f"{' and '.join(drift.networks)} must be made anew, and containers of others are on it: "
            f"{', '.join(drift.guests)}. Nothing was restarted. Stop them, or take them off by docker network "
            "disconnect; then deploy again, and start them"
        )
        return
    recover = settings.redis_health_interval + settings.redis_health_timeout
    wait = service.wait_timeout(settings)
    script = _on_instance(
        settings,
        "compose-up.sh",
        WAIT=str(wait),
        REPLACE=" ".join(drift.replace),
        PAUSED=" ".join(drift.paused),
        RECOVER=str(recover) if drift.stale else "",
        NETWORKS=" ".join(drift.networks),
        MADE_WITH=render.MADE_WITH,
        IMAGE=settings.redis_image,
        OWNER=_OWNER,
    )
    units = "/etc/systemd/system"
    yield StringCommand(
        _alone(
            settings,
            "run-through.sh",
            SCRIPT=service.start_script(settings),
            UNIT=f"{units}/{service.unit(settings)}",
            TEXT=service.start_unit(settings),
            WANTED=f"{units}/multi-user.target.wants/{service.unit(settings)}",
        ),
        _stdin=f"{_on_instance(settings, 'way-back.sh')}\n{script}",
    )


def _on_instance(settings: Settings, filename: str, **variables: str) -> str:
    """A script of files/ for the instance, with values for what it expects beside its name and its directory."""
    return facts.script(filename, INSTANCE=settings.redis_name, ROOT=settings.root, **variables)


def _alone(settings: Settings, filename: str, **variables: str) -> str:
    """The same, as soon as nothing else starts or stops containers of the instance."""
    lock = _on_instance(settings, "take-lock.sh", LOCK_WAIT=str(service.lock_timeout(settings)))
    return f"{lock}\n{_on_instance(settings, filename, **variables)}"


def _stop(why: str) -> Commands:
    """Fail in words: before anything runs for all hosts, afterwards for this one alone."""
    if not state.is_executing:
        raise OperationError(why)
    yield StringCommand(f"echo {shlex.quote(why)} >&2; exit 1")


def _say(why: str) -> None:
    """Tell the operator why something changes, beside pyinfra's own line for the operation."""
    planned.note(host.name, "differs", why)
    logger.info(f"{host.print_prefix}{why}")


def _show_diff(file: File) -> None:
    if file.secret or file.packed:
        _say(f"{file.path}: {'secret' if file.secret else 'a program'}, contents not shown")
        return
    before = host.get_fact(facts.FileText, path=file.path)
    for line in _diff(before, file.content, file.path):
        logger.info(f"    {line}")


def _diff(before: str, after: str, path: str) -> Iterable[str]:
    return difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        fromfile=f"{path} (host)",
        tofile=f"{path} (settings)",
        lineterm="",
    )
