"""Secrets: who may read them, and that they are seen nowhere else.

Passwords, their hashes and the new names of renamed commands are looked for wherever a deploy, the engine or Redis
could have left them. They travel to the host on standard input and are compared there; only counts come back.
"""

import pytest

from redoubt import host_files
from tests.host.host_under_test import Target, quoted

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


@pytest.mark.security("file permissions")
def test_secrets_are_one_file_for_each_user_and_for_nobody_else(target: Target) -> None:
    """The file's own owner and mode: Compose hands it to the container as it is."""
    listing = target.host.check_output(f"find {quoted(target.settings.root)}/secrets -type f -printf '%p %U:%G %m\\n'")
    found = dict(line.split(" ", 1) for line in listing.splitlines())
    wanted = dict.fromkeys(host_files.secret_paths(target.settings).values(), "999:999 400")
    # What opens the copies of backups is root's, and what redisctl notes beside it.
    repository = host_files.repository_directory(target.settings)
    given = (
        ("password", *target.settings.redis_backup_repository_files)
        if target.settings.redis_backup_restic_repository
        else ()
    )
    wanted |= {f"{repository}/{name}": "0:0 400" for name in given}
    found.pop(f"{repository}/{host_files.REPOSITORY_NOTE}", None)
    assert found == wanted


@pytest.mark.security("secrets exposure")
def test_container_is_given_only_what_it_uses(target: Target) -> None:
    """The health check's password, the command names and a number; a taken-over Redis learns no other password."""
    listing = target.host.check_output(f"docker exec {quoted(target.settings.redis_name)} ls /run/secrets")
    assert set(listing.split()) == {"health", "commands.conf", "generation"}


@pytest.mark.security("file permissions")
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
    assert target.host.run(f"{as_user} cat {secrets}/server/health >/dev/null").succeeded == readable
    assert target.host.run(f"{as_user} ls {secrets}").succeeded == readable


# -- That they are seen nowhere else


@pytest.mark.security("secrets exposure")
def test_the_search_finds_a_secret_where_there_is_one(target: Target) -> None:
    """The tests below count zero; this one shows that they could count more."""
    assert int(_ask(target, _fill(target, "find {root}/secrets -type f -exec cat {{}} + | count"))) >= len(target.users)


SOURCES = {
    # Holds what the health checks printed as well.
    "docker inspect": "docker inspect {name}",
    "docker inspect of all containers": "docker ps --all --quiet | xargs docker inspect",
    "docker image inspect": "docker image inspect $({image})",
    "docker history": "docker history --no-trunc $({image})",
    "docker logs": "docker logs {name} 2>&1",
    "compose.yml": "cat {root}/compose.yml",
    "docker compose config": "docker compose --project-directory {root} config",
    "Redis's log": "find {root}/logs -name '*.log*' ! -name '*.gz' -exec cat {{}} +",
    "rotated logs": "find {root}/logs -name '*.gz' -exec zcat {{}} +",
    "journal": "journalctl --quiet --no-pager --since -2days --lines 200000",
    "shell history": "find /root /home -name '.*_history' -exec cat {{}} +",
    "files for all to read": "find {root} -type f -perm /o+r -exec cat {{}} +",
    "logrotate": "cat /etc/logrotate.d/{name}",
    "settings of the host": "find /etc -xdev -type f -size -1024k -exec cat {{}} +",
    "temporary files": "find /tmp /var/tmp /dev/shm -xdev -type f -size -1024k -exec cat {{}} +",
}
# There may be nothing to read in these.
MAY_BE_SILENT = {"docker logs", "rotated logs", "shell history", "temporary files"}


@pytest.fixture(scope="module")
def shown(target: Target) -> dict[str, tuple[int, int]]:
    """For each source, in how many lines it shows a secret, and how many characters were looked at."""
    looks = "".join(
        f"""{{
            text=$({{ {_fill(target, command)}; }} 2>/dev/null | tr -d '\\0')
            printf '%s\\t%s\\t%s\\n' {quoted(source)} "$(printf '%s\\n' "$text" | count)" "${{#text}}"
        }} &
        """
        for source, command in SOURCES.items()
    )
    lines = (line.split("\t") for line in _ask(target, f"{looks} wait").splitlines())
    return {source: (int(count), int(characters)) for source, count, characters in lines}


@pytest.mark.security("secrets exposure")
@pytest.mark.parametrize("source", SOURCES)
def test_no_secret_is_shown_by(shown: dict[str, tuple[int, int]], source: str) -> None:
    """What people print, send to others, or collect."""
    count, characters = shown[source]
    assert characters > 0 or source in MAY_BE_SILENT, "said nothing: it was not looked at"
    assert count == 0


@pytest.mark.security("secrets exposure")
def test_no_process_shows_a_secret(target: Target) -> None:
    """Arguments and environments of all, sampled until two samples saw a health check's redis-cli at work."""
    script = r"""
    (for _ in $(seq 30); do timeout 10 docker exec {name} /bin/sh /etc/redis/healthcheck.sh >/dev/null; done) &
    checks=$!
    seen= sampled=0
    while [ $sampled -lt 2 ] && kill -0 $checks 2>/dev/null; do
        now=$(cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n')
        case $now in *$'\n'redis-cli$'\n'*) sampled=$((sampled + 1)) ;; esac
        seen+=$now
    done
    kill $checks
    printf '%s\n' "$seen" | count
    echo $sampled
    """
    shown, sampled = map(int, _ask(target, _fill(target, script)).split())
    assert sampled > 0, "no sample saw redis-cli at work"
    assert shown == 0


@pytest.mark.security("secrets exposure")
def test_environment_of_redis_is_the_images(target: Target) -> None:
    """By name: a variable that nobody expects is where the next secret would stand."""
    environment = target.inspect()["Config"]["Env"]
    names = {variable.partition("=")[0] for variable in environment}
    given = target.host.check_output(
        f"docker image inspect --format '{{{{json .Config.Env}}}}' {quoted(target.settings.redis_image)}"
    )
    assert not [name for name in names if f'"{name}=' not in given]
