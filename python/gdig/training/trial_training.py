"""Short trainings on what methods selected, by transformers' Trainer and peft, judged by the loss on held-out rows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from gdig.config.config import Config, Trial
from gdig.data.corpus import open_corpus
from gdig.data.tokens import Example
from gdig.errors import CorpusError, MemoryShortError, NotFiniteError
from gdig.model.adapter import is_adapter
from gdig.model.batches import make_batches
from gdig.model.device import resolve_device
from gdig.model.directory import Limits, named_directory
from gdig.model.load import load_trainable, require_package, without_peft_warning
from gdig.model.precision import resolve_dtype
from gdig.progress import Progress
from gdig.run.session import Workspace
from gdig.selection.compare import Comparison, HeldOut
from gdig.training.callbacks import ShowSteps
from gdig.training.rectangle import Rectangle

_RESAMPLES = 2000


@dataclass(frozen=True)
class HeldOutLoss:
    """Loss of the held-out rows after trainings on one selection.

    sums: float64 [trainings, rows], the loss summed over the target tokens of a row. tokens: int64 [rows].
    """

    sums: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Nats a target token, over all rows and trainings."""
        return float(self.sums.sum() / (len(self.sums) * self.tokens.sum()))

    def interval(self, other: HeldOutLoss) -> tuple[float, float]:
        """The 95 % interval of the difference of the means from `other`'s, by bootstrap over rows and trainings."""
        rng = np.random.default_rng(0)
        n = len(self.tokens)
        draws = np.empty(_RESAMPLES)
        for i in range(_RESAMPLES):
            rows = rng.integers(0, n, n)
            own, their = (x.sums[rng.integers(0, len(x.sums), len(x.sums))][:, rows] for x in (self, other))
            draws[i] = (own.mean(0).sum() - their.mean(0).sum()) / self.tokens[rows].sum()
        low, high = np.percentile(draws, (2.5, 97.5))
        return float(low), float(high)


class TrialTrainer:
    """Trains from the same start again and again.

    Args:
        config: options of the run: the model, its device and precision.
        trial: how to train.
        held_out: the rows that judge.
        limits: of the model.

    Raises:
        ModelError: when memory is short.
    """

    def __init__(self, config: Config, trial: Trial, held_out: Sequence[Example], limits: Limits) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._config, self._trial, self._held_out, self._limits = config, trial, held_out, limits
        self._adds_adapter = _adds_adapter(config, trial)
        self._device = resolve_device(config.device)
        self._model: Any = self._trainable()
        self._start = {name: p.detach().cpu().clone() for name, p in self._model.named_parameters() if p.requires_grad}

    def untrained(self) -> HeldOutLoss:
        """The loss before any training."""
        self._reset(0)
        return HeldOutLoss(self._losses()[None], self._tokens())

    def train(self, examples: Sequence[Example], name: str, progress: Progress) -> HeldOutLoss:
        """Train on the examples, as often as the option `trainings` says."""
        sums = []
        for training in range(self._trial.trainings):
            self._reset(training)
            number = f", {training + 1} of {self._trial.trainings}" if self._trial.trainings > 1 else ""
            with progress.stage(f"train on {name}{number}", self._trial.train_steps, "steps") as bar:
                self._fit(examples, training, bar)
            sums.append(self._losses())
        return HeldOutLoss(np.stack(sums), self._tokens())

    def _trainable(self) -> Any:
        model = load_trainable(self._config).to(self._device)
        if not self._adds_adapter:
            return model
        from peft import LoraConfig, get_peft_model

        rank = self._trial.lora_rank
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        with without_peft_warning():
            return get_peft_model(model, lora)  # type: ignore[arg-type]

    def _reset(self, training: int) -> None:
        """Go back to the start. Each training draws the first factors of an adapter of its own."""
        generator = torch.Generator().manual_seed((self._config.random_seed + training) % 2**63)
        with torch.no_grad():
            for name, p in self._model.named_parameters():
                if name not in self._start:
                    continue
                start = self._start[name]
                if self._adds_adapter and ".lora_A." in name:
                    start = (torch.rand(start.shape, generator=generator) * 2 - 1) * start.shape[1] ** -0.5
                p.copy_(start)

    def _fit(self, examples: Sequence[Example], training: int, bar: Any) -> None:
        trial, config = self._trial, self._config
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=self._model,
                args=TrainingArguments(
                    output_dir=folder,
                    max_steps=trial.train_steps,
                    per_device_train_batch_size=trial.train_batch_size,
                    learning_rate=trial.learning_rate,
                    lr_scheduler_type="linear",
                    weight_decay=0.0,
                    save_strategy="no",
                    seed=(config.random_seed + training) % 2**32,
                    bf16=resolve_dtype(config.precision, self._device) == torch.bfloat16,
                    use_cpu=self._device.type == "cpu",
                    remove_unused_columns=False,
                    disable_tqdm=True,
                    report_to=[],
                    logging_strategy="no",
                ),
                train_dataset=list(examples),  # type: ignore[arg-type]
                data_collator=Rectangle(self._limits),  # type: ignore[arg-type]
                callbacks=[ShowSteps(bar)],
            )
            trainer.remove_callback(PrinterCallback)
            try:
                trainer.train()
            except torch.OutOfMemoryError as error:
                raise MemoryShortError(
                    f"out of memory: {str(error).partition(chr(10))[0]}; lower train_batch_size "
                    f"({trial.train_batch_size}) or turn on gradient_checkpointing"
                ) from error

    @torch.no_grad()
    def _losses(self) -> NDArray[np.float64]:
        """The loss of each held-out row, summed over its target tokens."""
        self._model.eval()
        losses = np.zeros(len(self._held_out))
        limits = self._limits
        for batch in make_batches(self._held_out, 2048, window=limits.window, rotary_switch=limits.rotary_switch):
            ids = torch.from_numpy(batch.input_ids.astype(np.int64)).to(self._device)
            labels = torch.from_numpy(batch.labels.astype(np.int64)).to(self._device)
            logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(logits.mT, labels[:, 1:], reduction="none", ignore_index=-100)
            losses[batch.rows] = nll.double().sum(1).cpu().numpy()
        self._model.train()
        return losses

    def _tokens(self) -> NDArray[np.int64]:
        return np.array([example.n_target for example in self._held_out])


def _adds_adapter(config: Config, trial: Trial) -> bool:
    """Whether an adapter of its own is trained; a model that is an adapter trains that one."""
    return trial.lora_rank > 0 and not is_adapter(named_directory(config))


def read_held_out(work: Workspace, trial: Trial) -> list[Example]:
    """Read the rows that judge, and look for the packages of a training: before a sweep that may take hours.

    Raises:
        CorpusError: on a held-out row that cannot be used, and when a held-out row is among the seeds.
        ModelError: when a package is missing.
    """
    require_package("accelerate", "train", "train")
    if _adds_adapter(work.config, trial):
        require_package("peft", "train", "peft")
    held_out = work.read_examples(open_corpus([str(trial.held_out)], name="held_out"))
    seeds = {example.hash for example in work.seed_examples}
    if n_seeds := sum(example.hash in seeds for example in held_out):
        raise CorpusError(f"held_out: {n_seeds} of {len(held_out)} rows are also seeds; give rows that no method reads")
    return held_out


def train_on_each(work: Workspace, trial: Trial, comparison: Comparison, held_out: Sequence[Example]) -> HeldOut:
    """Train on each method's selection, and compare the losses on the held-out rows (`read_held_out`).

    Raises:
        CorpusError: when a method selected no row.
        ModelError: when memory is short or a loss is not finite.
    """
    trainer = TrialTrainer(work.config, trial, held_out, work.limits)
    before = trainer.untrained()
    losses: dict[str, HeldOutLoss] = {}
    held_out_hashes = {example.hash for example in held_out}
    for summary, rows in zip(comparison.summaries, comparison.rows, strict=True):
        examples = [e for e in work.encoder.encode(work.candidates, rows) if isinstance(e, Example)]
        if not examples:
            raise CorpusError(f"{summary.method}: selected no row, so there is nothing to train on; raise budget")
        if shared := sum(example.hash in held_out_hashes for example in examples):
            work.progress.warn(f"{shared} of the rows that {summary.method} selected are also held-out rows")
        losses[summary.method] = trainer.train(examples, summary.method, work.progress)
        if not np.isfinite(losses[summary.method].mean):
            raise NotFiniteError(
                f"the training on the selection of {summary.method} has diverged: lower learning_rate "
                f"({trial.learning_rate:g})"
            )
    first = next(iter(losses.values()))
    return HeldOut(
        rows=len(held_out),
        tokens=int(first.tokens.sum()),
        trainings=trial.trainings,
        steps=trial.train_steps,
        before=before.mean,
        loss={name: loss.mean for name, loss in losses.items()},
        beside_first={name: loss.interval(first) for name, loss in losses.items() if loss is not first},
    )
