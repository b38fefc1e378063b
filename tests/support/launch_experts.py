"""Launches of the kernels over the rows of several experts, to be compiled and not run (triton_compile.py)."""

from __future__ import annotations

import torch

from gdig.kernels.configs import GENERATIONS
from gdig.kernels.covariance import triton_experts as covariance
from gdig.kernels.covariance.triton import kind as covariance_kind
from gdig.kernels.pinned import PINNED
from gdig.kernels.products import kind
from gdig.kernels.project import prepared as projections
from gdig.kernels.project import triton_experts as project
from gdig.kernels.score import prepared as factors
from gdig.kernels.score import triton_experts as score
from gdig.kernels.segments import Segments
from tests.support.cases_experts import expert_rows
from tests.support.triton_compile import generation


def pinned() -> None:
    """What is launched on a generation: for both kinds of dtype, with and without bias, short and long chunks, widths
    that are whole blocks and not, narrow and wide sketches, short and long examples."""
    for dtype in (torch.bfloat16, torch.float32):
        for width, bias, rank, lengths in ((768, 0, 4, [[16] * 4] * 4), (771, 1, 40, [[3, 70], [100, 0]])):
            _launch(dtype, width, bias, rank, lengths)


def _launch(dtype, width, bias, rank, lengths) -> None:
    major = generation() if generation() in GENERATIONS else 8
    rows = expert_rows(lengths)
    a = torch.zeros(rows.end, width, dtype=dtype)
    seeds = [Segments(torch.arange(9) * rank)] * len(rows)
    u, v = ([torch.zeros(height, seeds[0].end)] * len(rows) for height in (width, width + bias))
    prepared = factors.prepare_experts(u, v, seeds, width, dtype)
    out = torch.zeros(rows.examples, 8)
    score.score_experts(a, a, rows, prepared, out, config=PINNED["score_experts", kind(dtype), major])
    for side in (32, 64):
        columns = torch.randint(0, 512, (side * side,), generator=torch.Generator().manual_seed(0))
        own = torch.zeros(side, width + bias), torch.zeros(side, width), columns, torch.zeros(side * side)
        sketch = projections.prepare_experts([own] * len(rows), width, 512, dtype)
        config = PINNED["project_experts", project.kind(dtype, side), major]
        project.project_experts(a, a, rows, side, sketch, torch.zeros(rows.examples, 512), config=config)
    moments = [torch.zeros(width + bias, width + bias)] * len(rows)
    config = PINNED["covariance", "float", major]
    covariance.covariance_experts(a, torch.ones(rows.end), rows, moments, config=config)
    config = PINNED["squared_gradients", covariance_kind(a, rows.longest), major]
    x = torch.zeros(rows.end, 768, dtype=dtype)
    covariance.squared_gradients_experts(x, x, rows, [torch.zeros(768, 768)] * len(rows), config=config)
