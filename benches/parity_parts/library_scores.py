"""kronfluence's and bergson's scores, each brought to gdig's conventions.

gdig:

- An example's loss is the mean (or the sum) over its target tokens, in every place.
- A and S average over every position that is not a pad, including the last.
- A layer with a bias has a constant 1 appended to its input.
- K-FAC's eigenvalues are l_S l_A^T times the tokens per example. EK-FAC's are means over examples of squared gradients.
- Damping adds a share of the layer's mean eigenvalue, or a number, or is split between S and A.

kronfluence:

- The user's Task defines loss, labels and positions.
- There is no Conv1D, so each Conv1D becomes an nn.Linear of the same weights.
- K-FAC leaves out the tokens per example c. With H = c K + x, H^-1 = (K + x / c)^-1 / c. An absolute damping is
  therefore divided by c on the way in, and the scores are divided by c on the way out.
- Relative damping is always 0.1 times the mean (damping_factor=None). There is no factored damping.

bergson:

- A document's last position has no gradient and is left out of A and S. One more token without a label at the end
  makes the true last position count.
- With a mean loss, the factors weight a document of n targets by 1 / n, as the Hessian of the mean loss does. The
  gradients weight it by 1 / n^2. Here the factors are fitted with the loss of the gradients.
- The bias is an option (include_bias).
- Factored damping is relative: x is damping_factor times the layer's mean eigenvalue, in factors that carry sqrt(c)
  each. Each layer is therefore damped by itself with damping_factor = x c / mean, and the scores are multiplied by c.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from benches.libraries import bergson_cpu
from benches.libraries.common import Sorted, discarded
from benches.libraries.kronfluence_cpu import analyzer
from benches.parity_parts.parity_cases import Case, Project, extended
from gdig.data.tokens import Example

BATCH_LINES, BATCH_TOKENS = 16, 512


class InexpressibleError(Exception):
    """A convention that a library does not have; the message says which."""


class Kronfluence:
    """kronfluence on one project with one reduction of the loss.

    dtype: of the model and of everything computed. tokens_per_example: false leaves K-FAC's eigenvalues as the library
    has them.
    """

    def __init__(
        self, project: Project, reduction: str, *, dtype: torch.dtype = torch.float32, tokens_per_example: bool = True
    ) -> None:
        self.project, self.dtype, self.tokens_per_example = project, dtype, tokens_per_example
        self._folder = tempfile.TemporaryDirectory()
        self._fitted: set[str] = set()
        module = _with_linears(project.module(dtype))
        with discarded():
            self._analyzer = analyzer(module, project.layers, self._folder.name, reduction)

    def scores(self, case: Case) -> np.ndarray:
        """Influence [rows, seeds].

        Raises:
            InexpressibleError: for factored damping.
        """
        from kronfluence.arguments import FactorArguments, ScoreArguments

        scaled = self.tokens_per_example and case.inversion == "kfac"
        per_example = self.project.tokens_per_example if scaled else 1.0
        if case.damping_mode == "factored_tikhonov":
            raise InexpressibleError("no factored damping")
        if case.damping_mode == "relative" and case.damping_factor != 0.1:
            raise InexpressibleError("relative damping is 0.1")
        damping = None if case.damping_mode == "relative" else case.damping_factor / per_example
        factors = FactorArguments(
            strategy=case.inversion, use_empirical_fisher=True, activation_covariance_dtype=self.dtype,
            gradient_covariance_dtype=self.dtype, per_sample_gradient_dtype=self.dtype, lambda_dtype=self.dtype,
        )  # fmt: skip
        arguments = ScoreArguments(
            damping_factor=damping, per_sample_gradient_dtype=self.dtype, precondition_dtype=self.dtype,
            score_dtype=self.dtype,
        )  # fmt: skip
        pool, seeds = Sorted(self.project.pool), Sorted(self.project.seeds)
        with discarded():
            if case.inversion not in self._fitted:
                self._analyzer.fit_all_factors(
                    case.inversion, pool, per_device_batch_size=BATCH_LINES, factor_args=factors
                )
                self._fitted.add(case.inversion)
            self._analyzer.compute_pairwise_scores(
                "scores", case.inversion, seeds, pool, per_device_query_batch_size=BATCH_LINES,
                per_device_train_batch_size=BATCH_LINES, score_args=arguments,
                overwrite_output_dir=True,
            )  # fmt: skip
            (transposed,) = self._analyzer.load_pairwise_scores("scores").values()
        scores = torch.empty_like(transposed.T)
        scores[pool.order[:, None], seeds.order] = transposed.T
        return scores.double().numpy() / per_example


class Bergson:
    """bergson on one project with one reduction of the loss.

    bias, last_positions, gradients_loss: each false leaves one convention as the library has it.
    """

    def __init__(
        self, project: Project, reduction: str, *, bias: bool = True, last_positions: bool = True,
        gradients_loss: bool = True,
    ) -> None:  # fmt: skip
        self.project, self.reduction, self.bias = project, reduction, bias
        self._sample: Sequence[Example] = extended(project.pool) if last_positions else project.pool
        self._gradients_loss = gradients_loss
        self._folder = tempfile.TemporaryDirectory()
        self.module, self.names = bergson_cpu.frozen(project.module(), project.layers)

    def scores(self, case: Case) -> np.ndarray:
        """Influence [rows, seeds]."""
        with discarded():
            seeds = self._seeds if case.inversion == "identity" else self._preconditioned(case)
            scores = bergson_cpu.scores(
                self.module, seeds, self.project.pool, BATCH_TOKENS, reduction=self.reduction, bias=self.bias
            )
        return scores.double().numpy()

    @cached_property
    def _seeds(self) -> dict[str, torch.Tensor]:
        return bergson_cpu.gradients(
            self.module, self.names, self.project.seeds, BATCH_TOKENS, reduction=self.reduction, bias=self.bias
        )

    @cached_property
    def _factors(self) -> str:
        with _loss_of_the_gradients() if self._gradients_loss else discarded():
            return bergson_cpu.fit(
                self.module, self.names, self._sample, BATCH_TOKENS, self._folder.name, reduction=self.reduction,
                bias=self.bias, own_labels=True,
            )  # fmt: skip

    def _preconditioned(self, case: Case) -> dict[str, torch.Tensor]:
        from bergson.config import InversionConfig
        from bergson.hessians.preconditioner import FactoredPreconditioner

        def precondition(modules: Sequence[str], inversion: str, damping: float) -> dict[str, torch.Tensor]:
            return FactoredPreconditioner.from_shards(
                self._factors, rank=0, device="cpu", inversion_cfg=InversionConfig(inversion, damping),  # type: ignore[arg-type]
                ev_correction=case.inversion == "ekfac", modules=modules,
            ).apply({name: self._seeds[name] for name in modules})  # fmt: skip

        if case.damping_mode != "factored_tikhonov":
            inversion = {"relative": "damped_inverse", "absolute": "absolute_damped_inverse"}[case.damping_mode]
            return precondition(self.names, inversion, case.damping_factor)
        from safetensors.torch import load_file

        eigenvalues = load_file(Path(self._factors) / "eigenvalue_sharded" / "shard_0.safetensors")
        per_example, scores = self.project.tokens_per_example, {}
        for name in self.names:
            share = case.damping_factor * per_example / float(eigenvalues[name].double().mean())
            scores[name] = precondition([name], "factored_tikhonov", share)[name] * per_example
        return scores


@contextmanager
def _loss_of_the_gradients() -> Iterator[None]:
    """Have bergson's factors fitted with the loss that its gradients have."""
    from bergson.collector.collector import fwd_bwd_factory
    from bergson.hessians import hessian_approximations

    with mock.patch.object(
        hessian_approximations, "fwd_bwd_hessian_factory", lambda index_cfg, hessian_cfg: fwd_bwd_factory(index_cfg)
    ):
        yield


def _with_linears(module: Any) -> Any:
    """The module with an nn.Linear of the same weights in the place of each Conv1D."""
    module = copy.deepcopy(module)
    for name, child in list(module.named_modules()):
        if isinstance(child, Conv1D):
            linear = torch.nn.Linear(*child.weight.shape, dtype=child.weight.dtype)
            with torch.no_grad():
                linear.weight.copy_(child.weight.T)
                linear.bias.copy_(child.bias)
            module.set_submodule(name, linear)
    return module


SIDES: dict[str, type[Kronfluence] | type[Bergson]] = {"kronfluence": Kronfluence, "bergson": Bergson}
