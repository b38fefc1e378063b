"""What the experiments on the generated language share: rows, tokenizer, and the models before and after the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benches.generated_language.language import (
    CLEAN,
    CORRUPTIONS,
    DUPLICATE,
    SKILLS,
    Language,
    make_corpus,
    write_jsonl,
)
from benches.generated_language.stacked import Recipe, Tokens, Weights, evaluate, shuffled, stack, train, unstack
from benches.shared.steps import Steps
from gdig.config.options import DataOptions
from gdig.data.corpus import open_corpus
from gdig.data.tokens import Encoder, Example

WINDOW = 32
STACKED = 8
"""The number of models trained side by side. Their tensors fit a core's cache; 16 models are not faster."""


@dataclass(frozen=True)
class Size:
    """Rows of each part; epochs of the starting model over its rows and of a model over the pool or a subset of it.

    subsets: halves of the pool, each trained `repeats` times. draws: of rows to remove at random. runs: repetitions of
    a model that is compared by its mean.
    """

    base: int = 2000
    pool: int = 2000
    seeds: int = 100
    test: int = 400
    base_epochs: float = 10
    epochs: float = 6
    subsets: int = 64
    repeats: int = 2
    draws: int = 4
    runs: int = 2
    selections: int = 3
    width: int = 64
    layers: int = 2
    budgets: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)


FULL = Size()
QUICK = Size(
    base=1500, pool=600, seeds=50, test=200, base_epochs=6, epochs=6, subsets=16, repeats=1, draws=2, runs=1,
    selections=1, budgets=(0.1, 0.4),
)  # fmt: skip

BASE = Recipe(learning_rate=3e-3)
TUNE = Recipe(learning_rate=4e-3)


class World:
    """Rows, tokens and models of one size and random seed, made once and kept in `steps`.

    variants: names of gdig's options that are compared (see `scores.VARIANTS`); None for all.
    """

    def __init__(self, steps: Steps, size: Size, random_seed: int = 0, variants: tuple[str, ...] | None = None) -> None:
        disable_progress_bar()
        self.steps, self.size, self.random_seed, self.variants = steps, size, random_seed, variants
        sizes = {name: getattr(size, name) for name in ("base", "pool", "seeds", "test")}
        self.corpus = make_corpus(**sizes, random_seed=random_seed)
        self.folder = steps.folder / "rows"
        self.folder.mkdir(exist_ok=True)
        vocabulary = ["<pad>", "<eos>", *Language(random_seed).vocabulary]
        words = models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<pad>")
        splitter = Tokenizer(words)
        splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>")
        self.examples = {name: self._encode(name) for name in sizes}
        self.tokens = {name: Tokens.of(examples) for name, examples in self.examples.items()}
        self.config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=size.width,
            intermediate_size=2 * size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        self.asked = [asdict(self.model_facts), random_seed]

    @property
    def model_facts(self) -> Size:
        """What a trained model depends on: sizes and epochs, not how many models there are."""
        return replace(self.size, subsets=0, repeats=0, draws=0, runs=0, selections=0, budgets=())

    def file(self, name: str) -> Path:
        """JSONL of the corpus's rows of a name, as "pool" and "seeds"."""
        return self.folder / f"{name}.jsonl"

    def column(self, name: str, field: str) -> np.ndarray:
        """One field of all rows of a name."""
        return np.array([row[field] for row in getattr(self.corpus, name)])

    def _encode(self, name: str) -> list[Example]:
        write_jsonl(self.file(name), getattr(self.corpus, name))
        rows = open_corpus([self.file(name)])
        encoder = Encoder(DataOptions(), "completion", self.tokenizer, WINDOW)
        return [e for e in encoder.encode(rows, range(len(rows))) if isinstance(e, Example)]

    @cached_property
    def base(self) -> Weights:
        """The model that every training starts from. It knows most of the grammar and of the frequent words."""

        def make() -> dict[str, np.ndarray]:
            torch.manual_seed(self.random_seed)
            start = stack(LlamaForCausalLM(self.config), 1)
            batches = shuffled([np.arange(self.size.base)], self.size.base_epochs, BASE.batch_size, [self.random_seed])
            return _arrays(train(self.config, start, self.tokens["base"], batches, BASE))

        return _tensors(self.steps.arrays("base model", [self.asked, asdict(BASE)], make))

    @cached_property
    def full(self) -> Weights:
        """The model trained on the whole pool with its faults. The scores come from its gradients."""
        return self.tuned("model of the pool", [np.arange(self.size.pool)], [0])

    def tuned(
        self, name: str, rows: Sequence[np.ndarray], random_seeds: Sequence[int], steps: int | None = None
    ) -> Weights:
        """Models trained from the base on rows of the pool, as many for each, in orders drawn from `random_seeds`.

        steps: of the optimizer (default: so many that each goes through its rows as often as the full model).
        """
        asked = [self.asked, asdict(TUNE), [r.tolist() for r in rows], list(random_seeds), steps]
        return _tensors(self.steps.arrays(name, asked, lambda: _arrays(self._train(rows, random_seeds, steps))))

    def outcomes(
        self, name: str, rows: Sequence[np.ndarray], random_seeds: Sequence[int], steps: int | None = None
    ) -> dict[str, np.ndarray]:
        """Loss [M, rows] of `seeds` and `test` under each model trained as `tuned` does, and `right` of test, bool.

        Models of unlike numbers of rows must not be mixed unless `steps` is given.
        """
        outcomes: list[dict[str, np.ndarray]] = []
        for i in range(0, len(rows), STACKED):
            subsets, own_seeds = rows[i : i + STACKED], random_seeds[i : i + STACKED]

            def make(
                subsets: Sequence[np.ndarray] = subsets, own_seeds: Sequence[int] = own_seeds
            ) -> dict[str, np.ndarray]:
                weights = self._train(subsets, own_seeds, steps)
                test, right = evaluate(self.config, weights, self.tokens["test"])
                return {"seeds": evaluate(self.config, weights, self.tokens["seeds"])[0], "test": test, "right": right}

            asked = [self.asked, asdict(TUNE), [r.tolist() for r in subsets], list(own_seeds), steps]
            outcomes.append(self.steps.arrays(f"{name}, models {i} to {i + len(subsets) - 1}", asked, make))
        return {key: np.concatenate([outcome[key] for outcome in outcomes]) for key in outcomes[0]}

    def training_run(self, n_checkpoints: int = 3) -> list[Path]:
        """Checkpoints of the full model's training, evenly spaced: the model, and Adam's moments by name."""

        def make(out: Path) -> None:
            rates: list[float] = []

            def keep(done: int, weights: Weights, optimizer: torch.optim.AdamW) -> None:
                group = optimizer.param_groups[0]
                rates.append(group["lr"])
                if done * n_checkpoints % steps >= n_checkpoints:  # not yet the next checkpoint
                    return
                model = unstack({name: w.detach() for name, w in weights.items()}, 0, self.config)
                folder = out / f"checkpoint-{done}"
                model.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
                states = {
                    name: {
                        "step": optimizer.state[w]["step"],
                        **{kind: optimizer.state[w][kind][0].clone() for kind in ("exp_avg", "exp_avg_sq")},
                    }
                    for name, w in weights.items()
                }
                constants = {"lr": float(np.mean(rates)), "betas": group["betas"], "eps": group["eps"]}
                named = {"state": states, "param_groups": [{"params": list(states), **constants}]}
                torch.save(named, folder / "optimizer.bin")
                rates.clear()

            every = [np.arange(self.size.pool)]
            steps = round(self.size.epochs * self.size.pool / TUNE.batch_size)
            self._train(every, [0], None, keep)

        path = self.steps.path("training run", [self.asked, asdict(TUNE), asdict(BASE), n_checkpoints], make)
        return sorted(path.iterdir(), key=lambda folder: int(folder.name.rpartition("-")[2]))

    def _train(
        self,
        rows: Sequence[np.ndarray],
        random_seeds: Sequence[int],
        steps: int | None,
        after: Callable[[int, Weights, torch.optim.AdamW], None] | None = None,
    ) -> Weights:
        epochs = self.size.epochs if steps is None else steps * TUNE.batch_size / len(rows[0])
        batches = shuffled(
            rows, epochs, TUNE.batch_size, [1_000_003 * self.random_seed + random_seed for random_seed in random_seeds]
        )
        start = {name: w.expand(len(rows), *w.shape[1:]) for name, w in self.base.items()}
        return train(self.config, start, self.tokens["pool"], batches, TUNE, after)

    def checkpoint(self, name: str, weights: Weights) -> Path:
        """A model as a directory that gdig reads."""

        def make(out: Path) -> None:
            unstack(weights, 0, self.config).save_pretrained(out)
            self.tokenizer.save_pretrained(out)

        return self.steps.path(f"checkpoint {name}", [self.asked, asdict(TUNE), asdict(BASE)], make)

    def facts(self) -> dict[str, Any]:
        """Loss and exact match by skill of three models: the base, the full model, and a model of sound rows."""
        fault = self.column("pool", "fault")
        sound = np.flatnonzero((fault == CLEAN) | (fault == DUPLICATE))
        models = {"base": self.base, "pool": self.full, "sound rows": self.tuned("model of sound rows", [sound], [0])}
        return {name: self.ability(weights) for name, weights in models.items()}

    def ability(self, weights: Weights) -> dict[str, Any]:
        """Mean loss on the test rows, and the share that a model finds word by word, of all and by skill."""
        losses, right = evaluate(self.config, weights, self.tokens["test"])
        skill = self.column("test", "skill")
        match = {name: round(float(right[0, skill == name].mean()), 4) for name in SKILLS}
        return {"loss": round(float(losses.mean()), 4), "exact": round(float(right.mean()), 4), **match}

    def pool_facts(self) -> dict[str, int]:
        """Rows of the pool by fault."""
        fault = self.column("pool", "fault")
        return {kind: int((fault == kind).sum()) for kind in (CLEAN, DUPLICATE, *CORRUPTIONS)}


def _arrays(weights: Weights) -> dict[str, np.ndarray]:
    return {name: w.numpy() for name, w in weights.items()}


def _tensors(arrays: dict[str, np.ndarray]) -> Weights:
    return {name: torch.from_numpy(a) for name, a in arrays.items()}
