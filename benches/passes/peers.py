"""Other ways to the same scores and factors, made ready like ours: kronfluence, bergson, and a loop over examples.

All work on the same model, on all its MLP layers, with the mean loss of each example's target tokens. bergson and the
loop take the seeds' preconditioned gradients from our own curvature, multiplied out, so that their scores are ours to
rounding; kronfluence fits its own factors (its scoring includes preconditioning the seeds, which it cannot keep).
bergson and kronfluence get sorted examples, whose pads are then as few as ours; no mask, which a causal model does not
need for pads on the right. Weights are frozen but for those of the layers that count in the loop, and the embeddings
under bergson, which loads a model so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from passes.ours import QUIET, Case, Pass
from passes.plain import rectangles

from gdig.data.tokens import IGNORED, Example
from gdig.stages.seeds import precondition_seeds

KRONFLUENCE_LINES = 64
"""Examples in a batch of kronfluence, which takes a number of them, not of tokens."""

Batch = dict[str, torch.Tensor]


class AbsentError(Exception):
    """A peer that is not installed; the message says how it failed."""


def versions() -> dict[str, str | None]:
    """Installed versions of the peers."""
    found: dict[str, str | None] = {}
    for name in ("kronfluence", "bergson"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def loop(case: Case) -> Pass:
    """One example at a time, its weights' gradients against the seeds' preconditioned ones, as users write it."""
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
    """bergson's own collector with a scorer on the fly, in memory; the batches are its own allocation."""
    _need("bergson")
    from bergson import GradientProcessor, IndexConfig, InMemoryCollector, Scorer
    from bergson.collector.collector import CollectorComputer
    from bergson.data import allocate_batches
    from bergson.score.score_writer import InMemorySequenceScoreWriter

    module, names, prefix = _frozen(case)
    seeds = {name.removeprefix(prefix): w.flatten(1) for name, w in _dense_seeds(case).items()}

    def run(examples: Sequence[Example]) -> torch.Tensor:
        data = _dataset(examples)
        with tempfile.TemporaryDirectory() as folder:
            config = IndexConfig(run_path=f"{folder}/run", loss_reduction="mean")
            config.partial_run_path.mkdir(parents=True)
            writer = InMemorySequenceScoreWriter(len(examples), case.size.seeds)
            scorer = Scorer(seeds, names, writer, torch.device("cpu"), torch.float32)
            collector = InMemoryCollector(
                model=module.base_model, data=data, cfg=config, processor=GradientProcessor(), scorer=scorer,
                target_modules=set(names),
            )  # fmt: skip
            batches = allocate_batches(data["length"][:], case.size.token_batch_size)
            computer = CollectorComputer(module, data, collector=collector, batches=batches, cfg=config)
            computer.run_with_collector_hooks("scores")
        return torch.as_tensor(np.asarray(writer.scores))

    return _quiet(run)


def bergson_fit(case: Case) -> Pass:
    """bergson's EK-FAC: covariances, eigenvectors and eigenvalue correction with labels drawn from the model."""
    _need("bergson")
    from bergson import IndexConfig
    from bergson.config.config import HessianConfig
    from bergson.data import allocate_batches
    from bergson.hessians.hessian_approximations import fit_factored_hessians

    module, names, _ = _frozen(case)

    def run(examples: Sequence[Example]) -> None:
        data = _dataset(examples)
        with tempfile.TemporaryDirectory() as folder:
            config = IndexConfig(run_path=f"{folder}/run", loss_reduction="mean")
            config.partial_run_path.mkdir(parents=True)
            fit_factored_hessians(
                module,
                data,
                config,
                HessianConfig(method="kfac", ev_correction=True),
                target_modules=set(names),
                attention_cfgs={},
                batches=allocate_batches(data["length"][:], case.size.token_batch_size),
                path=str(config.partial_run_path),
                do_eigendecomposition=True,
            )

    return _quiet(run)


def kronfluence_scores(case: Case) -> Pass:
    """kronfluence's pairwise scores, from factors that it fitted itself beforehand."""
    analyzer, score_arguments, folder = _kronfluence(case)
    with _discarded():
        analyzer.fit_all_factors(
            "ready", _Sorted(case.examples[:64]), per_device_batch_size=KRONFLUENCE_LINES, overwrite_output_dir=True
        )

    def run(examples: Sequence[Example]) -> torch.Tensor:
        data, seeds = _Sorted(examples), _Sorted(case.seeds)
        analyzer.compute_pairwise_scores(
            "scores", "ready", seeds, data, per_device_query_batch_size=case.size.seeds,
            per_device_train_batch_size=KRONFLUENCE_LINES, score_args=score_arguments, overwrite_output_dir=True,
        )  # fmt: skip
        (found,) = analyzer.load_pairwise_scores("scores").values()
        scores = torch.empty_like(found.T)
        scores[data.order[:, None], seeds.order] = found.T
        return scores

    run.folder = folder  # type: ignore[attr-defined]  # lives as long as the pass does
    return _quiet(run)


def kronfluence_fit(case: Case) -> Pass:
    """kronfluence's EK-FAC factors, labels drawn from the model."""
    analyzer, _, folder = _kronfluence(case)

    def run(examples: Sequence[Example]) -> None:
        analyzer.fit_all_factors(
            "timed", _Sorted(examples), per_device_batch_size=KRONFLUENCE_LINES, overwrite_output_dir=True
        )

    run.folder = folder  # type: ignore[attr-defined]
    return _quiet(run)


class _Sorted(torch.utils.data.Dataset):
    """Examples by falling length; order [n] int64 says where each came from."""

    def __init__(self, examples: Sequence[Example]) -> None:
        lengths = np.array([len(example) for example in examples])
        self.order = torch.from_numpy(np.argsort(-lengths, kind="stable"))
        self._examples = [examples[i] for i in self.order.tolist()]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def _kronfluence(case: Case) -> tuple[Any, Any, Any]:
    _need("kronfluence")
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import ScoreArguments
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    class Language(Task):
        """Mean loss of each example's target tokens, summed over the batch."""

        def compute_train_loss(self, batch: Batch, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].flatten(0, 1)
            labels = batch["labels"][:, 1:]
            wanted = (labels != IGNORED).flatten()
            weights = ((labels != IGNORED) / (labels != IGNORED).sum(1, keepdim=True)).flatten()[wanted]
            logits, targets = logits[wanted], labels.flatten()[wanted]
            if sample:
                with torch.no_grad():
                    targets = torch.multinomial(torch.softmax(logits.detach(), -1), 1).flatten()
            nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            return (nll * weights).sum()

        def compute_measurement(self, batch: Batch, model: torch.nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return [layer.name for layer in case.model.layers]

        def get_attention_mask(self, batch: Batch) -> torch.Tensor:
            return batch["mask"]

    def collate(examples: list[Example]) -> Batch:
        (whole,) = rectangles(examples, 1 << 30)
        lengths = torch.tensor(sorted((len(example) for example in examples), reverse=True))
        mask = (torch.arange(whole.input_ids.shape[1]) < lengths[:, None]).long()
        return {"input_ids": whole.input_ids, "labels": whole.labels, "mask": mask}

    folder = tempfile.TemporaryDirectory()
    task = Language()
    module = prepare_model(case.size.module(), task)
    analyzer = Analyzer(
        "bench", module, task, cpu=True, log_level=logging.ERROR, disable_tqdm=True, output_dir=folder.name
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collate))
    return analyzer, ScoreArguments(), folder


def _dense_seeds(case: Case) -> dict[str, torch.Tensor]:
    """The seeds' preconditioned gradients, multiplied out: [S, O, I] by layer."""
    config = case.config(seed_energy=1.0, seed_rank=1 << 16)
    seeds, _ = precondition_seeds(case.model, case.factors, case.seeds, case.examples[:1], config, QUIET)
    found = {}
    for layer, f in zip(case.model.layers, seeds, strict=True):
        bounds = f.column_offsets.tolist()
        found[layer.name] = torch.stack([f.u[:, i:j] @ f.v[:, i:j].T for i, j in itertools.pairwise(bounds)])
    return found


def _frozen(case: Case) -> tuple[Any, list[str], str]:
    """A frozen model whose embeddings require grad, as bergson loads it; its layers' names inside the base model."""
    module = case.size.module().eval().requires_grad_(False)
    module.get_input_embeddings().requires_grad_(True)
    prefix = module.base_model_prefix + "."
    return module, [layer.name.removeprefix(prefix) for layer in case.model.layers], prefix


def _dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
            "length": [len(example) for example in examples],
        }
    )


def _need(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"{name} cannot be imported: {error}") from error


def _quiet(run: Pass) -> Pass:
    """Without the bars and lines that libraries print."""

    def silent(examples: Sequence[Example]) -> object:
        with _discarded():
            return run(examples)

    return silent


@contextlib.contextmanager
def _discarded() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
