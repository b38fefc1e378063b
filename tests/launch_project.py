"""Launches of the sketch, to be compiled and not run (triton_compile.py)."""

from __future__ import annotations

import torch

from gdig.kernels.configs import GENERATIONS
from gdig.kernels.pinned import PINNED
from gdig.kernels.project import triton as kernels
from gdig.kernels.project.prepared import prepare
from gdig.kernels.segments import Segments


def pinned(dtype: str, major: int, side: int) -> None:
    """What is launched for a dtype on a generation: with and without bias, inputs projected and not, several examples a
    program, one, and several programs an example."""
    kept = getattr(torch, dtype)
    config = PINNED["project", kernels.kind(kept, side), major if major in GENERATIONS else 8]
    map_ = torch.randint(0, 512, (side * side,), generator=torch.Generator().manual_seed(0))
    cases = [([16] * 320, 768, 0, False), ([500], 771, 1, False), ([72] * 320, 768, 1, True)]
    for lengths, i, bias, shared in cases:
        examples = Segments(torch.tensor([0, *lengths]).cumsum(0))
        a = torch.zeros(examples.end, i, dtype=kept)
        p, q = torch.zeros(side, i), torch.zeros(side, i + bias)
        prepared = prepare(q, p, map_, torch.zeros(side * side), i, 512, kept)
        out = torch.zeros(len(lengths), 512)
        inputs = kernels.project_inputs(a, side, prepared, config=config) if shared else a
        kernels.project(inputs, a, examples, side, prepared, out, shared=shared, config=config)
