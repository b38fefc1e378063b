"""Passes of the model over explained rows: tokens and layers of any row, all numbers of one outside the pool."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from gdig.data.tokens import Example
from gdig.explanation.neighbourhood import Target
from gdig.explanation.subject import Subject
from gdig.influence.fit import read_curvature, read_seed_factors
from gdig.influence.seed_factors import SeedFactors
from gdig.influence.sweep_memory import plan_sweep_within
from gdig.model.batch_size import room
from gdig.passes.influence_pass import make_forward_pass, make_influence_pass
from gdig.passes.row_pass import RowPass
from gdig.passes.token_influence import Line, SweptBatches, TokenInfluence, line_of_example, token_influence
from gdig.run.origin import curvature_origin, seeds_origin
from gdig.selection.finished_run import FinishedRun


class ModelPasses:
    """Passes rows through the model of a run.

    Args:
        run: the run.
        by_token: whether tokens and layers are asked for. A run without gradients has none.
    """

    def __init__(self, run: FinishedRun, by_token: bool) -> None:
        self._run, self._work = run, run.work
        self._by_token = by_token and run.config.gradients

    def of_pool(self, subjects: list[Subject]) -> None:
        """Pass each row's batch of the sweep, so that its numbers are the sweep's."""
        if not self._by_token:
            return
        sweep = self._run.record.stages.sweep
        assert sweep is not None and sweep.token_batch_size is not None
        batches = SweptBatches(self._work, self._run.sweep.store, sweep.token_batch_size)
        with self._work.progress.stage("explain", len(subjects)) as bar:
            for subject in sorted(subjects, key=lambda subject: subject.row or 0):
                assert subject.row is not None
                line = batches.find(subject.row)
                assert line is not None, "a valid row can be encoded"
                subject.passed = self._token_influence(line)
                bar.advance(1)

    def of_outside(self, subject: Subject, example: Example) -> None:
        """Compute what the sweep would have stored of a row outside the pool."""
        numbers = self._rows_outside.compute([example])
        if not (np.isfinite(numbers.loss).all() and np.isfinite(numbers.numbers).all()):
            subject.problem = "its loss or its gradient is not finite"
            return
        sketch = numbers.sketch[0] * self._rows_outside.scale
        subject.target = Target(None, sketch, numbers.numbers[0], example.hash)
        subject.loss = float(numbers.loss[0])
        if self._by_token:
            subject.passed = self._token_influence(line_of_example(example, self._work.model))

    def _token_influence(self, line: Line) -> TokenInfluence:
        return token_influence(self._work.model, self._seed_factors, line, self._run.config)

    @cached_property
    def _seed_factors(self) -> Sequence[SeedFactors]:
        """The seeds' factors; their files, read layer by layer, where a plan does not hold all of them."""
        dtype = self._run.record.stages.fit and self._run.record.stages.fit.dtype
        files = read_seed_factors(self._work, str(dtype), seeds_origin(self._run.record))
        limit = room(self._work.model)
        return files if limit is not None and files.size > limit else list(files)

    @cached_property
    def _rows_outside(self) -> RowPass:
        """The pass of the sweep, for rows outside the pool."""
        work, config, sweep = self._work, self._run.config, self._run.record.stages.sweep
        assert sweep is not None
        if not config.gradients:
            return make_forward_pass(work.model, config, work.progress)
        curvature = read_curvature(work, curvature_origin(self._run.record)) if config.in_fisher_space else None
        seeds, model, longest = self._seed_factors, work.model, max(map(len, work.seed_examples))
        dense = sweep.dense_bytes or 0
        plan = plan_sweep_within(model, config, seeds, limit=room(model), longest=longest, rows=1, dense_bytes=dense)
        rows = make_influence_pass(model, seeds, config, work.progress, curvature, plan.dense_bytes, plan.from_files)
        rows.scale = sweep.scale or 1.0
        return rows
