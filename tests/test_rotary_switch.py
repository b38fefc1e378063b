"""Models whose rotary factors change with the length of a batch: no batch, and no group of seeds, holds both sides."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import Phi3Config, Phi3ForCausalLM

import gdig
from gdig.influence.seed_plan import largest_pass, make_groups
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.directory import Limits
from gdig.model.rotary import rotary_switch
from gdig.training.rectangle import Rectangle
from tests.support.project_fixtures import N_ROWS, save_model, stored
from tests.support.tiny_models import llama, make_examples, wrapped

SWITCH = 10
ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": SWITCH, "factor": 4.0,
    "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0],
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    if int(transformers.__version__.split(".")[0]) >= 5:
        return wrapped(llama(rope_parameters=ROPE))[0]
    # transformers 4 has other names, and reads the length beside them. It would take no notice of rope_parameters.
    return wrapped(llama(rope_scaling=ROPE, original_max_position_embeddings=SWITCH))[0]


def losses(model, examples, **options) -> np.ndarray:
    by_example, gradients = np.zeros(len(examples)), GradientPass(model, "mean")
    for batch in make_batches(examples, 256, **options):
        by_example[batch.rows] = gradients.run(batch, lambda *_: None).numpy()
    return by_example


@pytest.mark.parametrize(
    ("config", "switch"),
    [
        (SimpleNamespace(rope_parameters=ROPE), SWITCH),
        (SimpleNamespace(rope_parameters={"full": {"rope_type": "default"}, "sliding": ROPE}), SWITCH),
        (SimpleNamespace(rope_scaling={"type": "longrope"}, original_max_position_embeddings=SWITCH), SWITCH),
        (SimpleNamespace(rope_scaling={"type": "linear"}, original_max_position_embeddings=SWITCH), None),
        (SimpleNamespace(rope_parameters=5), None),
        (SimpleNamespace(), None),
    ],
    ids=["one", "by-layer", "transformers-4", "linear", "number", "none"],
)
def test_the_length_is_in_the_configuration(config, switch):
    assert rotary_switch(config) == switch


def test_a_row_does_not_depend_on_longer_rows(model):
    assert model.rotary_switch == SWITCH and wrapped(llama())[0].rotary_switch is None
    short, long = make_examples(6, 1, shortest=4, longest=SWITCH), make_examples(3, 2, shortest=12, longest=20)
    alone = []
    for row in short:
        ids, labels = (torch.from_numpy(x).long() for x in (row.input_ids, row.labels))
        with torch.no_grad():
            logits = model.module(input_ids=ids[None]).logits[0, :-1]
        alone.append(float(torch.nn.functional.cross_entropy(logits, labels[1:])))
    # Rotary factors and attention weights are float32 in any model: 6e-8, through two blocks less than 1e-6.
    assert np.allclose(losses(model, short + long, rotary_switch=SWITCH)[:6], alone, rtol=1e-6)
    # In one batch with the long rows all have the long factors, and so do short rows with pads beyond the switch.
    assert not np.allclose(losses(model, short + long)[:6], alone, rtol=1e-4)
    assert not np.allclose(losses(model, short), alone, rtol=1e-4)


def test_batches_and_groups_lie_on_one_side():
    examples = make_examples(40, 3, shortest=3, longest=20)
    batches = make_batches(examples, 64, rotary_switch=SWITCH)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(40))
    for batch in batches:
        sides = {len(examples[row]) > SWITCH for row in batch.rows}
        assert sides == {batch.shape[1] > SWITCH}
    groups = make_groups(examples, SWITCH)
    assert [number for group in groups for number in group] == list(range(40))
    assert all(len({len(examples[number]) > SWITCH for number in group}) == 1 for group in groups)
    two = make_examples(1, 4, shortest=8, longest=8) + make_examples(1, 5, shortest=20, longest=20)
    assert (largest_pass(two, 1, SWITCH), largest_pass(two, 1, None), largest_pass(two, 50, SWITCH)) == (20, 40, 50)


@pytest.mark.parametrize(("longest", "columns"), [(SWITCH, SWITCH), (12, 16)])
def test_a_step_of_a_training_stays_whole_and_its_pads_stay_below_the_switch(longest, columns):
    examples = make_examples(6, 1, shortest=4, longest=SWITCH) + make_examples(1, 2, longest, longest)
    ids = Rectangle(Limits(window=40, vocab_size=None, rotary_switch=SWITCH))(examples)["input_ids"]
    assert ids.shape == (7, columns)
    for row, example in zip(ids, examples, strict=True):
        assert row[: len(example)].tolist() == example.input_ids.tolist()


def test_a_run_of_phi_3_gives_short_rows_the_numbers_that_they_have_alone(
    project, tiny_tokenizer, tmp_path, monkeypatch
):
    """From the folder of the model to the shards: the switch is read, and batches of the fit and the sweep are cut."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    rope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    lengths = {"max_position_embeddings": 128, "original_max_position_embeddings": 64}
    config = Phi3Config(
        vocab_size=len(tiny_tokenizer), **sizes, **tokens, **lengths, rope_scaling=rope, initializer_range=0.2
    )
    model = save_model(tmp_path / "model", Phi3ForCausalLM(config), tiny_tokenizer)
    options = {"model": str(model), "inversion": "identity"}

    def swept(name: str, **changes: object) -> dict[str, np.ndarray]:
        gdig.sweep(**project.options(tmp_path / name, **{**options, **changes}))
        return stored(tmp_path / name)

    whole = swept("whole")
    short = whole["tokens"] <= 64
    assert 5 < short.sum() < N_ROWS - 5, "rows lie on both sides"
    alone = swept("alone", token_batch_size=1)

    def differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> np.ndarray:
        # float32 through two blocks: 2^-24 an operation, over sums of some 2^6 terms.
        gaps = [np.abs(a[name] - b[name]).reshape(N_ROWS, -1).max(1) for name in ("loss", "influence")]
        sizes = [np.abs(b[name]).max() for name in ("loss", "influence")]
        return np.maximum(gaps[0] / sizes[0], gaps[1] / sizes[1])

    assert differ(whole, alone).max() < 2.0**-12
    monkeypatch.setattr("gdig.model.directory.rotary_switch", lambda config: None)
    monkeypatch.setattr("gdig.model.causal_model.rotary_switch", lambda config: None)
    mixed = swept("mixed")
    assert (differ(mixed, alone)[short] > 1e-3).any(), "without the cut, long neighbours change short rows"
