"""The package as its users and its readers see it: few names, quick to import, imports one way, short files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gdig
from gdig import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "gdig"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "kernels" not in p.parts) + sorted(ROOT.glob("kernels/**/*.py"))


def module_name(path: Path) -> str:
    if path.is_relative_to(PACKAGE):
        parts = ("gdig", *path.relative_to(PACKAGE).with_suffix("").parts)
    else:
        parts = ("gdig", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions, but not what is for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        pending += ast.iter_child_nodes(node)
    return found


def test_at_most_ten_names_and_each_is_there() -> None:
    assert len(gdig.__all__) <= 10
    assert gdig.__all__ == sorted(gdig.__all__)
    assert dir(gdig) == gdig.__all__
    for name in gdig.__all__:
        value = getattr(gdig, name)
        assert value.__name__ == name
        assert value.__doc__, f"gdig.{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'selekt'"):
        gdig.selekt  # noqa: B018


def test_no_module_bears_a_public_name() -> None:
    for name in gdig.__all__:
        assert not (PACKAGE / f"{name}.py").exists() and not (PACKAGE / name).is_dir()


def test_importing_gdig_is_light() -> None:
    program = (
        "import sys, gdig, gdig.config, gdig.cli\n"
        "heavy = {'torch', 'transformers', 'datasets', 'triton', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_error_is_a_gdig_error() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), gdig.GdigError)
    assert issubclass(gdig.GdigError, Exception)


# Who may import whom: every module belongs to the first layer that names it, and imports from its own layer or below.
LAYERS = (
    ("gdig.cli", "gdig.__main__", "gdig.flags", "gdig.commands"),
    ("gdig.pipeline",),
    ("gdig.strategies",),
    ("gdig.training",),
    ("gdig.workspace", "gdig.stages", "gdig.run", "gdig.sources"),
    ("gdig.data", "gdig.model", "gdig.ops", "gdig.store", "gdig.kmeans", "gdig.resampling", "gdig.exchange"),
    ("gdig.distributed",),
    ("gdig.progress",),
    ("gdig.random", "gdig.files", "gdig.background"),
    ("gdig.config", "gdig.kernels"),
    ("gdig.values", "gdig.options"),
    ("gdig.errors",),
    ("gdig._native",),
)
NATIVE = {
    "gdig.store",
    "gdig.kmeans",
    "gdig.resampling",
    "gdig.stages.quality",
    "gdig.strategies",
    "gdig.errors",
}


def layer(name: str) -> int:
    for number, prefixes in enumerate(LAYERS):
        if any(name == p or name.startswith(p + ".") for p in prefixes):
            return number
    raise AssertionError(f"{name} belongs to no layer; name it in LAYERS and in DESIGN.md")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    name = module_name(path)
    if name == "gdig":
        return  # the door: it names what it opens, and imports on first use
    for imported in imports(path):
        if imported.startswith("gdig."):
            assert layer(imported) >= layer(name), f"{name} imports {imported}, which lies above it"
        if imported.startswith("gdig._native"):
            assert name in NATIVE or name.startswith("gdig.strategies."), f"{name} imports gdig._native"
        if imported.startswith("gdig.kernels") and not name.startswith("gdig.kernels"):
            assert name == "gdig.ops", f"{name} imports {imported}; gdig.ops is the only door to the kernels"
        assert imported not in ("pickle", "cloudpickle", "dill"), f"{name} imports {imported}"


def test_references_and_triton_kernels_do_not_know_each_other() -> None:
    for path in ROOT.glob("kernels/*/*.py"):
        others = {"reference.py": "triton", "triton.py": "reference"}.get(path.name)
        if others:
            assert not any(i.split(".")[-1] == others or i == others for i in imports(path)), path


def test_no_file_is_too_long() -> None:
    sources = [*MODULES, *ROOT.glob("rust/**/*.rs"), *ROOT.glob("tests/*.py"), *ROOT.glob("benches/*.py")]
    long = {
        str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long
