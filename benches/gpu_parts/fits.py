"""The fit of EK-FAC on a GPU, by part, beside a plain forward and backward pass over the same examples."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benches.gpu_parts.passes import Size, build, sizes
from benches.sweep_parts.plain_passes import plain_pass, rectangles, trainable
from benches.sweep_parts.random_examples import make_examples, make_lengths
from gdig.config.config import Config
from gdig.influence.curvature import fit_curvature
from gdig.model.causal_model import wrap_model
from gdig.progress import Bar, Progress

AT_MOST = 2.5
"""The two passes of the fit at the default layers, over a plain pass, at 1B. Eigenvectors are apart: their time does
not grow with the tokens, of which there are fewer here than in a fit."""


class StageClock(Progress):
    """Takes the time of each stage, and shows nothing."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(quiet=True)
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
        begin = time.perf_counter()
        with super().stage(name, total, unit, done) as bar:
            yield bar
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def measure_fits(device: torch.device, seconds: float, *, quick: bool = False) -> list[dict[str, Any]]:
    """The fit of each model, as far as the time goes; a model that runs out of memory says so."""
    end = time.monotonic() + seconds
    todo = [size for size in sizes(quick) if size.name in ("160M", "1B", "tiny NeoX")]
    _fit(replace(todo[0], examples=32), device)  # not counted: kernels are compiled
    rows = []
    for size in todo:
        if time.monotonic() > end:
            print(f"not measured: {size.name}: no time left", flush=True)
            continue
        try:
            rows.append(_fit(size, device))
        except torch.OutOfMemoryError as error:
            rows.append({"model": size.name, "fault": str(error)[:200]})
        print(rows[-1], flush=True)
        gc.collect()
    return rows


def _fit(size: Size, device: torch.device) -> dict[str, Any]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    n = size.examples // 4
    examples = make_examples(make_lengths(n), n, size.config.vocab_size)
    module = build(size.config, device, dtype)
    config = Config.build({"device": str(device), "quiet": True, "token_batch_size": size.token_batch_size})
    model = wrap_model(module, config)
    keys = np.arange(n, dtype=np.uint64)
    clock = StageClock(device)
    begin = time.perf_counter()
    fit_curvature(model, examples, keys, config, clock)
    whole = time.perf_counter() - begin
    plain = trainable(build(size.config, device, dtype))
    batches = rectangles(examples, size.token_batch_size, size.config.max_position_embeddings)
    plain_pass(plain, batches[:2])
    begin = time.perf_counter()
    plain_pass(plain, batches)
    base = time.perf_counter() - begin
    passes = sum(taken for name, taken in clock.seconds.items() if "eigenvectors" not in name)
    return {
        "model": size.name, "tokens": sum(map(len, examples)), "layers": len(model.layers), "plain_seconds": base,
        "fit_seconds": whole, "parts": clock.seconds, "passes_of_plain": passes / base, "at_most": AT_MOST,
        "met": passes / base <= AT_MOST,
    }  # fmt: skip
