"""The work of the eigenvectors by a model's configuration, beside the seconds that runs took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, MixtralConfig, PretrainedConfig

from gdig.config.config import Config
from gdig.passes.eigenvector_work import UNKNOWN, eigenvector_work

SMOLLM2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
)
SMALL = LlamaConfig(
    vocab_size=49152,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def work_of(path: Path, configuration: PretrainedConfig, **options: Any) -> float:
    configuration.save_pretrained(path)
    return eigenvector_work(Config.build({"model": str(path), **options}))


def test_the_work_is_that_of_recorded_runs(tmp_path: Path) -> None:
    """Seconds of benches/record (plan.json, real_model.json) over those of a token of the same run's sums.

    In the runs of the plan, the first pass of 9,163 tokens took 37.28 s and 4.11 s at 1.1 of a plain pass.
    """
    token, of_small = 37.28 / (1.1 * 9163), 4.11 / (1.1 * 9163)
    assert work_of(tmp_path, SMOLLM2) == pytest.approx(6.72 / token, rel=0.2)
    assert work_of(tmp_path, SMALL) == pytest.approx(0.89 / of_small, rel=0.2)
    # 8.1 s with the layers of the default choice, 26.7 s with the MLP layers of all blocks.
    growth = work_of(tmp_path, SMOLLM2, layers="mlp") / work_of(tmp_path, SMOLLM2)
    assert growth == pytest.approx(26.7 / 8.1, rel=0.2)


def test_attention_and_wide_layers(tmp_path: Path) -> None:
    mlp, attention, both = (work_of(tmp_path, SMALL, layers=kind) for kind in ("mlp", "attention", "all"))
    assert both == pytest.approx(mlp + attention) and attention < mlp
    squares = 4 * 256**2 + 2 * 128**2
    assert attention / mlp == pytest.approx(squares / (2 * 256**2 + 3 * 768**2))
    wide = LlamaConfig(**{**SMALL.to_dict(), "hidden_size": 1536, "intermediate_size": 6144, "vocab_size": 8})
    wider = LlamaConfig(**{**SMALL.to_dict(), "hidden_size": 3072, "intermediate_size": 12288, "vocab_size": 8})
    # The cube of the columns over the square of the parameters; few are in the embeddings.
    assert work_of(tmp_path, wider) / work_of(tmp_path, wide) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("configuration", "options"),
    [
        (SMALL, {"filter_modules": "down_proj"}),
        (SMALL, {"preset": "paper"}),
        (MixtralConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1), {}),
        (PretrainedConfig(), {}),
    ],
    ids=["by names", "paper", "experts", "no sizes"],
)
def test_what_the_configuration_does_not_tell(
    tmp_path: Path, configuration: PretrainedConfig, options: dict[str, Any]
) -> None:
    assert work_of(tmp_path, configuration, **options) == UNKNOWN
