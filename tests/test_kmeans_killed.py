"""kill -9 at any moment of a fit or of a prediction: started again, the result is what it would have been."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gdig import KMeans, SketchStore
from gdig.errors import StoreError
from gdig.store.tensor_file import read_tensors

pytestmark = pytest.mark.slow

ROWS, DIM = 6_000, 16
X = np.random.default_rng(5).standard_normal((ROWS, DIM), dtype=np.float32)
# Rows without clusters: Lloyd goes on for all of these iterations. The scalar kernel gives the parent time to see them.
FIT = {"n_clusters": 300, "max_iter": 12, "tol": 0, "train_rows": "all", "n_threads": 2, "kernel": "scalar"}


def kill_when(code: str, arguments: list[object], seen: Callable[[], bool]) -> bool:
    """Run `code`; kill it as soon as `seen`. False if it ended before."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not seen() and process.poll() is None:
            time.sleep(0.0005)
        process.kill()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def iterations(resume_file: Path) -> int:
    try:
        return int(read_tensors(resume_file)[1]["n_iter"])
    except StoreError:
        return 0


def test_a_fit_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    np.save(tmp_path / "x.npy", X)
    resume_file = tmp_path / "out" / "fit.safetensors"
    code = f"""
        import sys
        from gdig import KMeans
        KMeans(**{FIT!r}).fit(sys.argv[1], resume_file=sys.argv[2])
    """
    n_stored, stops = 0, []
    for ahead in (1, 2, 1, 3):
        # The file is complete or absent at every moment that the parent looks at it, and after the kill.
        if not kill_when(code, [tmp_path / "x.npy", resume_file], lambda: iterations(resume_file) >= n_stored + ahead):  # noqa: B023
            break
        now = iterations(resume_file)
        assert now >= n_stored + ahead, "what an earlier run did was done again, or lost"
        n_stored = now
        stops.append(n_stored)
    assert stops and n_stored < FIT["max_iter"], "killed too late to show anything"
    seen = []
    resumed = KMeans(**FIT).fit(
        tmp_path / "x.npy", callback=lambda *step: seen.append(step[0]), resume_file=resume_file
    )
    whole = KMeans(**FIT).fit(X)
    assert seen == list(range(n_stored + 1, whole.n_iter_ + 1))
    assert resumed.cluster_centers_.tobytes() == whole.cluster_centers_.tobytes()
    assert (resumed.inertia_, resumed.n_iter_) == (whole.inertia_, whole.n_iter_)
    assert resumed.counts_.tobytes() == whole.counts_.tobytes()
    assert os.listdir(resume_file.parent) == [resume_file.name]  # noqa: PTH208


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Of each complete file: when it was written, and its bytes."""
    paths = directory.glob("*.safetensors") if directory.exists() else []
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.mark.parametrize(("rows_per_shard", "clusters"), [(250, 4000), (5, 10)], ids=["searching", "writing"])
def test_a_prediction_killed_again_and_again_ends_with_the_same_files(tmp_path, rows_per_shard, clusters):
    # Of the first sort nearly all time goes into the search, of the second nearly all into files: kills hit either.
    with SketchStore.create(tmp_path / "store", DIM, rows_per_shard=rows_per_shard) as store:
        store.append(X)
    model = KMeans(clusters, init=X[:clusters], max_iter=1, train_rows=clusters).fit(store)
    model.set_params(kernel="scalar")
    model.save(tmp_path / "model.safetensors")
    whole = tmp_path / "whole"
    model.write_labels(store, whole)
    labels, n_shards = tmp_path / "labels", ROWS // rows_per_shard
    code = """
        import sys
        from gdig import KMeans
        KMeans.load(sys.argv[1]).write_labels(sys.argv[2], sys.argv[3])
    """
    done: dict[str, tuple[int, bytes]] = {}
    draw = random.Random(1)
    for _ in range(4):
        until = len(done) + draw.randint(1, n_shards // 12)

        def seen(until=until) -> bool:
            return labels.exists() and sum(path.suffix == ".safetensors" for path in labels.iterdir()) >= until

        if not kill_when(code, [tmp_path / "model.safetensors", tmp_path / "store", labels], seen):
            break
        now = files(labels)
        assert len(now) >= until
        assert all(now[name] == was for name, was in done.items()), "what was done was done again"
        done = now
    assert 0 < len(done) < n_shards, "killed too late to show anything"
    steps = []
    # A writer that was killed between creating its temporary file and renaming it leaves one; the next one removes it.
    (labels / f".{n_shards - 1:08d}.safetensors.1-0-0.tmp").write_bytes(b"half")
    model.write_labels(store, labels, callback=lambda *step: steps.append(step))
    assert steps[-1] == (ROWS, ROWS)
    after = files(labels)
    assert all(after[name] == was for name, was in done.items()), "what was done was done again"
    assert {name: file[1] for name, file in after.items()} == {name: file[1] for name, file in files(whole).items()}
    assert all(path.suffix == ".safetensors" for path in labels.iterdir()), "a temporary file is left"
