"""Trials of a configuration, an ACL file or an image in a container.

The container has no network and runs next to the instance. Everything that Redis would refuse to start with fails here,
while the old Redis still serves.
"""

import re
from collections.abc import Sequence

from redisctl import paths
from redisctl.core import docker, process
from redisctl.core.errors import Failure
from redisctl.core.files import write_file
from redisctl.core.instance import Instance
from redisctl.schema import AclRequest, ActivedefragRequest, Result

# Seconds for a trial container to start and end.
_TIMEOUT = 60

_OPTIONS = ("--rm", "--network", "none", *docker.CONFINEMENT)

# Starts a server, waits until it answers on its socket (30 s) and leaves. Its output says why it does not start.
_TRIAL = """
umask 077
redis-server "$@" --port 0 --unixsocket /tmp/trial --dir /tmp --save "" &
for _ in $(seq 300); do
    kill -0 $! 2>/dev/null || break
    redis-cli -s /tmp/trial PING >/dev/null 2>&1 && exit 0
    sleep 0.1
done
exit 1
"""


def check_config(instance: Instance, image: str, owner: str) -> None:
    """Start the image with the instance's configuration, without its data.

    It gets the users and command names as well, and listens on no port. ``owner`` is uid:gid. Raises Failure.
    """
    mounts = [
        *("--tmpfs", "/tmp:mode=1777", "--tmpfs", "/data:mode=1777", "--tmpfs", "/var/log/redis:mode=1777"),
        *("--volume", f"{instance.root}/{paths.CONFIG}:/etc/redis:ro"),
        *("--volume", f"{instance.root}/{paths.SERVER_SECRETS}:/run/secrets:ro"),
    ]
    arguments = ["/etc/redis/redis.conf", "--logfile", "", "--appendonly", "no"]
    output = _start(image, owner, mounts, arguments)
    if output is not None:
        lines = "\n".join(output.splitlines()[-20:])
        raise Failure(f"Redis does not start with this configuration. The running Redis was left alone:\n{lines}")


def check_acl(instance: Instance, request: AclRequest) -> Result:
    """Start the image with an ACL file.

    Redis refuses to start with a rule that it does not know. Changes nothing on the host. Raises Failure.
    """
    mounts = ["--tmpfs", "/tmp:mode=1777"]
    output = _start(request.image, request.owner, mounts, ["--aclfile", "/tmp/users.acl"], acl=request.acl)
    if output is not None:
        # Redis names the line and the rule.
        lines = "\n".join([line for line in output.splitlines() if "users.acl" in line.lower()][-5:] or [output[-500:]])
        raise Failure(f"{instance.name} refuses these users. Those on the host were left alone:\n{mask_hashes(lines)}")
    return Result()


def probe_activedefrag(instance: Instance, request: ActivedefragRequest) -> Result:
    """Find out whether the image's Redis can defragment memory.

    Writes config/activedefrag.conf. The server reads directives in order, so it complains of an unknown directive
    behind ``activedefrag yes`` only if its build supports defragmentation. Debian's builds do not, although their
    version line names jemalloc. Raises Failure.
    """
    probe = ("redis-server", "--activedefrag", "yes", "--redoubt-probe", "yes")
    command = ["docker", "run", *_OPTIONS, "--user", request.owner, *docker.private_program(request.image, *probe)]
    result = process.run(command, timeout=_TIMEOUT)
    output = result.stdout + result.stderr
    if "redoubt-probe" in output:
        value = "yes"
    elif "activedefrag" in output or "efragmentation" in output:
        value = "no"
    else:
        raise Failure(f"{request.image} does not start: {output.strip()[-2000:]}")
    if request.required and value == "no":
        raise Failure(
            f"redis_activedefrag = 'yes', but the build in {request.image} cannot defragment memory: use auto or no"
        )
    image = docker.image(request.image)
    if image is None:
        raise Failure(f"there is no image {request.image} on this host")
    uid, gid = map(int, request.owner.split(":"))
    text = activedefrag_file(image["Id"], value)
    write_file(instance.root / paths.ACTIVEDEFRAG_FILE, text, mode=0o600, uid=uid, gid=gid)
    return Result(changed=True)


def activedefrag_file(image_id: str, value: str) -> str:
    """Return the text of config/activedefrag.conf, which says for which image it is."""
    return f"# Probed with image {image_id}: {value}.\nactivedefrag {value}\n"


def mask_hashes(text: str) -> str:
    """Replace password hashes in what Redis answered."""
    return re.sub(r"#[0-9a-fA-F]{64}", "(hash not shown)", text)


def mask_secrets(text: str) -> str:
    """Replace secrets in what a server printed.

    They are password hashes and the secret names of commands.
    """
    return mask_hashes(mask_renamed_commands(text))


def mask_renamed_commands(text: str) -> str:
    """Replace the secret names of commands.

    Redis quotes the line of redis.conf that it refuses.
    """
    return re.sub(r"(rename-command\s+\S+\s+)[^\s']*", r"\1(not shown)", text)


def _start(
    image: str, owner: str, mounts: Sequence[str], arguments: Sequence[str], *, acl: str | None = None
) -> str | None:
    """Return None if the server started, else what it printed."""
    script = f"umask 077\ncat >/tmp/users.acl\n{_TRIAL}" if acl is not None else _TRIAL
    command = ["docker", "run", "--interactive", *_OPTIONS, "--user", owner, *mounts, "--entrypoint", "/bin/sh"]
    result = process.run([*command, image, "-c", script, "trial", *arguments], timeout=_TIMEOUT, stdin=acl or "")
    return None if result.returncode == 0 else mask_secrets(result.stdout + result.stderr)
