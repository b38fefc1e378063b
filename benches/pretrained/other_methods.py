"""The package's methods that `rules.py` has not, each by the package itself, for one training beside gdig.

less is not among them: it needs checkpoints of a training with Adam's state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benches.pretrained import signals
from benches.pretrained.collection import Collection, curvature_of
from benches.pretrained.pools import Pool
from benches.pretrained.pretrained_model import UPPER
from benches.pretrained.shipped import More, chosen
from benches.pretrained.training import Trainer
from benches.pretrained.trials import Trial, Trials
from benches.pretrained.view import View
from benches.shared.steps import Steps
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.causal_model import wrap_model
from gdig.passes.influence_pass import make_forward_pass
from gdig.progress import Progress

LAYERS = 8
"""Layers of CRDS-R's sketch, from the last one down: 64 columns each."""
OTHERS: dict[str, dict[str, Any]] = {
    "knn, kernel (TSDS)": {"method": "knn"},
    "knn, uniform": {"method": "knn", "knn_density": "uniform"},
    "dsir": {"method": "dsir"},
    "facility": {"method": "facility"},
    "rds, 8 layers (CRDS-R)": {"method": "rds", "hidden_layers": LAYERS},
    "tagcos": {"method": "tagcos"},
    "round-robin by influence": {"method": "round-robin"},
    "gist": {"method": "gist"},
    "bids": {"method": "bids"},
    "top, by steady": {"method": "top"},
    "agreement, tau 1": {"method": "agreement", "tau": 1.0},
    "g2is": {"method": "g2is"},
    "self-filter, by the loss": {"method": "self-filter"},
}
"""Options of each method; every other option is at its default."""


class OtherTrials(Trials):
    """Trials that know `OTHERS` too.

    Args:
        steps, trainer, views: of `Trials`. more: what a pool's sweep has besides its view, by layers of hidden states.
    """

    def __init__(
        self, steps: Steps, trainer: Trainer, views: Callable[[Pool], View], more: Callable[[Pool, int], More]
    ) -> None:
        super().__init__(steps, trainer, views)
        self._more = more

    def choose(self, trial: Trial) -> np.ndarray:
        """Places of the chosen rows in the pool."""
        if trial.rule not in OTHERS:
            return super().choose(trial)
        config = Config(**OTHERS[trial.rule], random_seed=trial.random_seed, threads=1)
        return chosen(self.view(trial.pool), trial.k, config, more=self._more(trial.pool, config.hidden_layers))


def more_of(collection: Collection, model: Path, steps: Steps, n_layers: int = LAYERS) -> Callable[[Pool, int], More]:
    """Compute the sketches that the other parts of the bench do not need, and return how a pool's are cut out."""
    pool, seeds = collection.where("pool"), collection.where("seed")
    name, asked = collection.plan.name, [asdict(collection.plan), UPPER]

    def words(rows: np.ndarray) -> list[Example]:
        return [collection.words[i] for i in rows]

    def over_states(rows: np.ndarray) -> list[Example]:
        return [collection.examples[i] for i in rows]

    def last_layer() -> dict[str, np.ndarray]:
        upper, config = signals.frozen(model, collection.states, "mlp", UPPER)
        return _hidden(upper.module, over_states(np.concatenate([pool, seeds])), config)

    def several_layers() -> dict[str, np.ndarray]:
        config = Config.build({**signals.OPTIONS, "hidden_layers": n_layers, "token_batch_size": signals.TOKENS})
        whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        return _hidden(whole, words(np.concatenate([pool, seeds])), config)

    def fisher() -> dict[str, np.ndarray]:
        upper = signals.frozen(model, collection.states, "mlp", UPPER)
        return signals.fisher_sketches(*upper, curvature_of(collection, model, steps), over_states(seeds))

    hidden = {
        1: steps.arrays(f"{name}: hidden sketches", asked, last_layer)["hidden"],
        n_layers: steps.arrays(f"{name}: hidden sketches of layers", [*asked, n_layers], several_layers)["hidden"],
    }
    of_seeds = steps.arrays(f"{name}: seed sketches in Fisher space", asked, fisher)["fisher"]

    def of_pool(own: Pool, layers: int) -> More:
        x = hidden[layers]
        return More(
            x[: len(pool)][own.at],
            x[len(pool) :][own.seeds],
            of_seeds[own.seeds],
            words(own.rows),
            words(seeds[own.seeds]),
        )

    return of_pool


@torch.no_grad()
def _hidden(module: torch.nn.Module, examples: list[Example], config: Config) -> dict[str, np.ndarray]:
    """Hidden-state sketches as a sweep makes them, float16 [n, dim]."""
    rows = make_forward_pass(wrap_model(module, config), config, Progress(quiet=True)).compute(examples)
    return {"hidden": rows.hidden.astype(np.float16)}
