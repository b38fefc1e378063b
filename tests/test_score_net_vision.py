"""A vision-language model (a tiny LLaVA with random weights) with the user's own features and collator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import gdig
from gdig.errors import ConfigError
from gdig.selection.methods.self_filter import hardest_rows
from gdig.training import difficulty
from tests.support.plain_methods import plain_self_filter, units
from tests.support.project_fixtures import N_ROWS, read_jsonl
from tests.support.score_nets import auroc, trainer

pytestmark = pytest.mark.slow

IMAGE, WORDS, PATCHES = 40, 40, 4


def tiny_llava() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4,
        projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=WORDS + 1, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE))


@dataclass
class Shown:
    """A row of the user's: an image, a question and an answer."""

    image: np.ndarray
    question: list[int]
    answer: list[int]


def collate(rows: list[Shown]) -> dict[str, torch.Tensor]:
    """The user's collator: places for the image's patches, question, answer; padded on the left, as some do."""
    lines, labels, masks = [], [], []
    longest = max(len(row.question) + len(row.answer) for row in rows) + PATCHES
    for row in rows:
        ids = [IMAGE] * PATCHES + row.question + row.answer
        pad = longest - len(ids)
        lines.append([0] * pad + ids)
        labels.append([-100] * (longest - len(row.answer)) + row.answer)
        masks.append([0] * pad + [1] * len(ids))
    return {
        "pixel_values": torch.tensor(np.stack([row.image for row in rows])),
        "input_ids": torch.tensor(lines),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(masks),
    }


def shown_rows(n: int) -> tuple[list[Shown], np.ndarray, np.ndarray]:
    """Every third answer is noise; the others count on from the question. Features as of another model."""
    rng = np.random.default_rng(0)
    noisy = np.arange(n) % 3 == 0
    rows = []
    for is_noise in noisy:
        start, length = int(rng.integers(1, 8)), int(rng.integers(5, 9))
        count = [(start + i) % 8 + 1 for i in range(length + 3)]
        answer = rng.integers(1, WORDS, length).tolist() if is_noise else count[3:]
        rows.append(Shown(rng.standard_normal((3, 8, 8)).astype(np.float32), count[:3], answer))
    features = rng.standard_normal((n, 12)).astype(np.float32)
    features[:, 3] += np.where(noisy, 2, -2)
    return rows, features, noisy


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, difficulties, and which rows are noise."""
    rows, features, noisy = shown_rows(N_ROWS)
    np.save(folder := tmp_path_factory.mktemp("vision") / "clip.npy", features)
    made = trainer(
        folder.parent, tiny_llava(), rows, np.load(folder, mmap_mode="r"), collator=collate, learning_rate=3e-3,
        num_train_epochs=4, per_device_train_batch_size=6, save_strategy="epoch", remove_unused_columns=False,
    )  # fmt: skip
    before = {name: x.clone() for name, x in made.model.state_dict().items()}
    made.train()
    changed = [name for name, x in made.model.state_dict().items() if not torch.equal(x, before[name])]
    assert any("vision" in name for name in changed) and any("lm_head" in name for name in changed)
    assert (folder.parent / "checkpoint-40" / "score_net.safetensors").is_file()
    return features, difficulty(made.score_net, features), noisy


def test_answers_that_nobody_can_learn_end_as_the_harder_ones(trained):
    """A net that learnt nothing stays within 3 standard errors, 0.24 (20 rows against 40), of a half."""
    _, learned, noisy = trained
    assert learned.shape == (N_ROWS,) and learned.dtype == np.float32
    assert auroc(learned, noisy) > 0.85


def test_the_choice_by_files_over_a_run(trained, project, run_copy, tmp_path):
    features, learned, noisy = trained
    np.save(tmp_path / "clip.npy", features)
    np.save(tmp_path / "difficulty.npy", learned)
    files = {"features": str(tmp_path / "clip.npy"), "difficulty": str(tmp_path / "difficulty.npy")}
    chosen = gdig.select(**project.options(run_copy, method="self-filter", **files))
    assert chosen.rows.tolist() == plain_self_filter(units(features), learned, 12, 10)
    assert len(read_jsonl(chosen.output)) == 12
    assert noisy[chosen.rows].mean() > noisy.mean(), "the hard ones come first"


def test_the_choice_without_a_run(trained):
    features, learned, _ = trained
    chosen = hardest_rows(features, learned, 12)
    assert chosen.tolist() == plain_self_filter(units(features), learned, 12, 10)
    assert hardest_rows(features.astype(np.float16), learned.astype(np.float64), 5).shape == (5,)


@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(1, 5))
def test_the_choice_without_a_run_is_the_plain_one(random_seed, n, k):
    rng = np.random.default_rng(random_seed)
    x, hard = rng.standard_normal((n, 4)).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    k = min(k, n - 1)
    budget = int(rng.integers(1, n + 1))
    assert hardest_rows(x, hard, budget, n_neighbours=k).tolist() == plain_self_filter(units(x), hard, budget, k)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "length": ({"difficulty": np.zeros(3)}, r"difficulty: expected floats \[4\], got float64 \[3\]"),
    "whole": ({"difficulty": np.zeros(4, np.int64)}, "difficulty: expected floats"),
    "flat": ({"features": np.zeros(4)}, r"features: expected floats \[rows, any\]"),
    "nan": ({"difficulty": np.array([0, 1, np.nan, 0])}, "difficulty: row 2: expected finite numbers"),
    "inf": ({"features": np.diag([1, 1, 1, np.inf])}, "features: row 3: expected finite numbers"),
    "many": ({"n": 5}, "n: expected 1 to 4 rows, got 5"),
    "neighbours": ({"n_neighbours": 4}, "n_neighbours=4: expected at most 3, because the pool has 4 valid rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_choices_without_a_run(case):
    changes, message = BAD[case]
    arguments = {"features": np.eye(4), "difficulty": np.arange(4.0), "n": 2, "n_neighbours": 2, **changes}
    with pytest.raises(ConfigError, match=message):
        hardest_rows(**arguments)
