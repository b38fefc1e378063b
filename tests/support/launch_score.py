"""Launches of the scores, to be compiled and not run (triton_compile.py)."""

from __future__ import annotations

import torch

from gdig.kernels.configs import GENERATIONS
from gdig.kernels.pinned import PINNED
from gdig.kernels.products import kind
from gdig.kernels.score import triton as kernels
from gdig.kernels.score.prepared import prepare
from gdig.kernels.segments import Segments
from tests.support.triton_compile import generation


def pinned() -> None:
    """What is launched on a generation: for both kinds of dtype, with and without bias, long groups and single tokens,
    long and short chunks, widths that are whole blocks and not."""
    major = generation()
    for dtype in (torch.bfloat16, torch.float32):
        config = PINNED["score", kind(dtype), major if major in GENERATIONS else 8]
        for lengths, rank, i, bias in (([128] * 4, 32, 768, 0), ([3, 70], 17, 771, 1)):
            examples, seeds = (Segments(torch.tensor([0, *n]).cumsum(0)) for n in (lengths, [rank] * 8))
            a, d = torch.zeros(examples.end, i, dtype=dtype), torch.zeros(examples.end, i, dtype=dtype)
            prepared = prepare(torch.zeros(i, seeds.end), torch.zeros(i + bias, seeds.end), seeds, i, dtype)
            kernels.score(a, d, examples, prepared, torch.zeros(len(lengths), 8), config=config)
