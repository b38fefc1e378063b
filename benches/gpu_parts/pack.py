"""Packs what a machine with a GPU lacks, where it has torch, transformers and Triton but no network and no Rust.

    python -m benches.gpu_parts.pack --python-version 3.12     # into .gpu/, at most 20 MB

The folder holds the built extension, wheels of gdig's other dependencies, and the commit. `benches/gpu_parts/start.sh`
runs the bench with it; both travel with the checkout.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / ".gpu"
MOST_BYTES = 20_000_000
WHEELS = ("tyro", "docstring-parser", "typeguard", "orjson", "rich", "markdown-it-py", "mdurl", "pygments", "jinja2",
          "markupsafe", "typing-extensions", "tqdm", "pyyaml", "hypothesis", "sortedcontainers")  # fmt: skip
"""What gdig and the kernels' checks import, beside torch, transformers, numpy, safetensors and Triton. `datasets` and
pyarrow read files, and the bench reads none."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    arguments = parser.parse_args()
    extension = ROOT / "python" / "gdig" / "_native.abi3.so"
    if not extension.is_file():
        parser.error(f"{extension}: expected the built extension; run `make venv` first")
    shutil.rmtree(PACK, ignore_errors=True)
    (PACK / "wheels").mkdir(parents=True)
    shutil.copy(extension, PACK)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                "--python-version", arguments.python_version, "--platform", "manylinux2014_x86_64",
                "--platform", "manylinux_2_28_x86_64", "--platform", "any", "--dest", str(PACK / "wheels")]  # fmt: skip
    subprocess.run([*download, *WHEELS], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True,
                             text=True, check=True).stdout  # fmt: skip
    (PACK / "commit").write_text(commit.strip() + "+" * bool(changed) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        print(f"{PACK}: {size / 1e6:.1f} MB, expected at most {MOST_BYTES / 1e6:.0f} MB", file=sys.stderr)
        return 1
    print(f"{PACK}: {size / 1e6:.1f} MB; there, in the root of the checkout: bash benches/gpu_parts/start.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
