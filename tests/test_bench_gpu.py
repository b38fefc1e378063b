"""The steps of the GPU's bench that a CPU can run: their checks hold here, and each model has its predictions."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from benches.gpu_parts import predictions
from benches.gpu_parts.agreement import compare_with_float64
from benches.gpu_parts.alternatives import measure_alternatives
from benches.gpu_parts.nccl import exchange
from benches.gpu_parts.passes import TARGETS, sizes

CPU = torch.device("cpu")


def test_fit_and_sweep_agree_with_float64_and_with_themselves(capsys):
    figures = compare_with_float64(CPU, quick=True)
    assert figures.keys() == {f"float32 {name}" for name in ("scores", "sketches", "losses")}
    assert all(facts["holds"] and facts["same_bytes"] for facts in figures.values())
    assert all(facts["error"] > 0 for facts in figures.values()), "float32 differs from float64"


def test_alternatives_compute_what_the_kernels_compute(capsys):
    rows = measure_alternatives(CPU, quick=True)
    assert len(rows) == 3
    # Of the largest number. Another sum than that of the kernel would be off by about 1, rounding is by 1e-6.
    assert all(row["error"] < 1e-3 and row["kernel_error"] < 1e-3 for row in rows)


def test_the_exchange_gives_back_what_went_in(capsys):
    assert exchange(CPU) == {"backend": "gloo", "ranks": 1, "exact": True}


def test_each_model_that_is_measured_has_targets_and_predictions():
    names = {size.name for size in sizes(quick=False)}
    tables = (TARGETS, predictions.TOKENS_PER_SECOND, predictions.OF_SORTED, predictions.TARGETS_TOKENS)
    assert all(table.keys() == names for table in tables)
