"""Only reviewed code of redisctl names files by their path.

Root must not use a path below a directory in which Redis can write: Redis can replace each part of it by a link, a FIFO
or a huge file. Such code uses redisctl/core/untrusted_files.py. docs/audit.md lists what may use paths, and why.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Methods and functions that follow a path, wait for a FIFO or read without a bound.
_METHODS = frozenset(
    [
        "read_text",
        "read_bytes",
        "write_text",
        "write_bytes",
        "open",
        "iterdir",
        "glob",
        "rglob",
        "stat",
        "exists",
        "is_file",
        "is_dir",
        "resolve",
        "chmod",
        "mkdir",
        "touch",
        "unlink",
        "rename",
        "symlink_to",
        "hardlink_to",
        "rmdir",
    ]
)
_OS = frozenset(
    [
        "open",
        "stat",
        "chmod",
        "chown",
        "mkdir",
        "makedirs",
        "rename",
        "replace",
        "remove",
        "unlink",
        "rmdir",
        "link",
        "symlink",
        "listdir",
        "scandir",
        "walk",
        "truncate",
        "mkfifo",
    ]
)
_SHUTIL = frozenset(["rmtree", "copy", "copy2", "copyfile", "copytree", "copymode", "copystat", "move", "chown"])
# Only these functions of os take a descriptor or read no contents.
_WITH_DESCRIPTOR = frozenset(["dir_fd", "src_dir_fd", "dst_dir_fd"])


def path_calls(source: str) -> Iterator[str]:
    """Yield the functions that name files by path, each with the name of the call."""
    tree = ast.parse(source)
    for function in _functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (name := _path_call(node)):
                yield f"{function.name}: {name}"


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _path_call(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Name):
        return "open" if function.id == "open" and not _has_opener(call) else ""
    if not isinstance(function, ast.Attribute) or any(word.arg in _WITH_DESCRIPTOR for word in call.keywords):
        return ""
    module = function.value.id if isinstance(function.value, ast.Name) else ""
    if module in ("os", "shutil"):
        names = _OS if module == "os" else _SHUTIL
        return f"{module}.{function.attr}" if function.attr in names else ""
    # Path.replace has one argument, unlike that of a string.
    is_method = function.attr in _METHODS or (function.attr == "replace" and len(call.args) == 1 and not call.keywords)
    return function.attr if is_method else ""


def _has_opener(call: ast.Call) -> bool:
    return any(word.arg == "opener" for word in call.keywords)


# What may name files by path, and why that is safe.
REVIEWED: dict[str, dict[str, str]] = {
    "the functions of this test's subject, and copies between files of root": {
        "core/files.py": "_read copy copy_owner fsync_directory own write_file",
        "core/ownership.py": "_give _give_contents give_files",
        "core/untrusted_files.py": "_open_directory list_names",
        "core/redis_socket.py": "_share_namespace",
        "core/process.py": "_stdin_file",
    },
    "redis_root, data/, its directories of transactions, and import/ belong to root": {
        "core/network_filter.py": "_differences",
        "__main__.py": "_unpack module_path",
        "core/instance.py": "deployed_owner load_instance",
        "core/journal.py": "end read",
        "core/lock.py": "clean_up",
        "data/layout.py": "previous_data_dirs upgrade_in_progress",
        "data/repair.py": "examine",
        "data/swap.py": "_install interruptible put_back_files staging_dir",
        "deploy/configuration.py": "_save discard is_saved restore saved_image",
        "deploy/containers.py": "override_is_for",
        "deploy/lifecycle.py": "_ensure_deployed _remove remove",
        "deploy/owner.py": "_compose_text _files _switch change",
        "deploy/service.py": "check_data_directory up",
        "deploy/state.py": "_client_limits _docker _network_filter _stored collect",
        "deploy/upgrade.py": "_link_data put_back_files roll_back",
        "monitor/redis_files.py": "_directories",
        "migrate/blockers.py": "target_facts",
        "migrate/migration.py": "cancel read_state recover start",
    },
    "config/, secrets/ and backups/ are read-only for Redis, or not mounted into its container": {
        "backup/attempt.py": "_write",
        "backup/catalog.py": "_candidates find_damage finish own_backup",
        "backup/create.py": "_copy_files _ensure_disk_space create_backup",
        "backup/offsite.py": "_open _remember _run fetch push",
        "backup/retention.py": "prune",
        "core/instance.py": "config_value renamed secret",
        "core/scratch_redis.py": "loading_directives",
        "core/server_changes.py": "directives",
        "core/trial.py": "_own_names",
        "deploy/configuration.py": "_copy _copy_file _restore _restore_part",
        "deploy/state.py": "_certificates _modification_times",
        "monitor/disk_status.py": "_backups _disk",
        "monitor/status.py": "_certificate_ends",
        "monitor/unexpected.py": "_find",
    },
    "a new directory, before a container gets it": {
        "core/trial.py": "stage_aof trial",
        "migrate/replica.py": "begin",
    },
    "the mount points of the container, which Redis cannot replace: only compared": {"deploy/state.py": "_of_process"},
    "files of the kernel and the host": {
        "core/network_filter.py": "client_limit_differences",
        "core/docker.py": "_daemon_id",
        "core/lock.py": "_locking_process _open_private holder",
        "core/mounts.py": "inside",
        "core/scratch_redis.py": "free_memory",
        "deploy/containers.py": "_deployed_roots _find",
        "deploy/recovery.py": "boot_time",
        "deploy/state.py": "_cgroup_limits",
        "monitor/deploy_history.py": "load",
    },
    "the path that a person gives": {
        "cli/migrate.py": "_password start",
        "data/foreign.py": "copy_checked",
        "data/restore.py": "_files _foreign _foreign_origin _resolve",
        "migrate/replica.py": "_copy",
    },
    "no file: a command of Redis, or a function of redisctl": {
        "apps/rq_jobs.py": "_orphans",
        "apps/sessions.py": "expire_sessions",
        "backup/create.py": "_try_freeze",
        "data/layout.py": "read_own_manifest",
    },
}


def test_only_reviewed_functions_name_files_by_path() -> None:
    reviewed = {
        f"{module}: {function}"
        for modules in REVIEWED.values()
        for module, functions in modules.items()
        for function in functions.split()
    }
    found = {
        f"{path.relative_to(ROOT / 'redisctl')}: {call.partition(':')[0]}"
        for path in (ROOT / "redisctl").rglob("*.py")
        for call in path_calls(path.read_text())
    }
    assert sorted(found - reviewed) == [], "use redisctl/core/untrusted_files.py, or add a reason"
    assert sorted(reviewed - found) == [], "no longer needed"


# Where Redis can replace files, on a host that is audited.
_OF_REDIS = re.compile(r"/?(logs|data|socket)\b|redis\.log|dump\.rdb|appendonlydir")
_OPENS = re.compile(r"\b(cat|tail|head|grep|cp|wc|cmp|sha\d+sum|md5sum)\s|-exec(dir)?\s|\.file\(")


def audit_problems(source: str) -> list[str]:
    """Return calls and texts of a test of the audit that trust files of Redis.

    They open its files as root, or divide names by line breaks.
    """
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    safe = {text for call in calls if ast.unparse(call.func) == "by_redis" for text in ast.walk(call)}
    files = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "file"]
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
    texts = [ast.unparse(node) for node in (*files, *strings) if node not in safe]
    opening = [text for text in texts if _OPENS.search(text) and _OF_REDIS.search(text) and "docker exec" not in text]
    return [*opening, *(text for text in texts if re.search(r"-printf \W*'[^']*\\+n'", text))]


def test_audit_opens_no_file_of_redis_as_root() -> None:
    found = [
        f"{path.name}: {problem}"
        for path in sorted((ROOT / "tests/host").glob("*.py"))
        for problem in audit_problems(path.read_text())
    ]
    assert found == [], "use by_redis for the contents of files, and listed for their names"


@pytest.mark.parametrize(
    ("call", "is_unsafe"),
    [
        ('host.run(f"find {root}/logs -type f -exec tail {{}} +")', True),
        ('host.check_output("cat /srv/redis/data/live/dump.rdb")', True),
        ('host.file(f"{root}/logs/redis.log").content_string', True),
        ("host.run(\"find /srv/redis -printf '%P\\\\n'\")", 1),
        ('host.run(by_redis(settings, "tail -c 9 logs/redis.log"))', False),
        ("listed(host, \"find /srv/redis -printf '%P\\\\0'\")", 0),
        ('host.file("/proc/sys/vm/swappiness")', False),
    ],
)
def test_unsafe_lines_of_an_audit_are_found(call: str, is_unsafe: bool) -> None:
    assert bool(audit_problems(call)) == is_unsafe


def test_attack_tests_of_the_security_report_exist() -> None:
    page = (ROOT / "docs/audit.md").read_text()
    references = re.findall(r"`(tests/[\w/.]+)::(\w+)`", page)
    assert len(references) > 20
    missing = [f"{path}::{name}" for path, name in references if f"def {name}(" not in (ROOT / path).read_text()]
    assert missing == []


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("path.read_text()", ["f: read_text"]),
        ("path.replace(target)", ["f: replace"]),
        ("text.replace('a', 'b')", []),
        ("replace(state, name='x')", []),
        ("open(path)", ["f: open"]),
        ("open(path, opener=lambda *_: 3)", []),
        ("shutil.rmtree(path)", ["f: shutil.rmtree"]),
        ("os.open(name, flags, dir_fd=parent)", []),
        ("os.open(name, flags)", ["f: os.open"]),
        ("os.fstat(3)", []),
    ],
)
def test_calls_with_a_path_are_found(call: str, found: list[str]) -> None:
    assert list(path_calls(f"def f():\n    {call}\n")) == found
