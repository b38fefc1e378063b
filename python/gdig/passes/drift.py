"""Whether the rows that a pool grows by are of the kind that the fit has seen.

A shift of a number is the distance of the two means in standard deviations of the old rows, less what chance adds:

    size^2 = (|m_new - m_old|^2 - v_old / n_old - v_new / n_new) / v_old,    at least 0

with m the mean and v the variance; of vectors, the sum of the variances of their columns. Its standard error is the
root of (v_old / n_old + v_new / n_new) / v_old.

The error of the curvature compares the squares of gradients in the fit's eigenvectors with the fit's eigenvalues
(gdig.influence.curvature_error). It is measured on groups of m new rows, and on groups of m of the fit's n rows. Both
have m rows, because what a finite sample leaves depends on m. A group of the fit's own rows lies nearer to their mean
than another sample does: the variances are as 1/m - 1/n and 1/m + 1/n, so its error is multiplied by
sqrt((n + m) / (n - m)). Let k be the groups of the fit, j those of new rows, and s the deviation of the errors of the
fit's groups. Then the standard error of the difference of the two means is s sqrt(1/k + 1/j).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.data.tokens import Example
from gdig.influence.curvature_error import curvature_errors
from gdig.influence.fit import read_curvature
from gdig.nouns import counted
from gdig.philox import stream_key
from gdig.resampling import sample_rows
from gdig.run.origin import curvature_origin
from gdig.run.pool_files import CANDIDATES
from gdig.run.record import CurvatureDrift, Drift, RunRecord, Shift
from gdig.run.session import Workspace
from gdig.store.gather import gather, gather_sketches
from gdig.store.sketches import SketchStore

MOST_SHIFT = 0.5
"""Size of a shift from which a new fit is due: what Cohen (1988) calls a medium effect."""
ERRORS = 3.0
"""Standard errors that a shift has to exceed besides."""
MOST_CURVATURE_ERROR = 0.1
"""By how much the error of the curvature on new rows may exceed that on the fit's."""
_ROWS = 4096
"""Rows of either kind that are compared."""
_GROUPS, _GROUP_ROWS = 8, 32
"""Groups of either kind whose gradients are measured, and most rows of one."""
CURVATURE_ROWS = _GROUPS * _GROUP_ROWS
"""Most rows of either kind that pass the model after a growth."""


def measure_growth(work: Workspace, store: SketchStore) -> None:
    """Compare the rows of the last growth, if there is one, with those of the run's first files; record what they are.

    They are compared once.
    """
    *before, last = work.run.sweep.growth or (None,)
    if last is not None and last.drift is None:
        last = replace(last, drift=measure_drift(work, store, last.first_row))
        work.run.update("sweep", growth=(*before, last))


def measure_drift(work: Workspace, store: SketchStore, first_row: int) -> Drift:
    """Compare the rows from `first_row` on with those of the run's first files."""
    old = _sampled(store, 0, work.first_rows, work.config.random_seed)
    new = _sampled(store, first_row, len(store), work.config.random_seed)
    shifts = {}
    if len(old) > 1 and len(new) > 1:
        columns = ["loss", "hidden", *(["influence", "sketch"] if work.config.gradients else [])]
        for name in (name for name in columns if name in store.tensor_names):
            a, b = (_numbers(store, name, rows) for rows in (old, new))
            shifts["agreement" if name == "influence" else name] = shift(a, b)
    due = [name for name, difference in shifts.items() if difference.size > max(MOST_SHIFT, ERRORS * difference.error)]
    errors = _curvature_errors(work, new) if work.config.gradients and work.config.inversion != "identity" else None
    curvature = CurvatureDrift(math.nan, math.nan, math.nan) if errors is None else curvature_drift(*errors)
    if curvature.new - curvature.old > max(MOST_CURVATURE_ERROR, ERRORS * curvature.error):
        due.append("curvature")
    return Drift(len(old), len(new), shifts, curvature, tuple(due))


def curvature_drift(old: Sequence[float], new: Sequence[float], rows: int, fitted: int) -> CurvatureDrift:
    """Return the mean errors of the curvature on groups of `rows` of the `fitted` rows of the fit, and of new rows."""
    a = np.array(old) * math.sqrt((fitted + rows) / (fitted - rows))
    error = float(a.std(ddof=1)) * math.sqrt(1 / len(old) + 1 / len(new))
    return CurvatureDrift(float(a.mean()), float(np.mean(new)), error)


def growth_warnings(record: RunRecord, n_files: int) -> list[str]:
    """Return a warning for each growth whose rows a fit has not seen the like of: a new fit is due.

    Args:
        record: of the run.
        n_files: files of the pool that a start gives; what was appended after them does not matter to it.
    """
    growth = record.stages.sweep.growth if record.stages.sweep is not None else ()
    names = list(record.inputs.get(CANDIDATES, {}))
    warnings = []
    for number, appended in enumerate(growth):
        end = growth[number + 1].files if number + 1 < len(growth) else len(names)
        if end > n_files or appended.drift is None or not appended.drift.due:
            continue
        drift, more = appended.drift, end - appended.files - 1
        facts = [f"{name} by {drift.shifts[name].size:.2g} deviations" for name in drift.due if name in drift.shifts]
        if "curvature" in drift.due:
            facts.append(f"the curvature's error by {drift.curvature.new - drift.curvature.old:.2g}")
        files = names[appended.files] + (f" and {counted(more, 'more file')}" if more else "")
        warnings.append(
            f"{files}: the appended rows are of another kind than those of the fit: they differ in {', '.join(facts)}; "
            "a new fit is due: give all files to another run_path, or start over with --overwrite"
        )
    return warnings


def shift(old: NDArray[np.float64], new: NDArray[np.float64]) -> Shift:
    """Return the shift of numbers or vectors, [n] or [n, dim] float64. It is 0 where the old ones do not vary."""
    a, b = (x.reshape(len(x), -1) for x in (old, new))
    spread_a, spread_b = (float(x.var(axis=0, ddof=1).sum()) for x in (a, b))
    apart = float(np.square(b.mean(0) - a.mean(0)).sum())
    chance = spread_a / len(a) + spread_b / len(b)
    if spread_a == 0:
        return Shift(0.0 if apart == 0 else math.inf, 0.0)
    return Shift(math.sqrt(max(0.0, apart - chance) / spread_a), math.sqrt(chance / spread_a))


def _sampled(store: SketchStore, start: int, stop: int, random_seed: int) -> NDArray[np.int64]:
    """Up to 4,096 valid rows of start .. stop - 1, drawn by a hash, ascending."""
    rows = start + sample_rows(stop - start, min(_ROWS, stop - start), stream_key("drift", random_seed))
    return np.asarray(rows[gather(store, "valid", rows) != 0], np.int64)


def _numbers(store: SketchStore, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """What is compared of some rows: losses, agreements, or sketches at unit length."""
    x: NDArray[Any] = gather_sketches(store, rows) if name == "sketch" else gather(store, name, rows)
    if name == "influence":
        return np.asarray((x > 0).mean(1, dtype=np.float64))
    x = x.astype(np.float64)
    if name == "loss":
        return x
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(lengths == 0, 1, lengths))


def _curvature_errors(work: Workspace, new: NDArray[np.int64]) -> tuple[list[float], list[float], int, int] | None:
    """The errors of the curvature on groups of the fit's rows and of the new rows; the rows of a group, and of the fit.

    None where the fit has too few rows for two groups, or no new row is valid.
    """
    examples, rows = work.fit_sample
    n = len(examples)
    new = new[_spread(len(new), min(len(new), CURVATURE_ROWS))]
    encoded = work.encoder.encode(work.candidates, new.tolist())
    pairs = [(example, row) for example, row in zip(encoded, new, strict=True) if isinstance(example, Example)]
    size = min(_GROUP_ROWS, max(1, n // _GROUPS), len(pairs))
    if size == 0 or n < 2:
        return None
    groups = _groups(list(zip(examples, rows, strict=True)), size)
    of_fit = len(groups)
    groups += _groups(pairs, size)
    factors = read_curvature(work, curvature_origin(work.run.record))
    errors = curvature_errors(work.model, factors, groups, work.config, work.progress)
    return errors[:of_fit], errors[of_fit:], size, n


def _groups(pairs: Sequence[tuple[Example, int]], size: int) -> list[tuple[list[Example], NDArray[np.uint64]]]:
    """Up to 8 groups of examples with their rows. Neighbours in the pool come into different groups."""
    n = min(_GROUPS, len(pairs) // size)
    chosen = [pairs[place] for place in _spread(len(pairs), n * size)]
    return [
        ([example for example, _ in chosen[group::n]], np.array([row for _, row in chosen[group::n]], np.uint64))
        for group in range(n)
    ]


def _spread(n: int, k: int) -> NDArray[np.int64]:
    """`k` of the numbers 0 .. n - 1, evenly spread."""
    return np.arange(k, dtype=np.int64) * n // max(1, k)
