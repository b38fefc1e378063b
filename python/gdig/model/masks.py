"""Attention masks of transformers: a batch of gdig has none, and transformers need not look for one.

A line of a batch is one sequence, padded on the right, in which a token sees those before it. torch's attention has a
flag for this, and takes its fast path with the flag alone. transformers tests first whether a line holds several
sequences: on CUDA it waits for the device in each batch to read the answer. While a pass is compiled it cannot read it,
and gives every layer an explicit mask in place of the flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import masking_utils


@contextmanager
def one_sequence_a_line(*, compiling: bool = False) -> Iterator[None]:
    """In the block, transformers takes each line for one sequence without a look at its positions.

    Args:
        compiling: the block compiles a model. Then transformers may choose the flag as in a plain pass. No choice
            reads a tensor, because there is no mask of pads.
    """
    answers: dict[str, Callable[..., object]] = {"find_packed_sequence_indices": _none}
    if compiling:
        answers |= {"is_tracing": _no, "is_torchdynamo_exporting": _no}
    # Each version of transformers has some of these functions.
    before = {name: getattr(masking_utils, name) for name in answers if hasattr(masking_utils, name)}
    for name in before:
        setattr(masking_utils, name, answers[name])
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(masking_utils, name, function)


def _none(position_ids: torch.Tensor) -> None:
    """No line holds a second sequence."""


def _no(*_: object) -> bool:
    return False
