"""`python -m tests.drill --minutes 10 --random-seed 0`: thousands of faults, each answered in a process of its own.

Required of every one: no answer that differs in silence, no traceback, no hang. Prints the counts, and each finding;
the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pickle
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.drill import trial

# Imported before the forks, so that no trial imports them.
_MODULES = (
    "gdig.api", "gdig.data.corpus", "gdig.data.tokens", "gdig.model.load", "gdig.training.job", "datasets",
    "pyarrow.parquet", "tests.conftest", "tests.support.project_fixtures", "transformers.models.auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
)  # fmt: skip


def main() -> int:
    """Drill for some minutes."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="what the trials take; the runs take one more")
    parser.add_argument("--random-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="workers that try at a time")
    given = parser.parse_args()
    if not trial.is_preloaded():
        # Starts this program again: nothing after this line runs, so no folder is made before it.
        trial.preload(Path(tempfile.mkdtemp(prefix="gdig-shim-")))
    with tempfile.TemporaryDirectory(prefix="gdig-drill-") as folder:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        for module in _MODULES:
            importlib.import_module(module)
        from tests.drill.drill import Runs

        os.environ["XDG_CACHE_HOME"] = str(root / "cache")  # tests.conftest leaves it, and so does this program
        runs = Runs(root)
        end = time.monotonic() + 60 * given.minutes
        workers = [_start(runs, root / f"worker-{i}", given.random_seed * 1000 + i, end) for i in range(given.jobs)]
        counts, findings = Counter[str](), 0
        for worker, reader in workers:
            with os.fdopen(reader, "rb") as results:
                content = results.read()
            _, status = os.waitpid(worker, 0)
            if not content:
                print(f"FINDING a worker of the drill ended with status {status}", flush=True)
                findings += 1
                continue
            more, more_findings = pickle.loads(content)
            counts.update(more)
            findings += more_findings
    for name, count in sorted(counts.items()):
        print(f"{count:7,} {name}")
    faults = sum(count for name, count in counts.items() if not name.startswith("trials: "))
    trials = sum(count for name, count in counts.items() if name.startswith("trials: "))
    print(f"{faults:7,} faults in {trials:,} trials, {findings:,} findings, random seed {given.random_seed}")
    return 1 if findings else 0


def _start(runs: object, folder: Path, random_seed: int, end: float) -> tuple[int, int]:
    """Fork a worker that tries until the `end`; return its process, and where it writes its counts and findings."""
    from tests.drill.drill import Drill

    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        status = 1
        try:
            os.close(reader)
            drill = Drill(runs, folder, random_seed)  # type: ignore[arg-type]
            while time.monotonic() < end:
                drill.step()
            with os.fdopen(writer, "wb") as results:
                pickle.dump((drill.counts, len(drill.findings)), results)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return worker, reader


if __name__ == "__main__":
    sys.exit(main())
