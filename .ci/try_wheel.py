"""Try an installed wheel with NumPy alone: k-means, the store of sketches and resampling, on rows of known answers.

python .ci/try_wheel.py              # installed
python .ci/try_wheel.py --unpacked   # anywhere on PYTHONPATH
"""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import gdig


def main() -> None:
    """Raise an AssertionError where a result is wrong."""
    if "--unpacked" not in sys.argv:
        assert Path(gdig.__file__).is_relative_to(sys.prefix), f"{gdig.__file__} is not the installed wheel"
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(8, 64)) * 20
    kind = rng.integers(0, 8, 4000)
    x = (centers[kind] + rng.normal(size=(4000, 64))).astype(np.float32)

    for dtype in (np.float32, np.float16):
        model = gdig.KMeans(8, random_state=0).fit(x.astype(dtype))
        labels = np.asarray(model.predict(x.astype(dtype)))
        groups = {(int(k), int(label)) for k, label in zip(kind, labels, strict=True)}
        assert len(groups) == 8, f"{np.dtype(dtype)}: {len(groups)} pairs of kind and label, expected 8"

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows removes no mapped file
        rows = np.asarray(x, dtype=np.float16)
        with gdig.SketchStore.create(folder, dim=64, dtype="float16", rows_per_shard=1024) as store:
            store.append(rows)
        again = gdig.SketchStore.open(folder)
        assert len(again) == 4000
        assert np.array_equal(np.concatenate([again.rows(i) for i in again.shards]), rows)
        stored = gdig.KMeans(8, random_state=0).fit(again)
        assert np.array_equal(stored.predict(again), labels), "rows of a store and of an array get other labels"

    chosen = gdig.resample(labels.astype(np.uint32), budget=800, random_seed=0)
    counts = np.bincount(kind[np.asarray(chosen)], minlength=8)
    assert len(chosen) == 800 and counts.min() == counts.max() == 100, counts
    if not importlib.util.find_spec("torch"):
        try:
            gdig.select(model="m", candidates="c", seeds="s", budget=1)
        except gdig.ModelError as error:
            assert "which is not installed" in str(error), error
        else:
            raise AssertionError("gdig.select ran without torch")
        program = [sys.executable, "-m", "gdig", "select", "--help"]
        command = subprocess.run(program, capture_output=True, text=True) if "--unpacked" not in sys.argv else None
        assert command is None or (command.returncode == 2 and command.stderr.count("\n") == 1), command
    torch = "with" if importlib.util.find_spec("torch") else "without"
    print(f"well: gdig {gdig.__version__}, {platform.machine()}, Python {platform.python_version()}, {torch} torch")


if __name__ == "__main__":
    main()
