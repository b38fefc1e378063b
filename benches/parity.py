"""gdig's scores beside kronfluence's, bergson's and a dense float64 reference, on the same checkpoints and rows.

    python -m benches.parity                          # a minute; prints tables, writes benches/record/parity.json
    python -m benches.parity --write-expectations     # what tests/test_parity.py compares with, into tests/data/

The other libraries are installed by `pip install 'gdig[peers]'`, bergson with --no-deps. The bench names those that are
absent. Their conventions are brought to gdig's, one by one (parity_parts/library_scores.py lists them). With everything
in float64, gdig's and kronfluence's scores are the same, to the float32 that gdig stores. What differs in float32 is
rounding:

- The float32 pass of the model, which the reference on a float32 model shows by itself ("float32 pass alone").
- EK-FAC: float32 sums of A and S. Where eigenvalues lie near one another, rounding turns the eigenvectors, and so
  changes the averages that make the corrected eigenvalues. K-FAC's inverse does not depend on such turns.
- Relative differences row by row ("elementwise" in the record) are larger for scores near zero, because terms of both
  signs cancel there.

"At 0.99" is gdig with 0.99 of the energy of each seed's preconditioned gradient, as by default: an approximation. A
second table leaves one convention at a time as a library has it. The bench exits with 1 if a difference at full rank is
above 1e-5 of the seed's largest score.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch

from benches.libraries.common import AbsentError, versions
from benches.parity_parts import dense_reference, gdig_scores, parity_tables, stored_scores
from benches.parity_parts.library_scores import SIDES, InexpressibleError
from benches.parity_parts.parity_cases import CASES, MODELS, Case, Project, make_project
from benches.shared.machine import ROOT, machine, provenance
from gdig.store.atomic import replacing

RECORD = ROOT / "benches" / "record" / "parity.json"
EXPECTATIONS = ROOT / "tests" / "data" / "parity.json"

POOL_ROWS, SEED_ROWS = 48, 8

EKFAC, ABSOLUTE = Case("ekfac"), Case("kfac", "absolute", 3e-4)
UNMATCHED: dict[str, tuple[str, str, Case, dict[str, bool]]] = {
    # what, model, side, case, how
    "bergson: last positions not in A and S": ("gpt2", "bergson", EKFAC, {"last_positions": False}),
    "bergson: factors of the mean loss's Hessian": ("gpt2", "bergson", EKFAC, {"gradients_loss": False}),
    "bergson: no bias column": ("gpt2", "bergson", EKFAC, {"bias": False}),
    "kronfluence: K-FAC without tokens per example": ("gpt2", "kronfluence", ABSOLUTE, {"tokens_per_example": False}),
}


def main() -> None:
    """Compare, print and record."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.write_expectations:
        with tempfile.TemporaryDirectory() as folder:
            project = make_project(Path(folder), stored_scores.MODEL, stored_scores.ROWS, stored_scores.SEEDS)
            sides = {name: Sides(project, name, **options) for name, options in stored_scores.PEERS.items()}
            cases = stored_scores.TESTED
            try:
                scores_by_case = {
                    case.name: {name: side.scores(case) for name, side in sides.items()} for case in cases
                }
            except AbsentError as error:
                raise SystemExit(str(error)) from None
        stored_scores.write_expectations(arguments.expectations, scores_by_case, versions())
        print(f"written: {arguments.expectations}")
        return
    began = time.perf_counter()
    record: dict[str, Any] = {"bench": "parity", "machine": machine() | {"threads": arguments.threads}}
    record |= {**provenance(ROOT), "peers": versions(), "rows": POOL_ROWS, "seeds": SEED_ROWS}
    record |= {"expected": parity_tables.EXPECTED, "models": {}, "unmatched": {}, "absent": {}}
    for kind in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            project = make_project(Path(folder), kind, POOL_ROWS, SEED_ROWS)
            record["models"][kind] = _cases(project, record["absent"])
            record["unmatched"] |= _unmatched(project)
    record["seconds"] = round(time.perf_counter() - began, 1)
    print(parity_tables.full_table(record["models"]))
    if record["unmatched"]:
        print(f"\n{parity_tables.unmatched_table(record['unmatched'])}")
    for name, why in record["absent"].items():
        print(f"absent: {name}: {why}")
    wrong = parity_tables.missed(record["models"])
    print("\n".join(f"MISSED: {line}" for line in wrong) or f"met: at full rank all within {parity_tables.EXPECTED:g}")
    if arguments.record is not None:
        with replacing(arguments.record) as temporary:
            temporary.write_text(_json(record), encoding="utf-8")
        print(f"recorded in {arguments.record}")
    raise SystemExit(1 if wrong else 0)


class Sides:
    """One library on one project, made once for each reduction of the loss, so that factors are fitted once."""

    def __init__(self, project: Project, name: str, **options: Any) -> None:
        self._project, self._name, self._options = project, name, options
        self._made: dict[str, Any] = {}

    def scores(self, case: Case) -> np.ndarray:
        """Influence [rows, seeds].

        Raises:
            AbsentError: when the library cannot be imported.
            InexpressibleError: when it has no such damping.
        """
        reduction = case.loss_reduction
        if reduction not in self._made:
            self._made[reduction] = SIDES[self._name](self._project, reduction, **self._options)
        return self._made[reduction].scores(case)


def _cases(project: Project, absent: dict[str, str]) -> dict[str, Any]:
    libraries = {name: Sides(project, name) for name in SIDES}
    libraries[parity_tables.WIDE[1]] = Sides(project, "kronfluence", dtype=torch.float64)
    results: dict[str, Any] = {}
    for case in CASES:
        sides = {
            parity_tables.EXACT: gdig_scores.scores(project, case, **gdig_scores.FULL),
            parity_tables.DEFAULT: gdig_scores.scores(project, case, seed_energy=0.99, seed_rank=1 << 16),
            parity_tables.REFERENCE: dense_reference.scores(project, case),
            parity_tables.FLOOR: dense_reference.scores(project, case, torch.float32),
            parity_tables.WIDE[0]: gdig_scores.scores_float64(project, case),
        }
        cannot = {}
        for name, library in libraries.items():
            try:
                sides[name] = library.scores(case)
            except AbsentError as error:
                absent[name] = str(error)
            except InexpressibleError as error:
                cannot[name] = str(error)
        print(f"{project.kind}, {case.name}", file=sys.stderr, flush=True)
        results[case.name] = {"inexpressible": cannot, "compared": parity_tables.compare_all(sides)}
    return results


def _unmatched(project: Project) -> dict[str, Any]:
    results = {}
    for name, (kind, side, case, how) in UNMATCHED.items():
        if kind != project.kind:
            continue
        try:
            other = SIDES[side](project, case.loss_reduction, **how).scores(case)
        except AbsentError:
            continue
        compared = parity_tables.compare(other, gdig_scores.scores(project, case, **gdig_scores.FULL))
        results[name] = {"model": kind, "case": case.name, **compared}
    return results


def _json(record: dict[str, Any]) -> str:
    """Indented, but a list of numbers on one line."""
    text = json.dumps(record, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: %(default)s)")
    parser.add_argument("--record", type=Path, default=RECORD, help="JSON file (default: benches/record/parity.json)")
    parser.add_argument(
        "--write-expectations", action="store_true", help="write the scores for the tests, and compare nothing"
    )
    parser.add_argument(
        "--expectations",
        type=Path,
        default=EXPECTATIONS,
        help="file of the scores for the tests (default: tests/data/parity.json)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
