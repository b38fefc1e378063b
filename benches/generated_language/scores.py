"""Every compared score [N, S], from runs of gdig and from the baselines. Higher is better."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gdig
from benches.generated_language.world import World
from benches.shared.gradients import each_layer
from gdig import SketchStore
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.factors import Factors
from gdig.influence.inverse import damped_eigenvalues
from gdig.model.capture import GradientPass
from gdig.model.load import load_model
from gdig.run.layout import RunLayout
from gdig.store.tensor_file import read_tensors
from tests.support.bm25 import Bm25

ALL_LINEARS = r"layers\..*proj$"
DAMPINGS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Variant:
    """Options of gdig that differ from its defaults; `base` takes the gradients of the model before the pool."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    base: bool = False


def _variants() -> Iterator[Variant]:
    exact = {"seed_energy": 1.0, "seed_rank": 1024}
    yield Variant("identity", {"inversion": "identity"})
    for inversion in ("kfac", "ekfac"):
        for damping in DAMPINGS:
            yield Variant(f"{inversion} {damping:g}", {"inversion": inversion, "damping_factor": damping})
    yield Variant("ekfac 0.1, exact seeds", exact)
    for rank in (8, 32):
        yield Variant(f"ekfac 0.1, rank {rank}", {"seed_energy": 1.0, "seed_rank": rank})
    yield Variant("ekfac 0.1, empirical Fisher", {"use_empirical_fisher": True})
    yield Variant("ekfac 0.1, summed loss", {"loss_reduction": "sum"})
    yield Variant("kfac, factored Tikhonov 0.1", {"inversion": "kfac", "damping_mode": "factored_tikhonov"})
    yield Variant("identity, all linears", {"inversion": "identity", "filter_modules": ALL_LINEARS})
    for damping in DAMPINGS[1:5]:
        yield Variant(f"ekfac {damping:g}, all linears", {"damping_factor": damping, "filter_modules": ALL_LINEARS})
    yield Variant("ekfac 0.1, before the pool", base=True)


VARIANTS = {variant.name: variant for variant in _variants()}
DEFAULT = VARIANTS["ekfac 0.1"]
QUICK = ("identity", "kfac 0.1", "ekfac 0.01", "ekfac 0.1", "ekfac 1")


def wanted(world: World, names: Iterable[str] = VARIANTS) -> list[Variant]:
    """The variants among the names that the world asks for."""
    return [VARIANTS[name] for name in names if world.variants is None or name in world.variants]


def influence(world: World, variant: Variant) -> dict[str, np.ndarray]:
    """Run gdig; return influence [N, S], loss [N], and length [N], |G_e| in the norm of H^-1."""
    model = world.checkpoint("base", world.base) if variant.base else world.checkpoint("pool", world.full)
    options = run_options(world, model) | variant.options

    def make() -> dict[str, np.ndarray]:
        run = world.steps.folder / "runs" / variant.name
        shutil.rmtree(run, ignore_errors=True)
        gdig.sweep(**options, run_path=run)
        tensors = read_sweep(run, "influence", "loss")
        config = Config.build(options | {"run_path": str(run)})
        return tensors | {"length": _lengths(config, run, world.examples["pool"])}

    return world.steps.arrays(f"gdig {variant.name}", [world.asked, variant.options, variant.base, model.name], make)


def run_options(world: World, model: Path) -> dict[str, Any]:
    """The options of every run of gdig in this bench."""
    return {
        "model": str(model),
        "candidates": [str(world.file("pool"))],
        "seeds": [str(world.file("seeds"))],
        "projection_dim": 256,
        "projection_side": 16,
        "threads": torch.get_num_threads(),
        "quiet": True,
    }


def read_sweep(run: Path, *names: str) -> dict[str, np.ndarray]:
    """Tensors of a run's sweep, whole."""
    store = SketchStore.open(RunLayout(run).sweep)
    return {name: np.concatenate([store.tensor(shard, name) for shard in range(store.n_shards)]) for name in names}


def baselines(world: World) -> dict[str, np.ndarray]:
    """Scores by name: [N, S], or [N] where a score does not depend on the seeds."""

    def make() -> dict[str, np.ndarray]:
        scores = gradient_baselines(world)
        texts = [row["prompt"] + row["completion"] for row in world.corpus.pool]
        bm25 = Bm25(texts)
        scores["BM25"] = np.stack([bm25.scores(row["prompt"] + row["completion"]) for row in world.corpus.seeds], 1)
        loss = influence(world, DEFAULT)["loss"].astype(np.float64)
        scores["low loss"], scores["high loss"] = -loss, loss
        scores["random"] = np.random.default_rng(world.random_seed).random((len(texts), len(world.corpus.seeds)))
        return scores

    return world.steps.arrays("baselines", [world.asked, 2], make)


def gradient_baselines(world: World) -> dict[str, np.ndarray]:
    """Cosine of whole gradients over all linear layers: plain, and as LESS has it (Xia et al. 2024, section 3).

    LESS: the candidate's side is the direction of Adam's step with the moments of the full model's training. Here the
    moments continue over the pool with fixed weights, as at a learning rate of 0. The seed's side is the gradient.
    """
    config = Config.build(run_options(world, world.checkpoint("pool", world.full)) | {"filter_modules": ALL_LINEARS})
    pool, seeds = (torch.cat(_gradients(config, world.examples[name]), 1) for name in ("pool", "seeds"))
    direct = torch.nn.functional.normalize(seeds, dim=1)
    first, second = _moments(pool, world.random_seed)
    adam = torch.empty(len(pool), len(seeds))
    for i in range(0, len(pool), 256):
        g = pool[i : i + 256]
        step = (0.9 * first + 0.1 * g) / ((0.999 * second + 0.001 * g * g).sqrt() + 1e-8)
        adam[i : i + 256] = torch.nn.functional.normalize(step, dim=1) @ direct.T
    plain = torch.nn.functional.normalize(pool, dim=1) @ direct.T
    return {"gradient cosine": plain.numpy(), "LESS cosine": adam.numpy()}


def _moments(gradients: torch.Tensor, random_seed: int, epochs: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam's moments, bias corrected, after some epochs of batches of 32."""
    rng, n = np.random.default_rng(random_seed), len(gradients)
    first, second = torch.zeros(gradients.shape[1]), torch.zeros(gradients.shape[1])
    steps = 0
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(n))
        for rows in order.split(32):
            g = gradients[rows].mean(0)
            first.mul_(0.9).add_(g, alpha=0.1)
            second.mul_(0.999).addcmul_(g, g, value=0.001)
            steps += 1
    return first / (1 - 0.9**steps), second / (1 - 0.999**steps)


def _gradients(config: Config, examples: list[Example]) -> list[torch.Tensor]:
    """Each layer's gradients, [N, O J]."""
    model = load_model(config)
    gradients = [torch.empty(len(examples), layer.out_features * layer.width) for layer in model.layers]

    def keep(index: int, rows: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
        gradients[index][rows] = (d.mT @ a).flatten(1)

    each_layer(GradientPass(model, config.loss_reduction), examples, keep, 4096)
    return gradients


def _lengths(config: Config, run: Path, examples: list[Example]) -> np.ndarray:
    """sqrt(<G_e, H^-1 G_e>) of every example, [N]; NaN for factored Tikhonov, whose inverse is no division."""
    model = load_model(config)
    total = torch.zeros(len(examples), dtype=torch.float64)
    if config.damping_mode == "factored_tikhonov":
        return (total * np.nan).numpy()
    for layer, g in zip(model.layers, _gradients(config, examples), strict=True):
        if config.inversion == "identity":
            total += g.double().square().sum(1)
            continue
        file = RunLayout(run).curvature(layer.name)
        f = Factors.of(file, *read_tensors(file), layer)
        damped = damped_eigenvalues(f, config, layer.name)
        if damped is None:
            continue
        turned = f.q_s.T @ g.view(len(g), layer.out_features, layer.width) @ f.q_a
        total += (turned.double().square() / damped).sum((1, 2))
    return total.sqrt().numpy()


def reductions(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reduce a row's influence on each seed to one score [N], in several ways."""
    x, length = scores["influence"].astype(np.float64), scores["length"]
    ranks = x.argsort(0).argsort(0) / (len(x) - 1)
    ways = {
        "mean": x.mean(1),
        "agreement": (x > 0).mean(1),
        "mean of standardised": (x / x.std(0)).mean(1),
        "mean of ranks": ranks.mean(1),
        "median": np.median(x, 1),
        "steady mean": x.mean(1) / np.maximum(np.sqrt((x * x).mean(1)), 1e-30),
    }
    if np.isfinite(length).all():
        cosines = x / np.maximum(length, 1e-30)[:, None]
        ways |= {"mean of cosines": cosines.mean(1), "mean of standardised cosines": (cosines / x.std(0)).mean(1)}
    return ways
