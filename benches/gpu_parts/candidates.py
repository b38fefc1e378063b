"""Which configurations a piece of work launches with; compiling it with others, for GPUs that need not be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from benches.gpu_parts.work import Work, module_of, works
from gdig.kernels import dispatch
from gdig.kernels.configs import Config
from gdig.kernels.pinned import PINNED
from tests.support.triton_compile import compile_launch

Key = tuple[str, str]
"""Operation and kind, as kernels/pinned.py has them."""


@contextmanager
def choosing(module: ModuleType, generation: int, given: Mapping[Key, Config]) -> Iterator[list[Key]]:
    """Let the module's launches take what is given, the pinned one where nothing is; yields the keys they ask for."""
    asked: list[Key] = []

    def pinned(operation: str, kind: str, device: torch.device) -> Config:
        key = operation, kind
        asked.append(key)
        first = module.candidates(operation, kind)[0]
        return given.get(key) or PINNED.get((*key, generation), first)

    with patch.object(module, "pinned", pinned):
        yield asked


def keys_of(work: Work) -> list[Key]:
    """The keys that the work asks for; nothing runs."""
    from triton.runtime.jit import JITFunction

    module = module_of(work.operation)
    assert module is not None
    with patch.object(JITFunction, "run", lambda *_, **__: None), _anywhere(), choosing(module, 9, {}) as asked:
        work.run("triton")
    return list(dict.fromkeys(asked))


def compiled(
    numbers: Sequence[int], key: Key, config: dict[str, int], arch: int
) -> tuple[list[str], list[dict[str, Any]]]:
    """Compile `small_works` of these numbers with a configuration; why it should not be used, and what it takes.

    For a pool of processes: each makes the work once. What is compiled lies in Triton's cache afterwards.
    """
    reports = {}
    for number in numbers:
        work = small_works()[number]
        module = module_of(work.operation)
        assert module is not None
        try:
            with _anywhere(), choosing(module, min(arch // 10, 10), {key: config}):
                launched = compile_launch(lambda w=work: w.run("triton"), arch)
        except Exception as error:  # whatever Triton and its tools raise, this candidate is none
            return [f"does not compile: {type(error).__name__}: {error}"[:300]], []
        reports.update(dict.fromkeys(launched))
    return [f"{report.kernel} {fault}" for report in reports for fault in report.faults()], [asdict(r) for r in reports]


@cache
def small_works() -> list[Work]:
    """What candidates are compiled for: the work of one model, on the CPU."""
    return list(works(torch.device("cpu"), models=("160M",), dtype=torch.bfloat16))


@contextmanager
def _anywhere() -> Iterator[None]:
    """Let the door pass tensors on the CPU to Triton: nothing is launched on them."""
    with patch.object(dispatch, "_interpreted", lambda: True):
        yield
