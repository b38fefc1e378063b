"""What sdist and wheel hold, that the one makes the other, and that the wheel runs on a machine without Rust."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILT = ("_native.abi3.so", "_native.pyd", "__pycache__")

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.skipif(shutil.which("cargo") is None, reason="builds the package, which needs cargo"),
]


LICENCES = ("LICENSE", "python/gdig/pages/assets/LICENSES.txt")
"""Our own, and those of the libraries that the report inlines."""


def python_files() -> set[str]:
    """The package's own files, kernels included, relative to python/."""
    package = ROOT / "python" / "gdig"
    files = [p for p in package.rglob("*") if "kernels" not in p.relative_to(package).parts]
    files += [p for p in (package / "kernels").rglob("*.py")]
    names = {p.relative_to(package.parent) for p in files if p.is_file()}
    return {str(name) for name in names if not set(name.parts) & set(BUILT)}


def build_wheel(source: Path, out: Path, **settings: str) -> Path:
    """`pip wheel`, as `pip install` does it, with the build tools of this environment; `settings` are cargo's."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "maturin", "sdist", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = out.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    # cargo takes two copies of a workspace for the same and goes by the time of a file. An archive's files are old, so
    # they would count as built already, and a file that is missing would go unnoticed. A directory of its own keeps
    # this build from passing for the checkout's; only the dependencies in it are reused.
    for path in (source / "rust").rglob("*"):
        path.touch()
    return build_wheel(
        source,
        tmp_path_factory.mktemp("wheel"),
        CARGO_TARGET_DIR=str(ROOT / "target" / "packaging"),
        # What is tested is that it builds and runs, not its speed.
        CARGO_PROFILE_RELEASE_LTO="off",
        CARGO_PROFILE_RELEASE_OPT_LEVEL="0",
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16",
    )


def test_the_kernels_are_a_relative_link() -> None:
    link = ROOT / "python" / "gdig" / "kernels"
    assert link.readlink() == Path("../../kernels")
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow the package that transformers imports"


def test_the_sdist_holds_the_sources_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive), "a link would be lost on the way"
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    # rust/fuzz is a workspace of its own, for nightly Rust.
    crates = (path for crate in ("gdig-core", "gdig-py") for path in (ROOT / "rust" / crate).rglob("*"))
    rust = {str(path.relative_to(ROOT)) for path in crates if path.suffix == ".rs" or path.name == "Cargo.toml"}
    top = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}
    assert files == top | rust | {f"python/{name}" for name in python_files()}


def test_the_wheel_of_the_sdist_holds_the_package_and_nothing_else(wheel_of_sdist: Path) -> None:
    files = set(zipfile.ZipFile(wheel_of_sdist).namelist())
    extension = {name for name in files if re.fullmatch(r"gdig/_native(\.abi3\.so|\.pyd)", name)}
    assert len(extension) == 1
    info = {name for name in files if ".dist-info/" in name}
    assert files - extension - info == python_files()
    assert {"gdig/py.typed", "gdig/_native.pyi", "gdig/kernels/project/reference.py"} <= files
    names = {name.partition("/")[2] for name in info if "/sboms/" not in name}
    assert names == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", *(f"licenses/{name}" for name in LICENCES)}


def test_the_wheel_of_a_checkout_holds_the_same(wheel_of_sdist: Path, tmp_path: Path) -> None:
    wheel = build_wheel(ROOT, tmp_path, CARGO_TARGET_DIR=str(ROOT / "target"))
    assert wheel.name == wheel_of_sdist.name
    assert set(zipfile.ZipFile(wheel).namelist()) == set(zipfile.ZipFile(wheel_of_sdist).namelist())


def test_metadata(wheel_of_sdist: Path) -> None:
    with zipfile.ZipFile(wheel_of_sdist) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        licence = archive.read(name.replace("METADATA", "licenses/LICENSE"))
    assert metadata["Name"] == "gdig"
    assert metadata["License-Expression"] == "Apache-2.0 AND BSD-3-Clause"
    assert metadata.get_all("License-File") == list(LICENCES)
    assert metadata["Requires-Python"] == ">=3.10"
    assert {re.split(r"[^a-z0-9-]", r)[0] for r in metadata.get_all("Requires-Dist")} >= {"torch", "transformers"}
    assert "influence" in metadata.get_payload(), "the README is the long description"
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in licence and b"END OF TERMS AND CONDITIONS" in licence
    assert "-cp310-abi3-" in wheel_of_sdist.name


PROGRAM = """
import shutil, sys
import numpy as np
import gdig, gdig._native
assert gdig.__file__.startswith(sys.prefix), gdig.__file__
assert gdig._native.__file__.startswith(sys.prefix), gdig._native.__file__
assert shutil.which("cargo") is None and shutil.which("rustc") is None
for part in ("project", "score", "covariance"):
    module = __import__(f"gdig.kernels.{part}", fromlist=["x"])
    assert module.__file__.startswith(sys.prefix), module.__file__
    __import__(f"gdig.kernels.{part}.reference")
x = np.repeat(np.eye(3, dtype=np.float32) * 10, 20, axis=0)
model = gdig.KMeans(3, random_state=1).fit(x)
labels = np.asarray(model.predict(x)).reshape(3, 20)
assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == 3, labels
print("well")
"""


def test_the_wheel_runs_without_rust(wheel_of_sdist: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel_of_sdist]
    subprocess.run(command, check=True, capture_output=True)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    (site,) = subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout.split()
    # The dependencies come from this environment. Its own .pth files, the editable gdig's among them, are not read.
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    bare = {"PATH": str(scripts), "HOME": str(tmp_path)}
    done = subprocess.run([python, "-c", PROGRAM], env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
    done = subprocess.run([scripts / "gdig", "--version"], env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert re.fullmatch(r"gdig \d+\.\d+\.\d+\S*\n", done.stdout), done.stderr
