"""`python -m tests.drill --minutes 10 --seed 0`: thousands of faults, each in a process of its own.

Required of every one: no answer that differs in silence, no traceback, no hang. Prints the counts, and each finding;
the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.drill import trial
from tests.drill.faults import KINDS, Fault, files_of, inject
from tests.drill.project import METHODS, choose, finish, make_all, stop_in_the_sweep

ERRORS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO, "EROFS": errno.EROFS}
_MOST_FAULTS = 6
"""Files of a run that are damaged at a time."""


class Drill:
    """The trials over one set of runs.

    Args:
        root: where the runs lie.
        random_seed: behind all choices.
    """

    def __init__(self, root: Path, random_seed: int) -> None:
        self.root, self.rng = root, Random(random_seed)
        self.findings: list[str] = []
        self.counts: Counter[str] = Counter()
        made = trial.run(lambda: make_all(root))
        assert made.kind == "answer", made
        self.options, other = made.value
        self.output = root / "chosen.jsonl"
        made = trial.run(lambda: finish(self.options, self.output), timeout_s=600)
        assert made.kind == "answer", made
        self.expected = made.value
        made = trial.run(lambda: finish(other, self.output), timeout_s=600)
        assert made.kind == "answer", made
        self.finished, self.other_run = root / "finished", root / "other-run"
        self.stopped = root / "stopped"
        stopped = trial.run(lambda: stop_in_the_sweep({**self.options, "run_path": str(self.stopped)}))
        assert stopped.kind == "killed" and any(self.stopped.rglob("resume/*")), stopped

    def damage_a_run(self, source: Path) -> None:
        """Damage some files of a copy of a run, then verify it, and choose by five methods."""
        copy = self._copy(source)
        faults: list[Fault] = []
        for file in self.rng.sample(files_of(copy), self.rng.randint(1, _MOST_FAULTS)):
            if not (copy / file).is_file() or not (copy / file).stat().st_size:
                continue  # a swap has moved it
            fault = inject(copy, file, self.rng.choice(KINDS), self.rng, self.other_run)
            faults += [fault] if fault is not None else []
        if not faults:
            return
        self.counts["faults of files"] += len(faults)
        what = f"{source.name}: {', '.join(map(str, faults))}"
        outcome = trial.run(lambda: _verify(copy))
        self._check(outcome, f"{what}: verify")
        if source is self.finished and outcome.kind == "answer":
            with_record = "run.json" not in outcome.value
            unseen = [f for f in faults if f.must_be_seen(with_record) and f.file not in outcome.value]
            self._find(unseen, f"{what}: verify says nothing of {', '.join(map(str, unseen))}")
        options = {**self.options, "run_path": str(copy)}
        for method in self.rng.sample(METHODS, len(METHODS)):
            outcome = trial.run(lambda method=method: choose(options, method, self.output))
            self._check(outcome, f"{what}: {method}", self.expected[method])

    def strike_an_operation(self) -> None:
        """Let a file operation of a start fail, or kill it there; the next start ends with the same choice."""
        source = self.rng.choice((None, self.stopped, self.finished))
        copy = self._copy(source) if source is not None else self._fresh()
        options, method = {**self.options, "run_path": str(copy)}, self.rng.choice(METHODS)
        name = self.rng.choice(list(ERRORS))
        n = int(2 ** self.rng.uniform(0, 8.5))
        stays = name in ("ENOSPC", "EDQUOT", "EROFS") or self.rng.random() < 0.5
        strike = trial.Strike(copy, n, ERRORS[name], stays)
        self.counts[f"{name} at an operation"] += 1
        what = f"{source.name if source else 'new'}: {name} at operation {n}{' and after' if stays else ''}: {method}"
        outcome = trial.run(lambda: choose(options, method, self.output), strike)
        if outcome.kind != "killed" or name != "kill":
            self._check(outcome, what, self.expected[method])
        again = trial.run(lambda: choose(options, method, self.output))
        self._check(again, f"{what}, and again", self.expected[method], must_answer=True)

    def damage_the_cache(self) -> None:
        """Damage the cache of the input files; a start makes it again in silence."""
        cache = self.root / "cache" / "gdig"
        files = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]
        if not files:
            return
        file = self.rng.choice(files)
        fault = inject(cache, file.relative_to(cache).as_posix(), self.rng.choice(KINDS[:4]), self.rng)
        self.counts["faults of the cache"] += 1
        copy = self._copy(self.finished)
        outcome = trial.run(lambda: choose({**self.options, "run_path": str(copy)}, "top", self.output))
        self._check(outcome, f"cache: {fault}", self.expected["top"], must_answer=True)

    def _check(self, outcome: trial.Outcome, what: str, expected: Any = None, must_answer: bool = False) -> None:
        self.counts[f"trials: {outcome.kind}"] += 1
        if outcome.kind == "answer":
            self._find(expected is not None and outcome.value != expected, f"{what}: another answer, in silence")
        elif outcome.kind == "refused":
            self._find(must_answer, f"{what}: refused: {outcome.value}")
        else:
            self._find(True, f"{what}: {outcome.kind}: {outcome.value}")

    def _find(self, wrong: Any, text: str) -> None:
        if wrong:
            self.findings.append(text)
            print(f"FINDING {text}", flush=True)

    def _copy(self, source: Path) -> Path:
        copy = self._fresh()
        shutil.copytree(source, copy, symlinks=True)
        return copy

    def _fresh(self) -> Path:
        path = self.root / "copy"
        shutil.rmtree(path, ignore_errors=True)
        return path


def _verify(run_path: Path) -> dict[str, str]:
    """The state of each file of a run that is not sound."""
    import gdig.api

    return {report.file: report.state for report in gdig.api.verify(run_path).files if report.state != "sound"}


def main() -> int:
    """Drill for some minutes."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gdig-drill-") as folder:
        root = Path(folder)
        if not trial.is_preloaded():
            trial.preload(Path(tempfile.mkdtemp(prefix="gdig-shim-")))

        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        import gdig.api  # noqa: F401  # before the forks, so that none of them imports it

        begin = time.monotonic()
        drill = Drill(root, given.seed)
        while time.monotonic() - begin < 60 * given.minutes:
            kind = drill.rng.random()
            if kind < 0.5:
                drill.damage_a_run(drill.finished)
            elif kind < 0.65:
                drill.damage_a_run(drill.stopped)
            elif kind < 0.95:
                drill.strike_an_operation()
            else:
                drill.damage_the_cache()
        for name, count in sorted(drill.counts.items()):
            print(f"{count:7,} {name}")
        print(f"{len(drill.findings):7,} findings, random seed {given.seed}")
    return 1 if drill.findings else 0


if __name__ == "__main__":
    sys.exit(main())
