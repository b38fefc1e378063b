"""Batches of models whose rotary factors depend on the length of a batch (longrope)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from gdig.influence.seed_plan import make_groups
from gdig.model.batches import make_batches
from gdig.model.directory import Limits
from gdig.model.rotary import rotary_switch
from gdig.training.rectangle import Rectangle
from tests.support.tiny_models import VOCAB, make_examples


@pytest.mark.parametrize("switch", [3, 20, 30, 41])
def test_no_batch_lies_on_both_sides_of_a_rotary_switch(switch):
    examples = make_examples(57, 9, 2, 40)
    batches = make_batches(examples, 128, window=40, rotary_switch=switch)
    assert sorted(np.concatenate([b.rows for b in batches]).tolist()) == list(range(57))
    for batch in batches:
        long = batch.lengths > switch
        assert long.all() or (not long.any() and batch.shape[1] <= switch), "pads carry none over it either"
    groups = make_groups(examples, switch)
    assert [number for group in groups for number in group] == list(range(57))
    assert all(len({len(examples[number]) > switch for number in group}) == 1 for group in groups)
    short = [example for example in examples if len(example) <= switch]
    for mixed in (examples[:6], short[:6]):
        ids = Rectangle(Limits(window=40, vocab_size=None, rotary_switch=switch))(mixed)["input_ids"]
        longest = max(map(len, mixed))
        assert len(ids) == len(mixed) and (longest > switch or ids.shape[1] <= switch)
        assert [row[: len(e)].tolist() for row, e in zip(ids, mixed, strict=True)] == [
            e.input_ids.tolist() for e in mixed
        ]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_type": "longrope", "original_max_position_embeddings": 4096}, 4096),
        ({"type": "longrope"}, 64),
        ({"full": {"rope_type": "default"}, "sliding": {"rope_type": "longrope"}}, 64),
        ({"rope_type": "yarn", "original_max_position_embeddings": 4096}, None),
        (None, None),
    ],
)
def test_a_configuration_says_where_its_rotary_factors_change(parameters, expected):
    for name in ("rope_parameters", "rope_scaling"):
        assert rotary_switch(SimpleNamespace(**{name: parameters}, original_max_position_embeddings=64)) == expected


def test_a_row_of_a_longrope_model_does_not_depend_on_its_neighbours():
    """And it would, without the cut: the model takes other factors for all rows of a long batch."""
    config = Phi3Config(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=1, initializer_range=0.5,
        max_position_embeddings=64, original_max_position_embeddings=16,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]},
    )  # fmt: skip
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).double().eval()
    examples = make_examples(2, 1, 12, 12) + make_examples(1, 2, 24, 24)
    switch = rotary_switch(config)
    assert switch == 16

    def short_logits(switch: int | None) -> torch.Tensor:
        batches = make_batches(examples, 128, rotary_switch=switch)
        (batch,) = (batch for batch in batches if 0 in batch.rows)
        line = batch.rows.tolist().index(0)
        with torch.no_grad():
            return model(torch.from_numpy(batch.input_ids.astype(np.int64)), use_cache=False).logits[line, :12]

    with torch.no_grad():
        alone = model(torch.from_numpy(examples[0].input_ids.astype(np.int64))[None], use_cache=False).logits[0]
    torch.testing.assert_close(short_logits(switch), alone, rtol=1e-9, atol=1e-9)
    assert (short_logits(None) - alone).abs().max() > 1e-3
