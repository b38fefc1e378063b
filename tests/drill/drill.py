"""The trials of the drill, over a finished run, stopped ones, and one over other rows."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.drill import trial
from tests.drill.faults import KINDS, Fault, files_of, inject
from tests.drill.forgery import forge_record, forge_tensors
from tests.drill.project import METHODS, STOPS, choose, finish, make_all, stop

ERRORS = {"kill": 0, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO, "EROFS": errno.EROFS}
_MOST_FAULTS = 12
"""Files of a run that are damaged at a time."""
_MOST_OPERATIONS = 8.5
"""The largest number of a file operation that is struck, as a power of 2."""
_ONE_BY_ONE = 24
"""Files that are damaged in turn, each alone, in one process."""
_MOST_STOPS = 20
"""Times that a run is stopped until the moment has work in progress."""


class Runs:
    """The runs that the drill damages copies of, and what each method chooses from them.

    Args:
        root: where the runs lie.
    """

    def __init__(self, root: Path) -> None:
        self.root, output = root, root / "chosen.jsonl"
        self.options, other = _made(lambda: make_all(root))
        self.expected = _made(lambda: finish(self.options, output))
        _made(lambda: finish(other, output))
        self.finished, self.other = root / "finished", root / "other-run"
        self.stopped = [root / f"stopped-{stage}" for stage in STOPS]
        for path, stage in zip(self.stopped, STOPS, strict=True):
            self._stop(path, stage)

    def _stop(self, path: Path, stage: str) -> None:
        """Stop a run in a stage. A thread writes resume files and removes those of finished shards, so the moment may
        have none; then again."""
        for _ in range(_MOST_STOPS):
            shutil.rmtree(path, ignore_errors=True)
            stopped = trial.run(lambda: stop({**self.options, "run_path": str(path)}, stage), timeout_s=600)
            assert stopped.kind == "killed", (stage, stopped)
            if any(path.rglob("resume/*" if stage != "cluster" else "centroids.safetensors")):
                return
        raise AssertionError(f"{_MOST_STOPS} runs that were stopped in {stage} have no work in progress")


class Drill:
    """One of several workers: it draws trials, and counts what they find.

    Args:
        runs: the runs, which stay as they are.
        folder: where the worker keeps its copies.
        random_seed: behind all choices.
    """

    def __init__(self, runs: Runs, folder: Path, random_seed: int) -> None:
        self.runs, self.folder, self.rng = runs, folder, Random(random_seed)
        self.findings: list[str] = []
        self.counts: Counter[str] = Counter()
        shutil.copytree(runs.root / "cache", folder / "cache")
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        self.output = folder / "chosen.jsonl"
        self._acts: list[tuple[float, Callable[[], None]]] = [
            (0.25, lambda: self.damage_a_run(runs.finished)),
            (0.10, lambda: self.damage_a_run(self.rng.choice(runs.stopped))),
            (0.20, self.damage_one_by_one),
            (0.25, self.strike_an_operation),
            (0.05, self.damage_the_cache),
            (0.15, self.forge),
        ]

    def step(self) -> None:
        """Draw a trial, and do it."""
        shares, acts = zip(*self._acts, strict=True)
        self.rng.choices(acts, shares)[0]()

    def damage_a_run(self, source: Path) -> None:
        """Damage some files of a copy of a run, then verify it, and choose by five methods."""
        copy = self._copy(source)
        faults: list[Fault] = []
        struck: set[str] = set()  # each file has one fault at most, so that verify is asked for a state that is known
        for file in self.rng.sample(files_of(copy), min(len(files_of(copy)), self.rng.randint(1, _MOST_FAULTS))):
            if file in struck or not (copy / file).stat().st_size:
                continue
            fault = inject(copy, file, self.rng.choice(KINDS), self.rng, self.runs.other, struck)
            if fault is not None:
                faults.append(fault)
                struck |= {file, fault.other} if fault.kind == "swapped" and fault.other else {file}
        if not faults:
            return
        self.counts["faults of files, then verify and five methods"] += len(faults)
        what = f"{source.name}: {', '.join(map(str, faults))}"
        outcome = trial.run(lambda: _verify(copy))
        self._check(outcome, f"{what}: verify")
        if source is self.runs.finished and outcome.kind == "answer":
            self._find(_unseen(faults, outcome.value), f"{what}: verify does not say all: {outcome.value}")
        options = {**self.runs.options, "run_path": str(copy)}
        for method in self.rng.sample(METHODS, len(METHODS)):
            outcome = trial.run(lambda method=method: choose(options, method, self.output))
            self._check(outcome, f"{what}: {method}", self.runs.expected[method])

    def damage_one_by_one(self) -> None:
        """Damage files of the finished run in turn, each alone: verify names each."""
        copy = self._copy(self.runs.finished)
        files = [file for file in files_of(copy) if (copy / file).stat().st_size]
        faults = [(file, self.rng.choice(KINDS)) for file in self.rng.choices(files, k=_ONE_BY_ONE)]
        rng = Random(self.rng.random())

        def verify_each() -> list[str]:
            missed = []
            for file, kind in faults:
                fault = inject(copy, file, kind, rng, self.runs.other)
                if fault is not None and (unseen := _unseen([fault], _verify(copy))):
                    missed += unseen
                for changed in {file, fault.other if fault and fault.kind == "swapped" else file}:
                    shutil.copy2(self.runs.finished / str(changed), copy / str(changed))
            return missed

        self.counts["faults of files, then verify"] += len(faults)
        outcome = trial.run(verify_each)
        self._check(outcome, f"one by one: {faults}: verify")
        self._find(outcome.kind == "answer" and outcome.value, f"one by one: verify does not say: {outcome.value}")

    def strike_an_operation(self) -> None:
        """Let a file operation of a start fail, or kill it there; the next start ends with the same choice."""
        source = self.rng.choice((None, *self.runs.stopped, self.runs.finished))
        copy = self._copy(source) if source is not None else self._fresh()
        options, method = {**self.runs.options, "run_path": str(copy)}, self.rng.choice(METHODS)
        name = self.rng.choice(list(ERRORS))
        n = int(2 ** self.rng.uniform(0, _MOST_OPERATIONS))
        stays = name in ("ENOSPC", "EDQUOT", "EROFS") or self.rng.random() < 0.5
        self.counts[f"{name} at an operation"] += 1
        what = f"{source.name if source else 'new'}: {name} at operation {n}{' and after' if stays else ''}: {method}"
        strike = trial.Strike(copy, n, ERRORS[name], stays)
        outcome = trial.run(lambda: choose(options, method, self.output), strike)
        if outcome.kind != "killed" or name != "kill":
            self._check(outcome, what, self.runs.expected[method])
        again = trial.run(lambda: choose(options, method, self.output))
        self._check(again, f"{what}, and again", self.runs.expected[method], must_answer=True)

    def damage_the_cache(self) -> None:
        """Damage the cache of the input files; a start makes it again in silence."""
        cache = self.folder / "cache" / "gdig"
        files = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size]
        if not files:
            return
        file = self.rng.choice(files)
        fault = inject(cache, file.relative_to(cache).as_posix(), self.rng.choice(KINDS[:4]), self.rng)
        self.counts["faults of the cache"] += 1
        copy = self._copy(self.runs.finished)
        options = {**self.runs.options, "run_path": str(copy)}
        outcome = trial.run(lambda: choose(options, "top", self.output))
        self._check(outcome, f"cache: {fault}", self.runs.expected["top"], must_answer=True)

    def forge(self) -> None:
        """Forge a file of a copy of a run, then verify it, and choose by a method: no traceback, and no hang."""
        source = self.rng.choice((self.runs.finished, self.rng.choice(self.runs.stopped)))
        copy = self._copy(source)
        if self.rng.random() < 0.3:
            what = forge_record(copy / "run.json", self.rng)
        else:
            file = self.rng.choice([file for file in files_of(copy) if file.endswith(".safetensors")])
            what = f"{file}: {forge_tensors(copy / file, self.rng)}"
        self.counts["forgeries"] += 1
        what = f"{source.name}: forged {what}"
        self._check(trial.run(lambda: _verify(copy)), f"{what}: verify")
        for method in self.rng.sample(METHODS, 2):
            # Without a model, all options are those of the record.
            own = self.rng.random() < 0.5
            options = {"method": method, "quiet": True} if own else {**self.runs.options, "method": method}
            options["run_path"] = str(copy)
            self._check(trial.run(lambda o=options, m=method: choose(o, m, self.output)), f"{what}: {method}")

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
        path = self.folder / "copy"
        shutil.rmtree(path, ignore_errors=True)
        return path


def _made(make: Callable[[], Any]) -> Any:
    made = trial.run(make, timeout_s=600)
    assert made.kind == "answer", made
    return made.value


def _unseen(faults: list[Fault], states: dict[str, str]) -> list[str]:
    """The faults of a finished run that verify has to name and does not."""
    with_record = "run.json" not in states
    if any(fault.file == "run.json" and fault.kind == "foreign" for fault in faults):
        # It is sound by itself: the other files are foreign to it, but for those that are of that run too.
        faults = [fault for fault in faults if fault.kind != "foreign"]
        if "foreign" not in states.values():
            return ["foreign run.json"]
    must = (fault for fault in faults if fault.must_be_seen(with_record) and fault.file not in states)
    return [str(fault) for fault in must if not _has_no_witness(fault, states)]


def _has_no_witness(fault: Fault, states: dict[str, str]) -> bool:
    """Whether a file of labels is of another place or run, and so are the shard and the centroids that it names: labels
    are known by these two alone."""
    folder, _, name = fault.file.rpartition("/")
    is_moved = folder == "clusters/labels" and fault.kind in ("swapped", "foreign")
    return is_moved and f"sweep/{name}" in states and "clusters/centroids.safetensors" in states


def _verify(run_path: Path) -> dict[str, str]:
    """The state of each file of a run that is not sound."""
    from gdig.run.verify import verify

    return {report.file: report.state for report in verify(run_path).files if report.state != "sound"}
