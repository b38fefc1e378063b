"""The error of a curvature on rows, in the partitions that the memory asks for."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import torch

from gdig.influence.curvature import fit_curvature
from gdig.influence.curvature_error import curvature_errors
from gdig.influence.memory_plan import plan_fit
from gdig.progress import Progress
from tests.support.tiny_models import llama, make_examples, wrapped

SAMPLE, ROWS = make_examples(20, 1), make_examples(6, 2)
QUIET = Progress(quiet=True)


def test_the_factors_of_one_partition_are_in_memory(monkeypatch):
    model, config = wrapped(llama(blocks=3), torch.float32, token_batch_size=256)
    keys = np.arange(len(SAMPLE), dtype=np.uint64)
    factors, _ = fit_curvature(model, SAMPLE, keys, config, QUIET)
    groups = [(ROWS[:2], keys[:2]), (ROWS[2:], keys[2:6])]
    whole = curvature_errors(model, factors, groups, config, QUIET)
    n = len(factors)
    partitions = (tuple(range(3)), tuple(range(3, 6)), tuple(range(6, n)))
    monkeypatch.setattr(
        "gdig.influence.curvature_error.plan_fit", lambda *given: replace(plan_fit(*given), partitions=partitions)
    )
    read, alive = [], []

    def one_by_one():
        for f in factors:
            gc.collect()
            alive.append(sum(ref() is not None for ref in read))
            holder = [replace(f)]
            read.append(weakref.ref(holder[0]))
            yield holder.pop()

    assert curvature_errors(model, one_by_one(), groups, config, QUIET) == whole
    assert whole[0] != whole[1] and min(whole) > 0
    assert alive == [number % 3 for number in range(6)] + list(range(n - 6))
