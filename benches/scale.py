"""k-means and resampling at the size gdig is meant for: by default 10^9 rows of int8, on disk, larger than memory.

    python -m benches.scale --directory /data                  # 20 GB of rows, 8 GB of labels; deleted at the end
    python -m benches.scale --rows 100000000 --directory /data

The bench makes the rows, trains k-means on a sample, labels every row, and draws rows from the clusters. The record has
each step's seconds, its peak anonymous memory, and its bytes a second beside the disk's own rate. That rate is of
O_DIRECT reads of the same files; the page cache is dropped before both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import gdig
from benches.kmeans import direct_rate, evict
from benches.shared.machine import ROOT, core_machine
from gdig import KMeans, SketchStore

RECORD = ROOT / "benches" / "record" / "scale.json"
BLOCK = 1 << 20


class Peak:
    """The peak of the process's anonymous memory, read every 20 ms."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.bytes = max(self.bytes, anonymous())

    def __enter__(self) -> Peak:
        self.bytes = anonymous()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def anonymous() -> int:
    """Bytes of the process that no file backs."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


@contextmanager
def step(record: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Time a step and watch its memory; the body may add more figures."""
    facts = record.setdefault("steps", {}).setdefault(name, {})
    before, begin = anonymous(), time.perf_counter()
    with Peak() as peak:
        yield facts
    facts["seconds"] = time.perf_counter() - begin
    facts["anonymous_bytes"] = peak.bytes
    facts["anonymous_bytes_above_before"] = peak.bytes - before
    if "bytes" in facts:
        facts["bytes_per_second"] = facts["bytes"] / facts["seconds"]
    print(name, json.dumps(facts), flush=True)


def make(directory: Path, rows: int, dim: int, per_shard: int) -> SketchStore:
    """Rows around 20,000 centres. The noise is one block, shifted by another number of rows for each block of rows."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((20_000, dim), dtype=np.float32) * 2
    noise = rng.standard_normal((BLOCK, dim), dtype=np.float32)
    with SketchStore.create(directory, dim, dtype="int8", rows_per_shard=per_shard) as store:
        for start in range(0, rows, BLOCK):
            n = min(BLOCK, rows - start)
            shifted = np.roll(noise, int(rng.integers(BLOCK)), 0)[:n]
            store.append(centers[rng.integers(0, len(centers), n)] + shifted)
    return store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--clusters", type=int, default=512)
    parser.add_argument("--budget", type=int, default=64_000)
    parser.add_argument("--rows-per-shard", type=int, default=1 << 20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--directory", type=Path, required=True, help="on the disk to be measured")
    parser.add_argument("--keep", action="store_true", help="leave the rows there, and take those that are there")
    parser.add_argument("--output", type=Path, default=RECORD)
    arguments = parser.parse_args()
    rows, dim, threads = arguments.rows, arguments.dim, arguments.threads
    record: dict[str, Any] = {"machine": core_machine(), "rows": rows, "dim": dim, "dtype": "int8", "threads": threads}
    record["clusters"], record["rows_per_shard"] = arguments.clusters, arguments.rows_per_shard
    directory = arguments.directory / "gdig-scale"
    sweep, labels = directory / "rows", directory / "labels"

    if not (arguments.keep and sweep.exists()):
        with step(record, "make") as facts:
            make(sweep, rows, dim, arguments.rows_per_shard)
            facts["bytes"] = sum(path.stat().st_size for path in sweep.iterdir())
    store = SketchStore.open(sweep)
    shards = sorted(sweep.glob("*.safetensors"))
    total = sum(path.stat().st_size for path in shards)
    disk = []
    for _ in range(2):  # the disk's own rate, before and after
        for path in shards:
            evict(path)
        disk.append(direct_rate(shards, threads))
        if len(disk) == 1:
            for path in shards:
                evict(path)
            with step(record, "fit") as facts:
                model = KMeans(arguments.clusters, n_threads=threads).fit(store)
                facts.update(n_iter=model.n_iter_, trained_on=int(model.counts_.sum()))
            for path in shards:
                evict(path)
            shutil.rmtree(labels, ignore_errors=True)
            with step(record, "predict") as facts:
                model.write_labels(store, labels)
                facts["bytes"] = total
    record["direct_bytes_per_second"] = disk
    record["share_of_direct"] = record["steps"]["predict"]["bytes_per_second"] / (sum(disk) / 2)
    files = sorted(labels.glob("*.safetensors"))
    for path in files:
        evict(path)
    with step(record, "resample") as facts:
        chosen = gdig.resample(labels, arguments.budget, 0)
        facts.update(bytes=4 * rows, drawn=len(chosen))
    assert len(np.unique(chosen)) == min(arguments.budget, rows)
    with step(record, "verify") as facts:
        facts["bytes"] = store.verify().bytes
    if not arguments.keep:
        shutil.rmtree(directory)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"predict: {record['share_of_direct']:.0%} of the disk's direct rate; written to {arguments.output}")


if __name__ == "__main__":
    main()
