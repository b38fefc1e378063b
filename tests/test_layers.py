"""Imports go one way, by the one list of layers that stands in DESIGN.md; no circle between modules."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "gdig"
OWN = (path for path in PACKAGE.rglob("*.py") if "kernels" not in path.relative_to(PACKAGE).parts)
MODULES = sorted(OWN) + sorted(ROOT.glob("kernels/**/*.py"))


def module_name(path: Path) -> str:
    if path.is_relative_to(PACKAGE):
        words = ("gdig", *path.relative_to(PACKAGE).with_suffix("").parts)
    else:
        words = ("gdig", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(word for word in words if word != "__init__")


def imports(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions, but not what is for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        pending += ast.iter_child_nodes(node)
    return imported


def read_layers() -> list[set[str]]:
    """The layers of DESIGN.md, the highest first: names directly below gdig."""
    (block,) = re.findall(r"^```layers\n(.*?)^```", (ROOT / "DESIGN.md").read_text(encoding="utf-8"), re.M | re.S)
    return [{name.strip() for name in line.split(",")} for line in block.splitlines()]


LAYERS = read_layers()
NATIVE = {"store", "kmeans", "resampling", "selection", "errors"}
"""Who may open the Rust core."""


def layer(name: str) -> int:
    for number, names in enumerate(LAYERS):
        if name.split(".")[1] in names:
            return number
    raise AssertionError(f"{name} belongs to no layer; name it in the list of layers in DESIGN.md")


def test_every_layer_is_there() -> None:
    there = {module_name(path).split(".")[1] for path in MODULES if module_name(path) != "gdig"} | {"_native"}
    assert sorted(name for names in LAYERS for name in names) == sorted(there)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    name = module_name(path)
    if name == "gdig":
        return  # the door: it names what it opens, and imports on first use
    for imported in imports(path):
        if imported.startswith("gdig."):
            assert layer(imported) >= layer(name), f"{name} imports {imported}, which lies above it"
        if imported.startswith("gdig._native"):
            assert name.split(".")[1] in NATIVE, f"{name} imports gdig._native"
        if imported.startswith("gdig.kernels") and not name.startswith("gdig.kernels"):
            assert name == "gdig.ops", f"{name} imports {imported}; gdig.ops is the only door to the kernels"
        assert imported not in ("pickle", "cloudpickle", "dill"), f"{name} imports {imported}"


def test_no_circle_between_modules() -> None:
    paths = {module_name(path): path for path in MODULES}
    graph = {name: (imports(path) & set(paths)) - {name, "gdig"} for name, path in paths.items()}
    for name, imported in graph.items():  # `from package import module` names the package too: only the module counts
        graph[name] = {module for module in imported if not any(other.startswith(f"{module}.") for other in imported)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_references_and_triton_kernels_do_not_know_each_other() -> None:
    for path in ROOT.glob("kernels/*/*.py"):
        others = {"reference.py": "triton", "triton.py": "reference"}.get(path.name)
        if others:
            assert not any(i.split(".")[-1] == others or i == others for i in imports(path)), path
