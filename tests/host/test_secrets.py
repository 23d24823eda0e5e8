"""Secrets: who may read them, and that they are seen nowhere else.

Passwords, their hashes and the new names of renamed commands are looked for wherever a deploy, the engine or Redis
could have left them. They travel to the host on standard input and are compared there; only counts come back.
"""

import pytest

from tests.host.target import Target, quoted

# bash: the patterns stay in a variable and reach grep through a pipe, in no argument and no file.
LOOK = r"""
hidden=$(cat)
count() { grep -cFaf <(printf '%s\n' "$hidden") "$@"; }
"""


def _ask(target: Target, script: str) -> str:
    """What a script prints that can count lines with a secret in them."""
    done = target.run(f"bash -c {quoted(LOOK + script)}", stdin="\n".join(target.hidden()))
    return done.stdout


def _fill(target: Target, text: str) -> str:
    name = quoted(target.settings.redis_name)
    image = f"docker inspect --format '{{{{.Image}}}}' {name}"
    return text.format(name=name, image=image, root=quoted(target.settings.root))


# -- Who may read them


def test_secrets_are_one_file_for_each_user_and_for_nobody_else(target: Target) -> None:
    """The file's own owner and mode: Compose hands it to the container as it is."""
    listing = target.host.check_output(f"find {quoted(target.settings.root)}/secrets -type f -printf '%f %U:%G %m\\n'")
    found = dict(line.split(" ", 1) for line in listing.splitlines())
    assert found == dict.fromkeys((*target.users, "commands.conf"), "999:999 400")


def test_container_is_given_only_what_it_uses(target: Target) -> None:
    """The health check's password and the command names; a taken-over Redis learns no other password."""
    listing = target.host.check_output(f"docker exec {quoted(target.settings.redis_name)} ls /run/secrets")
    assert set(listing.split()) == {"health", "commands.conf"}


@pytest.mark.parametrize(
    ("uid", "readable"),
    [
        pytest.param(999, True, id="redis"),
        pytest.param(65534, False, id="nobody"),
    ],
)
def test_redis_reads_the_secrets_and_other_users_do_not(target: Target, uid: int, readable: bool) -> None:
    """Asked as these users."""
    secrets = f"{quoted(target.settings.root)}/secrets"
    as_user = f"setpriv --reuid {uid} --regid {uid} --clear-groups"
    assert target.host.run(f"{as_user} cat {secrets}/health >/dev/null").succeeded == readable
    assert target.host.run(f"{as_user} ls {secrets}").succeeded == readable


# -- That they are seen nowhere else


def test_the_search_finds_a_secret_where_there_is_one(target: Target) -> None:
    """The tests below count zero; this one shows that they could count more."""
    assert int(_ask(target, _fill(target, "cat {root}/secrets/* | count"))) >= len(target.users)


@pytest.mark.parametrize(
    ("source", "always_speaks"),
    [
        # Holds what the health checks printed as well.
        pytest.param("docker inspect {name}", True, id="docker inspect"),
        pytest.param("docker image inspect $({image})", True, id="docker image inspect"),
        pytest.param("docker history --no-trunc $({image})", True, id="docker history"),
        pytest.param("docker logs {name} 2>&1", False, id="docker logs"),
        pytest.param("cat {root}/compose.yml", True, id="compose.yml"),
        pytest.param("docker compose --project-directory {root} config", True, id="docker compose config"),
        pytest.param("find {root}/logs -name '*.log*' ! -name '*.gz' -exec cat {{}} +", True, id="Redis's log"),
        pytest.param("find {root}/logs -name '*.gz' -exec zcat {{}} +", False, id="rotated logs"),
        pytest.param("journalctl --quiet --no-pager --since -2days --lines 200000", True, id="journal"),
        pytest.param("find /root /home -name '.*_history' -exec cat {{}} +", False, id="shell history"),
        pytest.param("find {root} -type f -perm /o+r -exec cat {{}} +", True, id="files for all to read"),
        pytest.param("cat /etc/logrotate.d/{name}", True, id="logrotate"),
    ],
)
def test_no_secret_is_shown_by(target: Target, source: str, always_speaks: bool) -> None:
    """What people print, send to others, or collect."""
    script = f"""
    text=$({{ {_fill(target, source)}; }} 2>/dev/null | tr -d '\\0')
    printf '%s\\n' "$text" | count
    echo ${{#text}}
    """
    shown, characters = map(int, _ask(target, script).split())
    assert characters > 0 or not always_speaks, "said nothing: it was not looked at"
    assert shown == 0


def test_no_process_shows_a_secret(target: Target) -> None:
    """Arguments and environments of all processes, sampled while health checks and redis-cli run."""
    script = r"""
    (for _ in 1 2 3; do timeout 10 docker exec {name} /bin/sh /etc/redis/healthcheck.sh >/dev/null; done) &
    sample() {{ cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n'; }}
    seen=$(while kill -0 $! 2>/dev/null; do sample; done)
    printf '%s\n' "$seen" | count
    printf '%s\n' "$seen" | grep -cx redis-cli
    """
    shown, sampled = map(int, _ask(target, _fill(target, script)).split())
    assert sampled > 0, "no sample saw redis-cli at work"
    assert shown == 0


def test_environment_of_redis_is_the_images(target: Target) -> None:
    """By name: a variable that nobody expects is where the next secret would stand."""
    environment = target.inspect()["Config"]["Env"]
    names = {variable.partition("=")[0] for variable in environment}
    given = target.host.check_output(
        f"docker image inspect --format '{{{{json .Config.Env}}}}' {quoted(target.settings.redis_image)}"
    )
    assert not [name for name in names if f'"{name}=' not in given]
