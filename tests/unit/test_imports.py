"""Imports between modules: no circles, and one direction between packages.

The direction applies to redisctl's packages. Operations have the names of their tasks. Only imports at the top of a
module count: neither those for type checkers nor those inside functions.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("redoubt", "redisctl", "tasks", "sandbox")
# A package of redisctl may import those of lower layers, and itself.
LAYERS = {"cli": 5, "deploy": 4, "monitor": 4, "migrate": 4, "data": 3, "apps": 3, "backup": 2, "core": 1}
# Modules that both programs import.
LAYERS |= {"schema": 0, "paths": 0}


def modules() -> dict[str, Path]:
    """Return the project's modules by name."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path: Path, known: Mapping[str, Path]) -> set[str]:
    """Return the project's modules that a module imports when it is imported."""
    return {name for node in _at_import(ast.parse(path.read_text()).body) for name in _names(node) if name in known}


def _at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported.

    Statements for type checkers and those of a program do not run then.
    """
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            yield from _at_import(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            yield from _at_import(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from _at_import(handler.body)


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; none if there is no circle."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph[name]):
                if names := follow(other, [*path, name]):
                    return names
            done.add(name)
        return []

    return next(filter(None, (follow(name, []) for name in sorted(graph))), [])


def test_modules_import_each_other_without_circles() -> None:
    known = modules()
    graph = {name: imports(path, known) for name, path in known.items()}
    assert len(graph) > 100
    assert circle(graph) == []


def test_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_redisctl_imports_only_lower_layers() -> None:
    """Each package imports only from lower layers.

    The order is cli, then deploy, monitor, migrate, then data, apps, then backup, then core, then schema, paths.
    """
    known = modules()
    wrong = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        if (layer := _package(name)) and (lower := _package(other))
        if layer != lower and LAYERS[layer] <= LAYERS[lower]
    ]
    assert wrong == []
    assert {_package(name) for name in known if name.startswith("redisctl.")} - {""} <= LAYERS.keys()


def test_redisctl_stands_alone() -> None:
    known = modules()
    foreign = [
        f"{name} imports {other}"
        for name, path in known.items()
        if name.startswith("redisctl")
        for other in imports(path, known)
        if not other.startswith("redisctl")
    ]
    assert foreign == []


def test_operations_have_the_name_of_their_task() -> None:
    """So that a reader of deploy.py finds the operations of a task without a search."""
    shared = {"__init__", "common", "files", "packages", "units"}
    tasks, operations = ({path.stem for path in (ROOT / name).glob("*.py")} for name in ("tasks", "redoubt/operations"))
    assert operations - shared - tasks == set()
    assert shared < operations


def _package(name: str) -> str:
    """Return the package of redisctl that a module is in; empty for any other module."""
    parts = name.split(".")
    return parts[1] if parts[0] == "redisctl" and parts[1:2] and parts[1] != "__main__" else ""


def test_only_the_command_line_imports_its_patches() -> None:
    """gevent then replaces threads and processes, also those of the tests."""
    known = modules()
    importers = {name for name, path in known.items() if "redoubt.pyinfra_patches" in imports(path, known)}
    assert importers == {"tasks.deploy_lock"}
