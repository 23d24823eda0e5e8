"""Secrets on this machine that git tracks, or that ``git add .`` would add."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from redoubt import certificate_store, secret_backends
from redoubt.settings.model import Settings

# Files of redis_backup_repository_files that are not secret.
_PUBLIC = ("known_hosts", "ca_certificate")

_ADVICE = {
    "tracked": "git tracks it: run 'git rm --cached {path}'. If the commit was pushed, replace the secret",
    "not ignored": "git does not ignore it: add it to a .gitignore, or the next 'git add .' adds it to a commit",
}


def warnings(settings: Settings, host_name: str) -> list[str]:
    """Return a warning for each secret that git tracks or does not ignore.

    Returns none without git, and for secrets outside of a repository.
    """
    states = {path: git_state(path) for path in secret_files(settings, host_name)}
    return [f"{path} is a secret, and {_ADVICE[state].format(path=path)}" for path, state in states.items() if state]


def secret_files(settings: Settings, host_name: str) -> list[Path]:
    """Return the files with plain secrets of an instance.

    Leaves out those of a store that a deploy creates, because it gets a .gitignore. SOPS encrypts its files.
    """
    sources = [secret_backends.backend_for(settings, host_name), *certificate_store.sources(settings, host_name)]
    stored = [source.path for source in sources if type(source) is secret_backends.FileSource and source.store.exists()]
    keys = [Path(path) for path in (settings.redis_tls_key, settings.redis_tls_client_key) if path]
    named = [Path(path) for name, path in settings.redis_backup_repository_files.items() if name not in _PUBLIC]
    return [*stored, *keys, *named]


def git_state(path: Path) -> Literal["tracked", "not ignored", ""]:
    """Say what git does with a file; empty if it ignores the file.

    The file need not exist.
    """
    path = path.resolve()
    directory = next(parent for parent in path.parents if parent.is_dir())
    # check-ignore exits with 1 for a file that is tracked or not ignored, and with 128 outside of a repository.
    if _git(directory, "check-ignore", "--quiet", "--", str(path)) != 1:
        return ""
    is_tracked = _git(directory, "--literal-pathspecs", "ls-files", "--error-unmatch", "--", str(path)) == 0
    return "tracked" if is_tracked else "not ignored"


def _git(directory: Path, *arguments: str) -> int | None:
    """Return the exit code of a git command, None if there is no git or no answer."""
    try:
        return subprocess.run(
            ["git", "-C", str(directory), *arguments],
            env=_without_git(os.environ.items()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return None


def _without_git(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Leave out what would lead git to another repository, as in a hook."""
    return {name: value for name, value in environment if not name.startswith("GIT_")}
