"""turns: seeds take turns at rows that help them more than an average row does, spread over the clusters.

The quality is the influence of G-DIG (arXiv 2405.12915), relative to the pool and without the length of a row. The
turns are those of arXiv 2503.01807. The clusters are G-DIG's: the better rows of a cluster there are before a row, the
less it counts. `gdig.selection.blend` has the formulas, docs/evidence.md what they gain over the published choice.
"""

from __future__ import annotations

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.nouns import counted
from gdig.selection.blend import blend
from gdig.selection.method import FinishedSweep, Picked
from gdig.selection.turns import pick_by_turns


def turns(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
    """Pick rows by turns of the seeds, by the blended relevance less the discount of the row's cluster."""
    blended = blend(sweep, options.cluster_discount)
    picked = pick_by_turns(sweep, blended.relevance, sweep.survey.n_seeds, limit, options)
    helps = np.count_nonzero(blended.mean[picked.rows] > 0)
    notes = [f"{helps} of the {counted(len(picked.rows), 'row')} help the seeds more than an average row of the pool"]
    if blended.repeats:
        notes.append(f"{counted(blended.repeats, 'row repeats', 'rows repeat')} an earlier row; such rows come last")
    if sweep.metric_scale is None:
        notes.append(
            "lengths of rows are those of raw sketches; sketch_space=fisher measures them as the influence does"
        )
    return Picked(picked.rows, picked.reasons, (*notes, *picked.notes), picked.shortfall)
