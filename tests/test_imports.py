"""No module leans on one that leans on it, not even for its types alone; and only kernels go without types."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGES = ("codec", "executors", "excamera_dask")


def test_no_module_leans_on_itself_through_others() -> None:
    names = {name: path for package in PACKAGES for name, path in modules_of(package)}
    graph = {name: set(leans_on(name, path, names)) for name, path in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def modules_of(package: str) -> Iterator[tuple[str, Path]]:
    root = Path(__import__(package).__file__ or "").parent
    for path in root.rglob("*.py"):
        inside = path.relative_to(root.parent).with_suffix("")
        yield ".".join(inside.parts).removesuffix(".__init__"), path


def leans_on(name: str, path: Path, names: dict[str, Path]) -> Iterator[str]:
    """Modules that a module's source names in its imports, wherever these stand.

    What a package's own `__init__` imports from within it does not count, nor does a package whose module is named.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [part if part in names else node.module for part in parts]
        else:
            continue
        yield from (each for each in found if each in names and not each.startswith(f"{name}."))


def test_only_kernels_go_without_types() -> None:
    """Mypy, which cannot type those, is told so of the whole package."""
    untyped = [
        f"{name}:{node.lineno} {node.name}"
        for name, path in modules_of("codec")
        for node in plain_functions(ast.parse(path.read_text()))
        if node.returns is None or not all(one.annotation for one in arguments(node))
    ]
    assert not untyped


KERNELS = {"kernel", "allocating_kernel", "inline_kernel", "part_kernel", "intrinsic"}


def plain_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Those that Numba does not compile, nor a function around them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            if KERNELS.isdisjoint(decorators(node)):
                yield node
                yield from plain_functions(node)
        else:
            yield from plain_functions(node)


def decorators(node: ast.FunctionDef) -> Iterator[str]:
    for one in node.decorator_list:
        made = one.func if isinstance(one, ast.Call) else one
        yield made.id if isinstance(made, ast.Name) else ""


def arguments(node: ast.FunctionDef) -> list[ast.arg]:
    given = node.args
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return [one for one in found if one.arg not in ("self", "cls")]
