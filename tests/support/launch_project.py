"""Launches of the sketch, to be compiled and not run (triton_compile.py)."""

from __future__ import annotations

import torch

from gdig.kernels.configs import GENERATIONS
from gdig.kernels.pinned import PINNED
from gdig.kernels.project import triton as kernels
from gdig.kernels.project.prepared import prepare
from gdig.kernels.segments import Segments
from tests.support.triton_compile import generation


def pinned() -> None:
    """What is launched on a generation: for both kinds of dtype and of side, with and without bias, inputs projected
    and not, several examples a program, one, and several programs an example."""
    for dtype in (torch.bfloat16, torch.float32):
        for side in (32, 64):
            _launch([16] * 320, dtype, side, 768, 0, False)
            _launch([500], dtype, side, 771, 1, False)
        _launch([72] * 320, dtype, 32, 768, 1, True)


def _launch(lengths, dtype, side, i, bias, shared) -> None:
    major = generation()
    config = PINNED["project", kernels.kind(dtype, side), major if major in GENERATIONS else 8]
    examples = Segments(torch.tensor([0, *lengths]).cumsum(0))
    a, out = torch.zeros(examples.end, i, dtype=dtype), torch.zeros(len(lengths), 512)
    columns = torch.randint(0, 512, (side * side,), generator=torch.Generator().manual_seed(0))
    prepared = prepare(
        torch.zeros(side, i + bias), torch.zeros(side, i), columns, torch.zeros(side * side), i, 512, dtype
    )
    inputs = kernels.project_inputs(a, side, prepared, config=config) if shared else a
    kernels.project(inputs, a, examples, side, prepared, out, shared=shared, config=config)
