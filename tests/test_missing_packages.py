"""An installation without the packages that gdig depends on: one message, in Python and on the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gdig.missing_packages import DEPENDENCIES

HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
{code}
"""


def without(hidden: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", HIDE.format(hidden=hidden, code=code)]
    return subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[1] / "python")


@pytest.mark.parametrize("package", ["torch", "typing_extensions", "tyro"])
def test_the_command_without_a_package_says_so_in_one_line(package):
    ended = without((package,), "sys.argv = ['gdig', 'select', '--help']\nfrom gdig.cli.start import run\nrun()")
    if package == "torch":  # the help needs none
        assert ended.returncode == 0 and "--candidates" in ended.stdout
        return
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"gdig: error: the command gdig needs the package {package}, which is not installed")
    assert ended.stderr.count("\n") == 1 and ended.stderr.endswith("[G302]\n")


def test_python_names_what_was_asked_for_and_what_is_missing():
    code = (
        "import gdig\ngdig.KMeans, gdig.SketchStore, gdig.resample\ntry:\n    gdig.select\nexcept gdig.ModelError as e:"
    )
    ended = without(("torch", "typing_extensions", "tyro", "transformers"), f"{code}\n    print(type(e).__name__, e)")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("MissingPackageError gdig.select needs the package ")


def test_the_packages_are_those_of_pyproject():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    listed = text[text.index("dependencies = [") : text.index("optional-dependencies")]
    named = re.findall(r'^    "([a-z0-9-]+)>=', listed, re.M)
    modules = {"pyyaml": "yaml"}
    assert {modules.get(name, name.replace("-", "_")) for name in named} == DEPENDENCIES


def test_a_module_of_gdig_that_is_missing_is_not_a_package():
    ended = without((), "import gdig\ngdig._WHERE['select'] = 'gdig.nothing'\ngdig.select")
    assert "ModuleNotFoundError: No module named 'gdig.nothing'" in ended.stderr
