"""Does a model train better on the rows that a method chooses? From the same start, with as many steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import gdig
from benches.generated_language.language import CLEAN, CORRUPTIONS, DUPLICATE, SKILLS
from benches.generated_language.lds import RESAMPLES, Interval
from benches.generated_language.removal import row_scores
from benches.generated_language.scores import run_options
from benches.generated_language.world import TUNE, World
from benches.shared.auroc import auroc
from benches.zh_en.variants import spearman
from gdig import SketchStore
from gdig.api import score_net
from gdig.run.layout import RunLayout
from gdig.run.record_file import read_record

EPOCHS = 3
"""Every model trains as many steps as these epochs of the whole pool take."""

METHODS: dict[str, dict[str, Any] | str] = {
    "gdig": {},
    "gdig, tau 1": {"method": "agreement", "tau": 1.0},
    "gdig, tau 0.6": {"method": "agreement", "tau": 0.6},
    "gdig, best of each cluster": {"method": "agreement", "draw": "score"},
    "gdig, tasks vote": {"method": "agreement", "task_field": "skill", "agreement": "tasks"},
    "less": {"method": "less", "checkpoints": "of the training run"},
    "bids": {"method": "bids"},
    "g2is": {"method": "g2is"},
    "tagcos": {"method": "tagcos"},
    "self-filter": {"method": "self-filter"},
    "top": {"method": "top"},
    "top by mean": {"method": "top", "score": "mean"},
    "diverse": {"method": "diverse"},
    "loss": {"method": "loss"},
    "random": {"method": "random"},
    "top by LESS": "LESS cosine",
    "top by BM25": "BM25",
    "g2is, Adam": {"method": "g2is", "checkpoints": "of the training run"},
    "self-filter, score net": {"method": "self-filter", "difficulty": "score net"},
}
"""Options of gdig that differ from its defaults, or the name of a score of `row_scores` whose best rows are taken."""


def selections(world: World) -> dict[str, Any]:
    """Held-out loss and exact match of models trained on each method's rows, by budget, and facts about the rows."""
    size = world.size
    steps = round(EPOCHS * size.pool / TUNE.batch_size)
    whole = [np.arange(size.pool)] * size.selections
    random_seeds = list(range(100, 100 + size.selections))
    sound = np.flatnonzero(np.isin(world.column("pool", "fault"), (CLEAN, DUPLICATE)))
    results: dict[str, Any] = {
        "steps": steps,
        "trainings of each": size.selections,
        "full pool": _judge(world, world.outcomes("trained on the pool", whole, random_seeds, steps)),
        "all sound rows": _judge(
            world, world.outcomes("trained on sound rows", [sound] * len(random_seeds), random_seeds, steps)
        ),
        "budgets": {},
    }
    for budget in size.budgets:
        chosen = choose(world, budget)
        jobs = [rows for options in chosen.values() for rows in _repeated(options, size.selections)]
        outcomes = world.outcomes(f"trained on {budget:g}", jobs, random_seeds * len(chosen), steps)
        each = {
            name: {key: value[i * size.selections : (i + 1) * size.selections] for key, value in outcomes.items()}
            for i, name in enumerate(chosen)
        }
        table = {name: _judge(world, own, each["random"]) | describe(world, chosen[name]) for name, own in each.items()}
        results["budgets"][f"{budget:.0%}"] = table
    results["less, clean against spoiled"] = by_checkpoint(world)
    return results


def by_checkpoint(world: World) -> dict[str, dict[str, float]]:
    """AUROC of LESS's mean cosine at each checkpoint, sound rows against spoiled rows, and its rank correlation with
    the loss of the rows at that checkpoint."""
    run = _run(world, {}, 0)
    layout = RunLayout(run)
    swept = read_record(layout.record).stages.sweep
    assert swept is not None
    sound = ~np.isin(world.column("pool", "fault"), CORRUPTIONS)
    results = {}
    for key in swept.checkpoint_order:
        store = SketchStore.open(layout.checkpoint(key).shards)
        cosine, loss = (
            np.concatenate([store.tensor(shard, name).astype(np.float64) for shard in store.shards])
            for name in ("cosine", "loss")
        )
        facts = swept.checkpoints[key]
        results[Path(facts.path).name] = {
            "learning rate": facts.learning_rate,
            "auroc": round(auroc(cosine.mean(1)[sound], cosine.mean(1)[~sound]), 4),
            "rank correlation with the loss": round(spearman(cosine.mean(1), loss), 4),
        }
    return results


def _run(world: World, options: dict[str, Any], random_seed: int) -> Path:
    """The run directory of choices with these options."""
    name = world.checkpoint("pool", world.full).name
    return world.steps.folder / "runs" / f"{name}, {options.get('damping_factor', '')} {random_seed}"


def choose(world: World, budget: float) -> dict[str, list[np.ndarray]]:
    """Rows by method. Methods that draw choose once for each training, the others once."""
    model = world.checkpoint("pool", world.full)
    rows: dict[str, list[np.ndarray]] = {}
    scores = row_scores(world)
    for name, method in METHODS.items():
        if isinstance(method, str):
            rows[name] = [np.argsort(-scores[method], kind="stable")[: max(1, round(budget * world.size.pool))]]
            continue
        draws = name.startswith("gdig") or name in ("diverse", "random")

        def make(options: dict[str, Any] = method, draws: bool = draws) -> list[list[int]]:
            choices = []
            for random_seed in range(world.size.selections if draws else 1):
                run = _run(world, options, random_seed)
                asked = (
                    run_options(world, model) | options | {"random_seed": random_seed, "budget": f"{100 * budget:g}%"}
                )
                if "checkpoints" in options:
                    asked["checkpoints"] = tuple(map(str, world.training_run()))
                if options.get("difficulty") == "score net":
                    del asked["difficulty"]
                    gdig.sweep(**asked, run_path=str(run))
                    net = {"epochs": EPOCHS, "learning_rate": TUNE.learning_rate, "quiet": True}
                    asked["difficulty"] = str(score_net(run_path=str(run), **net))
                choices.append(gdig.select(**asked, run_path=str(run)).rows.tolist())
            return choices

        asked = [world.asked, method, budget, world.size.selections]
        rows[name] = [np.array(chosen) for chosen in world.steps.facts(f"choice {name} {budget:g}", asked, make)]
    return rows


def describe(world: World, options: list[np.ndarray]) -> dict[str, Any]:
    """Shares of a method's rows: spoiled, repeated (a row whose family is there already), and of each skill."""
    fault, family, skill = (world.column("pool", field) for field in ("fault", "family", "skill"))

    def share(flags: list[np.ndarray]) -> float:
        return round(float(np.mean([f.mean() for f in flags])), 4)

    return {
        "rows": len(options[0]),
        "spoiled": share([np.isin(fault[rows], CORRUPTIONS) for rows in options]),
        "repeated": round(float(np.mean([1 - len(np.unique(family[rows])) / len(rows) for rows in options])), 4),
        "skills": {name: share([skill[rows] == name for rows in options]) for name in SKILLS},
    }


def _repeated(options: list[np.ndarray], n: int) -> list[np.ndarray]:
    return [options[i % len(options)] for i in range(n)]


def _judge(
    world: World, outcomes: dict[str, np.ndarray], reference: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Means over trainings and test rows, both resampled, and their differences from the reference on the same rows."""
    loss, right = outcomes["test"], outcomes["right"].astype(np.float64)
    skill = world.column("test", "skill")
    results = {
        "loss": _mean(loss, world.random_seed).rounded(),
        "exact": _mean(right, world.random_seed).rounded(),
        "exact by skill": {name: round(float(right[:, skill == name].mean()), 4) for name in SKILLS},
        "each training": [
            [round(float(a), 4), round(float(b), 4)] for a, b in zip(loss.mean(1), right.mean(1), strict=True)
        ],
    }
    if reference is not None:
        results["loss against random"] = _mean(loss, world.random_seed, reference["test"]).rounded()
        results["exact against random"] = _mean(
            right, world.random_seed, reference["right"].astype(np.float64)
        ).rounded()
    return results


def _mean(x: np.ndarray, random_seed: int, reference: np.ndarray | None = None) -> Interval:
    """Mean of x [R, S], less that of the reference [R, S]; the S are resampled alike, the R each by themselves."""
    rng = np.random.default_rng(random_seed)

    def resampled(values: np.ndarray, chosen: np.ndarray) -> float:
        return float(values[rng.integers(0, len(values), len(values))][:, chosen].mean())

    value = x.mean() - (0 if reference is None else reference.mean())
    again = [
        resampled(x, chosen) - (0 if reference is None else resampled(reference, chosen))
        for chosen in rng.integers(0, x.shape[1], (RESAMPLES, x.shape[1]))
    ]
    return Interval.of(value, np.array(again))
