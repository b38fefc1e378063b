"""Launches of the second moments, to be compiled and not run (triton_compile.py)."""

from __future__ import annotations

import torch

from gdig.kernels.configs import GENERATIONS
from gdig.kernels.covariance import triton as kernels
from gdig.kernels.pinned import PINNED
from gdig.kernels.segments import Segments
from tests.support.triton_compile import generation


def pinned() -> None:
    """Everything that is launched on a generation: for both kinds of dtype, with and without bias, split and whole,
    short and long examples, rectangles and ragged batches."""
    for dtype in (torch.bfloat16, torch.float32):
        _launch(dtype)


def _launch(dtype: torch.dtype) -> None:
    major = generation() if generation() in GENERATIONS else 8
    x = torch.zeros(4096, 768, dtype=dtype)
    for rows, bias in ((4096, 0), (4096, 1), (128, 1), (128, 0)):
        config = PINNED["covariance", kernels.kind(x), major]
        kernels.covariance(x[:rows], torch.ones(rows), torch.zeros(768 + bias, 768 + bias), config=config)
    for lengths in ([32] * 16, [256] * 16, [256, 32]):
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        rows = x[: int(offsets[-1])]
        config = PINNED["squared_gradients", kernels.kind(x, max(lengths)), major]
        kernels.squared_gradients(rows, rows, Segments(offsets), torch.zeros(768, 768), config=config)
