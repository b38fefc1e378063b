"""The package as its users and its readers see it: few names, quick to import, imports one way, short files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gdig
from gdig import errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "gdig"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "kernels" not in p.parts) + sorted(ROOT.glob("kernels/**/*.py"))


def test_few_names_and_each_is_there() -> None:
    assert len(gdig.__all__) <= 12
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
        "import sys, gdig, gdig.config.config, gdig.cli.main\n"
        "heavy = {'torch', 'transformers', 'datasets', 'triton', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_error_is_a_gdig_error() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), gdig.GdigError)
    assert issubclass(gdig.GdigError, Exception)


def test_no_file_is_too_long() -> None:
    sources = [*MODULES, *ROOT.glob("rust/**/*.rs"), *ROOT.glob("tests/*.py"), *ROOT.glob("benches/*.py")]
    long = {
        str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long
