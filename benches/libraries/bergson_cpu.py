"""bergson on the CPU, in memory and in this process: per-example gradients, scores and factors of a causal model.

Layers are named as inside the base model. The embeddings of the model require grad, as bergson loads a model, so that
a backward pass reaches every layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from benches.libraries.common import dataset, need
from gdig.data.tokens import Example


def frozen(module: Any, layers: Iterable[str]) -> tuple[Any, list[str]]:
    """The module, frozen but for its embeddings; the layers' names inside its base model.

    Raises:
        AbsentError: when bergson cannot be imported.
    """
    need("bergson")
    module = module.eval().requires_grad_(False)
    module.get_input_embeddings().requires_grad_(True)
    prefix = module.base_model_prefix + "."
    return module, [name.removeprefix(prefix) for name in layers]


def gradients(
    module: Any, names: Sequence[str], examples: Sequence[Example], tokens: int, *, reduction: str = "mean",
    bias: bool = False,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Gradients of each example's loss by layer, [n, O * J] float32; `tokens` bounds a batch, pads included."""
    return _collect(module, names, examples, tokens, None, reduction, bias).gradients


def scores(
    module: Any, seeds: dict[str, torch.Tensor], examples: Sequence[Example], tokens: int, *, reduction: str = "mean",
    bias: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Products [n, S] of each example's gradient with `seeds`, [S, O * J] by layer: a scorer on the fly."""
    from bergson import Scorer
    from bergson.score.score_writer import InMemorySequenceScoreWriter

    names = list(seeds)
    writer = InMemorySequenceScoreWriter(len(examples), len(seeds[names[0]]))
    scorer = Scorer(seeds, names, writer, torch.device("cpu"), torch.float32)
    _collect(module, names, examples, tokens, scorer, reduction, bias)
    return torch.as_tensor(np.asarray(writer.scores))


def fit(
    module: Any, names: Sequence[str], examples: Sequence[Example], tokens: int, folder: str, *,
    reduction: str = "mean", bias: bool = False, own_labels: bool = False,
) -> str:  # fmt: skip
    """Covariances, eigenvectors and both kinds of eigenvalues below `folder`; returns where.

    own_labels: the data's own (the empirical Fisher), not labels drawn from the model.
    """
    from bergson import IndexConfig
    from bergson.config.config import HessianConfig
    from bergson.data import allocate_batches
    from bergson.hessians.hessian_approximations import fit_factored_hessians

    data = dataset(examples)
    config = IndexConfig(run_path=f"{folder}/run", loss_reduction=reduction, include_bias=bias)
    config.partial_run_path.mkdir(parents=True)
    fit_factored_hessians(
        module,
        data,
        config,
        HessianConfig(method="kfac", ev_correction=True, use_dataset_labels=own_labels),
        target_modules=set(names),
        attention_cfgs={},
        batches=allocate_batches(data["length"][:], tokens),
        path=str(config.partial_run_path),
        do_eigendecomposition=True,
    )
    return str(config.partial_run_path)


def _collect(
    module: Any, names: Sequence[str], examples: Sequence[Example], tokens: int, scorer: Any, reduction: str, bias: bool
) -> Any:
    from bergson import GradientProcessor, IndexConfig, InMemoryCollector
    from bergson.collector.collector import CollectorComputer
    from bergson.data import allocate_batches

    data = dataset(examples)
    with tempfile.TemporaryDirectory() as folder:
        config = IndexConfig(run_path=f"{folder}/run", loss_reduction=reduction, include_bias=bias)
        config.partial_run_path.mkdir(parents=True)
        collector = InMemoryCollector(
            model=module.base_model, data=data, cfg=config, processor=GradientProcessor(include_bias=bias),
            scorer=scorer, target_modules=set(names),
        )  # fmt: skip
        batches = allocate_batches(data["length"][:], tokens)
        computer = CollectorComputer(module, data, collector=collector, batches=batches, cfg=config)
        computer.run_with_collector_hooks("gradients")
    return collector
