"""Launches of the loss, to be compiled and not run (triton_compile.py)."""

from __future__ import annotations

import torch

from gdig.kernels.configs import GENERATIONS
from gdig.kernels.cross_entropy import triton as kernels
from gdig.kernels.pinned import PINNED
from gdig.kernels.products import kind
from tests.support.triton_compile import generation


def pinned() -> None:
    """What is launched on a generation: for both kinds of dtype, rows that are whole blocks and not."""
    major = generation()
    for dtype in (torch.bfloat16, torch.float32):
        config = PINNED["cross_entropy", kind(dtype), major if major in GENERATIONS else 8]
        for words in (49_152, 50_257):
            labels = torch.zeros(4, dtype=torch.int64)
            kernels.cross_entropy(torch.zeros(4, words, dtype=dtype), labels, labels, torch.zeros(4), config=config)
