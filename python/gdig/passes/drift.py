"""Whether the rows that a pool grows by are of the kind that the fit has seen.

A shift of a number is the distance of the two means in standard deviations of the old rows, less what chance adds:

    size^2 = (|m_new - m_old|^2 - v_old / n_old - v_new / n_new) / v_old,    at least 0

with m the mean and v the variance; of vectors, the sum of the variances of their columns. Its standard error is the
root of (v_old / n_old + v_new / n_new) / v_old.

The error of the curvature on some rows compares the squares of their gradients in the fit's eigenvectors with the fit's
eigenvalues (gdig.influence.curvature_error). That of the old rows is not 0, because a sample is finite; what counts is
by how much that of the new rows exceeds it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.data.tokens import Example
from gdig.influence.curvature_error import curvature_error
from gdig.influence.fit import read_curvature
from gdig.philox import stream_key
from gdig.resampling import sample_rows
from gdig.run.origin import curvature_origin
from gdig.run.record import Drift, Shift
from gdig.run.session import Workspace
from gdig.store.gather import gather, gather_sketches
from gdig.store.sketches import SketchStore

MOST_SHIFT = 0.5
"""Size of a shift from which a new fit is due: what Cohen (1988) calls a medium effect."""
ERRORS = 3.0
"""Standard errors that a shift has to exceed besides."""
MOST_CURVATURE_ERROR = 0.1
"""By how much the error of the curvature on new rows may exceed that on old rows."""
_ROWS = 4096
"""Rows of either kind that are compared."""
_CURVATURE_ROWS = 256
"""Rows of either kind whose gradients are measured."""


def drift_of_growth(work: Workspace, store: SketchStore) -> Drift | None:
    """Compare the rows of the last growth with those of the run's first files, and record what they are.

    Returns:
        The drift; None for a pool that has not grown.
    """
    sweep = work.run.sweep
    if not sweep.growth:
        return None
    *before, last = sweep.growth
    if last.drift is None:
        last = replace(last, drift=measure_drift(work, store, last.first_row))
        work.run.update("sweep", growth=(*before, last))
    return last.drift


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
    errors = [math.nan, math.nan]
    if work.config.gradients and work.config.inversion != "identity" and len(old) and len(new):
        for place, rows in enumerate((old, new)):
            errors[place] = _curvature_error(work, rows)
    due = [name for name, found in shifts.items() if found.size > max(MOST_SHIFT, ERRORS * found.error)]
    if errors[1] - errors[0] > MOST_CURVATURE_ERROR:
        due.append("curvature")
    return Drift(len(old), len(new), shifts, errors[0], errors[1], tuple(due))


def drift_warnings(drift: Drift) -> list[str]:
    """Return the warning that a new fit is due; none where the new rows are of the kind of the old ones."""
    if not drift.due:
        return []
    facts = [f"{name} by {drift.shifts[name].size:.2g} deviations" for name in drift.due if name in drift.shifts]
    if "curvature" in drift.due:
        facts.append(f"the curvature's error by {drift.curvature_new - drift.curvature_old:.2g}")
    return [
        f"the appended rows are of another kind than those of the fit: they differ in {', '.join(facts)}; a new fit is "
        "due: give all files to another run_path, or start over with --overwrite"
    ]


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


def _curvature_error(work: Workspace, rows: NDArray[np.int64]) -> float:
    """The error of the fit's curvature on up to 256 of some rows, evenly spread."""
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_CURVATURE_ROWS, len(rows))).round().astype(np.int64))]
    encoded = work.encoder.encode(work.candidates, rows.tolist())
    examples = [example for example in encoded if isinstance(example, Example)]
    keys = np.array([row for row, example in zip(rows.tolist(), encoded, strict=True) if isinstance(example, Example)])
    factors = read_curvature(work, curvature_origin(work.run.record))
    return curvature_error(work.model, factors, examples, keys.astype(np.uint64), work.config, work.progress)
