"""Other ways to the same scores and factors: kronfluence, bergson, and a loop over examples.

All of them work on the same model, on all its MLP layers, with the mean loss of each example's target tokens:

- bergson and the loop take the seeds' preconditioned gradients from gdig's curvature, multiplied out. Their scores
  therefore equal gdig's up to rounding.
- kronfluence fits its own factors. Its scoring preconditions the seeds each time.
- bergson and kronfluence get sorted examples, so that they have as few pads as gdig. They get no mask, because a causal
  model needs none for pads on the right.
- Weights are frozen, except those of the scored layers in the loop, and the embeddings under bergson.

`benches.parity` compares the scores themselves.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from benches.libraries import bergson_cpu
from benches.libraries.common import Sorted, discarded, quiet
from benches.libraries.kronfluence_cpu import analyzer
from benches.sweep_parts.gdig_passes import QUIET, Case, Pass
from gdig.data.tokens import Example
from gdig.influence.precondition_seeds import precondition_seeds

KRONFLUENCE_LINES = 64
"""Examples in a batch of kronfluence, which counts examples, not tokens."""


def loop(case: Case) -> Pass:
    """One example at a time: its gradients times the seeds' preconditioned gradients, as users write it."""
    module, seeds = case.size.module(), _dense_seeds(case)
    module.eval().requires_grad_(False)
    parameters = {name: module.get_submodule(name).weight.requires_grad_() for name in seeds}
    flat = {name: w.flatten(1) for name, w in seeds.items()}

    def run(examples: Sequence[Example]) -> torch.Tensor:
        scores = torch.zeros(len(examples), case.size.seeds)
        for row, example in enumerate(examples):
            ids, labels = (torch.from_numpy(x).long()[None] for x in (example.input_ids, example.labels))
            module(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            for name, parameter in parameters.items():
                assert parameter.grad is not None
                scores[row] += flat[name] @ parameter.grad.flatten()
            module.zero_grad(set_to_none=True)
        return scores

    return run


def bergson_scores(case: Case) -> Pass:
    """bergson's collector, which scores while it collects, in memory; bergson allocates the batches."""
    module, names = bergson_cpu.frozen(case.size.module(), [layer.name for layer in case.model.layers])
    seeds = {name: w.flatten(1) for name, w in zip(names, _dense_seeds(case).values(), strict=True)}
    return quiet(lambda examples: bergson_cpu.scores(module, seeds, examples, case.size.token_batch_size))


def bergson_fit(case: Case) -> Pass:
    """bergson's EK-FAC: covariances, eigenvectors and eigenvalue correction with labels drawn from the model."""
    module, names = bergson_cpu.frozen(case.size.module(), [layer.name for layer in case.model.layers])

    def run(examples: Sequence[Example]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bergson_cpu.fit(module, names, examples, case.size.token_batch_size, folder)

    return quiet(run)


def kronfluence_scores(case: Case) -> Pass:
    """kronfluence's pairwise scores, from factors that kronfluence fitted before."""
    ready, folder = _kronfluence(case)
    with discarded():
        ready.fit_all_factors(
            "ready", Sorted(case.examples[:64]), per_device_batch_size=KRONFLUENCE_LINES, overwrite_output_dir=True
        )

    def run(examples: Sequence[Example]) -> torch.Tensor:
        data, seeds = Sorted(examples), Sorted(case.seeds)
        ready.compute_pairwise_scores(
            "scores", "ready", seeds, data, per_device_query_batch_size=case.size.seeds,
            per_device_train_batch_size=KRONFLUENCE_LINES, overwrite_output_dir=True,
        )  # fmt: skip
        (transposed,) = ready.load_pairwise_scores("scores").values()
        scores = torch.empty_like(transposed.T)
        scores[data.order[:, None], seeds.order] = transposed.T
        return scores

    run.folder = folder  # type: ignore[attr-defined]  # lives as long as the pass does
    return quiet(run)


def kronfluence_fit(case: Case) -> Pass:
    """kronfluence's EK-FAC factors, labels drawn from the model."""
    ready, folder = _kronfluence(case)

    def run(examples: Sequence[Example]) -> None:
        ready.fit_all_factors(
            "timed", Sorted(examples), per_device_batch_size=KRONFLUENCE_LINES, overwrite_output_dir=True
        )

    run.folder = folder  # type: ignore[attr-defined]
    return quiet(run)


def _kronfluence(case: Case) -> tuple[Any, tempfile.TemporaryDirectory]:
    folder = tempfile.TemporaryDirectory()
    return analyzer(case.size.module(), [layer.name for layer in case.model.layers], folder.name), folder


def _dense_seeds(case: Case) -> dict[str, torch.Tensor]:
    """The seeds' preconditioned gradients, multiplied out: [S, O, I] by layer."""
    config = case.config(seed_energy=1.0, seed_rank=1 << 16)
    seeds, _ = precondition_seeds(case.model, case.factors, case.seeds, case.examples[:1], config, QUIET)
    gradients = {}
    for layer, f in zip(case.model.layers, seeds, strict=True):
        bounds = f.column_offsets.tolist()
        gradients[layer.name] = torch.stack([f.u[:, i:j] @ f.v[:, i:j].T for i, j in itertools.pairwise(bounds)])
    return gradients
