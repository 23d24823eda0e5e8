"""Secrets: who can read them, and that they appear nowhere else.

The tests search for passwords, their hashes and the new command names wherever a deploy, Docker or Redis could leave
them. The secrets go to the host on standard input and are compared there; only counts come back.
"""

import pytest

from redoubt import host_files
from tests.host.host_under_test import Target, listed, quoted

# In bash the patterns stay in a variable and reach grep through a pipe, so they are in no argument and no file.
COUNT_FUNCTION = r"""
secrets=$(cat)
count() { grep -cFaf <(printf '%s\n' "$secrets") "$@"; }
"""


def _run(target: Target, script: str) -> str:
    """Run a script on the host and return its output.

    Its function ``count`` counts the lines that contain a secret.
    """
    return target.run(f"bash -c {quoted(COUNT_FUNCTION + script)}", stdin="\n".join(target.hidden())).stdout


def _fill(target: Target, text: str) -> str:
    """Fill in the instance's name, root and image as words of the shell."""
    name = quoted(target.settings.redis_name)
    image = f"docker inspect --format '{{{{.Image}}}}' {name}"
    return text.format(name=name, image=image, root=quoted(target.settings.root))


# -- Who can read them


@pytest.mark.security("file permissions")
def test_each_user_has_its_own_secret_file(target: Target) -> None:
    """Each user has its own secret file, which belongs to Redis and has mode 400.

    Owner and mode matter, because Compose passes the files to containers unchanged.
    """
    find = f"find {quoted(target.settings.root)}/secrets -type f -printf '%U:%G %m %p\\0'"
    files = {
        path: f"{owner} {mode}" for owner, mode, path in (entry.split(" ", 2) for entry in listed(target.host, find))
    }
    expected = dict.fromkeys(host_files.secret_paths(target.settings).values(), f"{target.settings.owner} 400")
    # Root owns what opens the backup repository, and the note of redisctl next to it.
    repository = host_files.repository_directory(target.settings)
    names = (
        ("password", *target.settings.redis_backup_repository_files)
        if target.settings.redis_backup_restic_repository
        else ()
    )
    expected |= {f"{repository}/{name}": "0:0 400" for name in names}
    files.pop(f"{repository}/{host_files.REPOSITORY_NOTE}", None)
    assert files == expected


@pytest.mark.security("secrets exposure")
def test_container_has_only_the_secrets_it_uses(target: Target) -> None:
    """It has the health check's password, the command names and a number.

    So a compromised Redis learns no other secret.
    """
    listing = target.host.check_output(f"docker exec {quoted(target.settings.redis_name)} ls /run/secrets")
    assert set(listing.split()) == {"health", "commands.conf", "generation"}


@pytest.mark.security("file permissions")
@pytest.mark.parametrize(
    ("user", "readable"),
    [
        ("redis", True),
        ("other", False),
    ],
)
def test_only_redis_can_read_the_secrets(target: Target, user: str, readable: bool) -> None:
    """The test reads them as these users."""
    uid = target.settings.redis_uid if user == "redis" else 65534
    secrets = f"{quoted(target.settings.root)}/secrets"
    as_user = f"setpriv --reuid {uid} --regid {uid} --clear-groups"
    assert target.host.run(f"{as_user} cat {secrets}/server/health >/dev/null").succeeded == readable
    assert target.host.run(f"{as_user} ls {secrets}").succeeded == readable


# -- Where they must not appear


@pytest.mark.security("secrets exposure")
def test_search_finds_existing_secrets(target: Target) -> None:
    """The tests below expect a count of zero; this one shows that the search works."""
    assert int(_run(target, _fill(target, "find {root}/secrets -type f -exec cat {{}} + | count"))) >= len(target.users)


# Others can replace these files: this follows no link, waits for no FIFO, and reads at most 1 GiB of each.
READ = "-execdir dd if={{}} iflag=nofollow,nonblock bs=1M count=1024 status=none \\;"
SOURCES = {
    # Includes the output of the health checks.
    "docker inspect": "docker inspect {name}",
    "docker inspect of all containers": "docker ps --all --quiet | xargs docker inspect",
    "docker image inspect": "docker image inspect $({image})",
    "docker history": "docker history --no-trunc $({image})",
    "docker logs": "docker logs {name} 2>&1",
    "compose.yml": "cat {root}/compose.yml",
    "docker compose config": "docker compose --project-directory {root} config",
    "Redis's logs": f"find {{root}}/logs -type f -name '*.log*' {READ}",
    "journal": "journalctl --quiet --no-pager --since -2days --lines 200000",
    "shell history": f"find /root /home -type f -name '.*_history' {READ}",
    # Those of Redis have no rights for others: test_directories.py.
    "files for all to read": "find {root} -type f -uid 0 -perm /o+r -exec cat {{}} +",
    "logrotate": "cat /etc/logrotate.d/{name}",
    "settings of the host": "find /etc -xdev -type f -size -1024k -exec cat {{}} +",
    "temporary files": f"find /tmp /var/tmp /dev/shm -xdev -type f -size -1024k {READ}",
}
# These may be empty.
MAY_BE_EMPTY = {"docker logs", "shell history", "temporary files"}


@pytest.fixture(scope="module")
def findings(target: Target) -> dict[str, tuple[int, int]]:
    """Return how many lines of each source show a secret, and its length.

    The length is the number of characters that were searched.
    """
    searches = "".join(
        f"""{{
            text=$({{ {_fill(target, command)}; }} 2>/dev/null | tr -d '\\0')
            printf '%s\\t%s\\t%s\\n' {quoted(source)} "$(printf '%s\\n' "$text" | count)" "${{#text}}"
        }} &
        """
        for source, command in SOURCES.items()
    )
    lines = (line.split("\t") for line in _run(target, f"{searches} wait").splitlines())
    return {source: (int(count), int(characters)) for source, count, characters in lines}


@pytest.mark.security("secrets exposure")
@pytest.mark.parametrize("source", SOURCES)
def test_source_shows_no_secret(findings: dict[str, tuple[int, int]], source: str) -> None:
    """People print, send and collect these texts."""
    count, characters = findings[source]
    assert characters > 0 or source in MAY_BE_EMPTY, "the source is empty, so nothing was searched"
    assert count == 0


@pytest.mark.security("secrets exposure")
def test_no_process_shows_a_secret(target: Target) -> None:
    """No process has a secret in its arguments or environment.

    The test samples all processes until two samples include a health check's redis-cli.
    """
    script = r"""
    (for _ in $(seq 30); do timeout 10 docker exec {name} /bin/sh /etc/redis/healthcheck.sh >/dev/null; done) &
    checks=$!
    texts= sampled=0
    while [ $sampled -lt 2 ] && kill -0 $checks 2>/dev/null; do
        now=$(cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n')
        case $now in *$'\n'redis-cli$'\n'*) sampled=$((sampled + 1)) ;; esac
        texts+=$now
    done
    kill $checks
    printf '%s\n' "$texts" | count
    echo $sampled
    """
    exposed, sampled = map(int, _run(target, _fill(target, script)).split())
    assert sampled > 0, "no sample includes redis-cli"
    assert exposed == 0


@pytest.mark.security("secrets exposure")
def test_container_has_only_the_images_variables(target: Target) -> None:
    """Any further variable could hold the next secret."""
    environment = target.inspect()["Config"]["Env"]
    names = {variable.partition("=")[0] for variable in environment}
    image_environment = target.host.check_output(
        f"docker image inspect --format '{{{{json .Config.Env}}}}' {quoted(target.settings.redis_image)}"
    )
    assert not [name for name in names if f'"{name}=' not in image_environment]
