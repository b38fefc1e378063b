"""The package as its users and its readers see it: few names, quick to import, imports one way, short files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import get_type_hints

import pytest

import gdig
import gdig.config.typed_options as typed_module
from gdig import errors
from gdig.cli.commands import COMMANDS
from gdig.config.config import Training
from tests.support.typed_options import expected as expected_source

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "gdig"
OWN = (path for path in PACKAGE.rglob("*.py") if "kernels" not in path.relative_to(PACKAGE).parts)
MODULES = sorted(OWN) + sorted(ROOT.glob("kernels/**/*.py"))


def test_few_names_and_each_is_there() -> None:
    assert len(gdig.__all__) <= 27
    assert gdig.__all__ == sorted(gdig.__all__)
    assert dir(gdig) == gdig.__all__
    for name in gdig.__all__:
        value = getattr(gdig, name)
        assert value.__name__ == name
        assert value.__doc__, f"gdig.{name} has no docstring"
    assert gdig.__version__ == version("gdig")
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


def test_a_run_is_verified_without_torch(swept_copy: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from gdig.cli.main import main\n"
        "assert main(['verify', '--run-path', sys.argv[1]]) == 2\n"
        "assert main(['verify', '--run-path', sys.argv[2]]) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'triton', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else f'{len(sys.modules)} modules' if len(sys.modules) > 800 else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path, swept_copy], capture_output=True, text=True)
    assert "is no run directory" in ended.stderr and ended.stdout.endswith(" sound\n")
    assert ended.returncode == 0, ended.stderr


def test_every_error_is_a_gdig_error_and_public() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), gdig.GdigError)
        assert getattr(gdig, name) is getattr(errors, name)
    assert issubclass(gdig.GdigError, Exception)


def test_each_command_is_a_function() -> None:
    for name in COMMANDS:
        assert callable(getattr(gdig, name.replace("-", "_")))


def test_the_typed_options_are_those_of_the_groups() -> None:
    source = Path(typed_module.__file__).read_text(encoding="utf-8")
    assert source == expected_source(source), "run: python -m tests.support.typed_options"
    for name in ("select", "fit", "sweep", "cluster", "explain", "plan", "preview", "report"):
        assert getattr(gdig, name).__annotations__["options"] == "Unpack[Options]"
    assert gdig.score_net.__annotations__["options"] == "Unpack[ScoreNetOptions]"
    assert gdig.compare.__annotations__["options"] == "Unpack[CompareOptions]"
    assert set(get_type_hints(typed_module.Options)) == {option.name for option in fields(gdig.Config)}
    both = {option.name for kind in (gdig.Config, Training) for option in fields(kind)}
    assert set(get_type_hints(typed_module.ScoreNetOptions)) == both


def test_no_file_is_too_long() -> None:
    sources = [*MODULES, *ROOT.glob("rust/**/*.rs"), *ROOT.glob("tests/*.py"), *ROOT.glob("benches/*.py")]
    long = {
        str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long
