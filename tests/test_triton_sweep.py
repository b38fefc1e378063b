"""Fit and sweep through the Triton kernels, interpreted, beside the plain ones: the stages hand over what they want."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.mixtures import mixture
from tests.support.tiny_models import gpt2, llama, make_examples, wrapped

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from gdig.influence.curvature import fit_curvature
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.kernels import dispatch
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress

pytestmark = pytest.mark.triton
SAMPLE, SEEDS, POOL = make_examples(8, 1), make_examples(3, 2), make_examples(6, 3)
QUIET = Progress(quiet=True)


@pytest.mark.parametrize("kind", [llama, gpt2, "qwen3_moe"], ids=["llama", "gpt2", "experts"])
def test_fit_and_sweep_are_those_of_the_plain_kernels(kind, monkeypatch):
    """float32: sums of some thousand terms in another order, through a damped inverse: 1e-4 of the largest number."""
    options = {"projection_dim": 24, "projection_side": 4, "inversion": "kfac", "use_empirical_fisher": True}
    options["token_batch_size"] = 64
    if kind == "qwen3_moe":  # with the squares too, of all experts in one launch
        options |= {"inversion": "ekfac", "filter_modules": r"\.1\.mlp\.experts"}
        model, config = mixture(kind, torch.float32, **options)
    else:
        model, config = wrapped(kind(), torch.float32, **options)
    results, launched = {}, []
    for impl in ("reference", "triton"):
        monkeypatch.setattr(dispatch, "_choose", lambda device_type, impl=impl: (launched.append(impl), impl)[1])
        factors, _ = fit_curvature(model, SAMPLE, np.arange(len(SAMPLE), dtype=np.uint64), config, QUIET)
        joined, _ = precondition_seeds(model, factors, SEEDS, [], config, QUIET)
        by_columns = make_influence_pass(model, joined, config, QUIET, dense_bytes=0)  # so that `score` runs
        results[impl] = by_columns.compute(POOL)
    assert launched.count("triton") == launched.count("reference") > 0
    for plain, fast in zip(results["reference"], results["triton"], strict=True):
        assert np.abs(plain - fast).max() <= 1e-4 * np.abs(plain).max()
