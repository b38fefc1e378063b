"""The benches over a pretrained model, on a tiny one: influence, rules, linear datamodelling score, and effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benches.layer_share_parts import influence as layer_influence
from benches.layer_share_parts import samples as layer_samples
from benches.layer_share_parts.choices import CHOICES, WHOLE, chosen
from benches.pretrained import collection as collections
from benches.pretrained import effects, signals
from benches.pretrained import pretrained_lds as lds
from benches.pretrained.collection import Plan, collect
from benches.pretrained.order import by_turns
from benches.pretrained.other_methods import OTHERS, OtherTrials, more_of
from benches.pretrained.pools import pools
from benches.pretrained.pretrained_model import UPPER, upper_model
from benches.pretrained.rows import Row
from benches.pretrained.rules import RULES
from benches.pretrained.training import Recipe, Trainer
from benches.pretrained.trials import Trial
from benches.pretrained.view import View
from benches.shared.steps import Steps
from tests.support.tiny_models import llama, make_examples, wrapped

PLAN = Plan("tiny", ("one", "two"), ("other",), clean=8, spoiled=2, seeds=4, held=3, other=6, fit=16)


def tiny_rows() -> tuple[list[Row], list[str]]:
    rows, roles = [], []
    for task in (*PLAN.targets, *PLAN.others):
        target = task in PLAN.targets
        pool = PLAN.clean if target else PLAN.other
        counts = (
            {"pool": pool, "spoiled": PLAN.spoiled, "seed": PLAN.seeds, "held": PLAN.held} if target else {"pool": pool}
        )
        for role, n in counts.items():
            fault = "swapped" if role == "spoiled" else "clean"
            rows += [Row(task, f"{task} {role} {i}\n", f"word{i} {task}", fault) for i in range(n)]
            roles += ["pool" if role == "spoiled" else role] * n
    return rows, roles


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model's folder, the finished steps, the collection, and its first pool: many tasks and one target."""
    folder = tmp_path_factory.mktemp("pretrained")
    llama(blocks=UPPER + 1).save_pretrained(folder / "model")
    steps = Steps(folder / "steps", [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collections, "draw_rows", lambda *_: tiny_rows())
        patch.setattr(collections, "encode", lambda rows, *_: make_examples(len(rows), 1, shortest=6, longest=12))
        collection = collect(PLAN, folder, folder / "model", None, steps, with_variants=True)
    return folder / "model", steps, collection, next(pools(collection))


def test_influence_is_the_product_of_plain_gradients(made):
    model, _, collection, _ = made
    module, own = upper_model(model, collection.states), collection.signals
    weights = [p for name, p in module.named_parameters() if ".mlp." in name]

    def gradient(row: int) -> torch.Tensor:
        ids, labels = (
            torch.from_numpy(x).long()[None]
            for x in (collection.examples[row].input_ids, collection.examples[row].labels)
        )
        loss = module(input_ids=ids, labels=labels).loss
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    pool, seeds = ([gradient(i) for i in collection.where(role)[:5]] for role in ("pool", "seed"))
    expected = np.array([[float(g @ s) for s in seeds] for g in pool])
    # float32: sums of 2,304 products round by less than 1e-4 of the lengths.
    assert np.allclose(own["influence identity"][:5, :5], expected, atol=1e-4 * np.abs(expected).max())
    assert np.allclose(own["square identity"][:5], [float(g @ g) for g in pool], rtol=1e-4)
    for name in ("influence", "square", "gram"):
        blocks = [own[f"{name} 0.1 of block {block}"] for block in range(UPPER)]
        assert np.array_equal(own[name], sum(blocks)) and all(np.abs(x).max() > 0 for x in blocks)
    # More damping makes a smaller inverse, and each variant is one of its own.
    squares = [own[f"square {name}"].mean() for name in ("damping 0.01", "damping 1", "damping 10")]
    assert squares == sorted(squares, reverse=True) and squares[0] > own["square"].mean() > squares[1]
    assert len({own[f"square {name}"].sum() for name in signals.VARIANTS}) == len(signals.VARIANTS)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_chooses_so_many_rows(made, rule):
    _, _, collection, pool = made
    rows = RULES[rule](View.of(collection, pool), 5, 0)
    assert len(set(np.asarray(rows).tolist())) == 5 and 0 <= min(rows) <= max(rows) < len(pool.rows)


def test_every_other_method_chooses_so_many_rows(made, monkeypatch):
    """Each by the package, from what the bench knows of a pool."""
    model, steps, collection, _ = made
    monkeypatch.setitem(OTHERS, "rds, 8 layers (CRDS-R)", {"method": "rds", "hidden_layers": 2})
    monkeypatch.setitem(OTHERS, "self-filter, by the loss", {"method": "self-filter", "n_neighbours": 3})
    trainer = Trainer(model, collection.states, collection.examples, Recipe(steps=1, batch_size=2))
    trials = OtherTrials(steps, trainer, lambda pool: View.of(collection, pool), more_of(collection, model, steps, 2))
    for pool in (pool for pool in pools(collection) if pool.kind != "P3"):  # whose targets this plan has not
        chosen = {rule: trials.choose(Trial(pool, rule, 0.25, 0)) for rule in (*OTHERS, "bids")}
        k, view = round(0.25 * len(pool.rows)), trials.view(pool)
        for rule, rows in chosen.items():
            assert len(set(rows.tolist())) == (len(rows) if rule == "g2is" else k), rule
        assert chosen["bids"].tolist() == RULES["bids"](view, k, 0).tolist()
        by_influence = by_turns(view.influence, k, view.task_of_seed)
        assert chosen["round-robin by influence"].tolist() == by_influence.tolist()


def test_datamodelling_scores(made, monkeypatch):
    monkeypatch.setattr("benches.generated_language.lds.RESAMPLES", 20)
    model, steps, collection, pool = made
    halves = lds.Halves(rows=12, halves=4, batch_size=2)
    facts = lds.measure(collection, pool, steps, model, halves)
    assert set(signals.VARIANTS) < set(facts["scores"]) and facts["seeds"] == PLAN.seeds
    for score in facts["scores"].values():
        low, high = score["interval"]
        assert -1 <= low <= high <= 1 and -1 <= score["lds"] <= 1
    assert 0 <= facts["ceiling"] <= 1
    assert lds.measure(collection, pool, steps, model, halves) == facts  # from the finished steps
    trainings = [file for file in steps.folder.iterdir() if file.name.startswith("half of ")]
    assert len(trainings) == 2 * halves.halves
    # A score that is the fall of the losses itself reaches 1, and its opposite -1.
    monkeypatch.setattr(lds, "draw", lambda *_: (np.arange(4), np.eye(4, dtype=bool)))
    falls = np.random.default_rng(0).standard_normal((4, PLAN.seeds))
    monkeypatch.setattr(lds, "_falls", lambda *_: falls)
    monkeypatch.setattr(lds, "scores", lambda *_: {"right": falls, "wrong": -falls})
    facts = lds.measure(collection, pool, steps, model, lds.Halves(rows=4, halves=4, batch_size=1))
    assert facts["ceiling"] == pytest.approx(1)
    assert [facts["scores"][name]["lds"] for name in ("right", "wrong")] == pytest.approx([1, -1])


def test_effects(made):
    model, steps, collection, pool = made
    trainer = Trainer(model, collection.states, collection.examples, Recipe(steps=2, batch_size=2))
    facts = effects.measure(collection, pool, steps, trainer, (0,))
    assert {"the defaults", *signals.VARIANTS, "MLP of block 0 alone", f"4 of {PLAN.seeds} seeds"} < set(facts)
    for effect in facts.values():
        assert np.shape(effect["loss"]) == (1, PLAN.held) and np.isfinite(effect["loss"]).all()
    assert facts[f"4 of {PLAN.seeds} seeds"] == facts["the defaults"]


def test_choices_of_layers_are_those_of_the_package():
    model, config = wrapped(llama(blocks=5), layers=WHOLE)
    names = np.array([layer.name for layer in model.layers])
    for text in CHOICES:
        own, _ = wrapped(llama(blocks=5), layers=text)
        assert names[chosen(text, model, config)].tolist() == [layer.name for layer in own.layers]


def test_influence_by_layer(tmp_path, monkeypatch):
    """Without a curvature it is the product of plain gradients. With one, the blocks of a pass do not matter."""
    module = llama(blocks=3)
    module.save_pretrained(tmp_path / "model")
    rows, seeds, others = (make_examples(n, i, shortest=6, longest=12) for i, n in enumerate((5, 2, 12)))
    drawn = layer_influence.Drawn(np.zeros(5), np.ones(5, bool), np.zeros(2), rows, seeds, others)

    def measured(folder: str) -> layer_influence.LayerInfluence:
        return layer_influence.LayerInfluence(
            Steps(tmp_path / folder, []), layer_influence.Rows(fit_tokens=60), drawn, tmp_path / "model"
        )

    at_once = measured("one")
    plain = at_once.of_plain_gradients()
    weights = [p for name, p in module.named_parameters() if ".mlp." in name]

    def gradient(example) -> torch.Tensor:
        ids, labels = (torch.from_numpy(x).long()[None] for x in (example.input_ids, example.labels))
        return torch.cat([g.flatten() for g in torch.autograd.grad(module(input_ids=ids, labels=labels).loss, weights)])

    expected = np.array([[float(gradient(row) @ gradient(seed)) for seed in seeds] for row in rows])
    # float32: sums of a few thousand products round by less than 1e-4 of the lengths.
    assert np.allclose(plain["influence"][at_once.chosen("mlp")].sum(0), expected, atol=1e-4 * np.abs(expected).max())
    whole = at_once.of_all()
    monkeypatch.setattr(layer_influence, "BLOCKS_AT_ONCE", 2)
    by_blocks = measured("two").of_all()
    for name, x in whole.items():
        assert x.shape[0] == 21 and np.allclose(by_blocks[name], x, rtol=1e-3, atol=1e-4 * np.abs(x).max()), name
    # The same layers over the states of the lower block, and with fewer tokens.
    monkeypatch.setattr(layer_samples, "SAMPLES", (20, 60))
    monkeypatch.setattr(layer_samples, "UPPER", 2)
    by_tokens = layer_samples.influence_by_sample(
        Steps(tmp_path / "three", []), layer_influence.Rows(), drawn, tmp_path / "model"
    )
    upper = at_once.chosen("mlp:upper:0.5")
    assert list(by_tokens) == [20, 60] and upper.sum() == 6
    few, many, same = by_tokens[20]["influence"], by_tokens[60]["influence"], whole["influence"][upper]
    assert np.allclose(many, same, rtol=1e-3, atol=1e-4 * np.abs(same).max())
    assert not np.allclose(few, many, rtol=1e-2, atol=1e-2 * np.abs(many).max())
    with pytest.raises(ValueError, match="expected rows with 10000 tokens"):
        layer_influence.first_tokens(others, 10_000)
