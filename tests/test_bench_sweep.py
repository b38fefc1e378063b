"""The sweep's bench in its quick form: it runs, its figures hang together, and what is not installed is said."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benches.sweep_parts.plain_passes import file_order, rectangles
from benches.sweep_parts.random_examples import make_examples, make_lengths

pytestmark = [pytest.mark.slow, pytest.mark.peers]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("bench") / "sweep.json"
    command = [sys.executable, "-m", "benches.sweep", "--quick", "--record", str(path)]
    # Lengths generated, and no file of pairs that may lie on this machine.
    environment = {**os.environ, "GDIG_ZH_EN": str(path.parent / "none.json")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "quick: Llama" in result.stdout
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_pass_is_measured_or_said_to_be_absent(record):
    assert record["lengths"] == "generated"
    size = record["sizes"]["quick"]
    passes, absent = size["passes"], size["absent"]
    own = {"sketch", "plain, file order", "plain, sorted", "scores at 0.99", "scores, exact", "fit", "loop, scores"}
    assert own <= passes.keys()
    for peer in ("bergson", "kronfluence"):
        installed = importlib.util.find_spec(peer) is not None
        for name in (f"{peer}, scores", f"{peer}, fit"):
            assert (name in passes) == installed and (name in absent) != installed
            assert installed or peer in absent[name]


def test_ratios_and_rates_follow_from_the_seconds(record):
    size = record["sizes"]["quick"]
    plain = size["passes"]["plain, sorted"]
    for one in size["passes"].values():
        times = one["seconds"]["all"]
        assert len(times) == 2 and min(times) > 0
        ratios = [mine / other for mine, other in zip(times, plain["seconds"]["all"], strict=True)]
        assert one["against_sorted"]["median"] == pytest.approx(sum(ratios) / 2)
        assert one["tokens_per_second"] == pytest.approx(size["tokens"] / one["seconds"]["median"])
    memory = size["passes"]["sketch"]["memory"]
    assert memory["peak_mib"] >= memory["ready_mib"] > 0


def test_passes_that_should_agree_do(record):
    passes = record["sizes"]["quick"]["passes"]
    # Float32 sums of at most 300 tokens and 64 x 128 entries in two orders: 300 half-units of rounding (6e-8) on terms
    # of both signs stay well below 1e-4; a wrong row, seed or sign gives 1.
    assert passes["loop, scores"]["against_exact"]["relative_error"] < 1e-4
    # |W - UV|^2 <= 0.01 |W|^2 in every layer, and a score is a product with W: the error is 0.1 of |G||W|, and of the
    # scores themselves some times that, since G and W are not parallel. Other seeds' scores correlate by chance alone.
    assert passes["scores at 0.99"]["against_exact"]["correlation"] > 0.9


def test_plain_batches_hold_every_example_once():
    examples = make_examples(make_lengths(50), 50, 100)
    for batches in (file_order(examples), rectangles(examples, 1024)):
        lines = sorted(
            tuple(ids[: int((labels != -100).nonzero().max()) + 1].tolist())
            for batch in batches
            for ids, labels in zip(batch.input_ids, batch.labels, strict=True)
        )
        assert lines == sorted(tuple(example.input_ids.tolist()) for example in examples)
    masks = sum(int(batch.attention_mask.sum()) for batch in file_order(examples))
    assert masks == sum(len(example) for example in examples)
    assert max(len(batch.input_ids) for batch in file_order(examples)) == 32
