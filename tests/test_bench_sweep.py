"""The sweep's bench in its quick form: it runs, its figures hang together, and what is not installed is said."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import benches.sweep
from benches.sweep_parts.plain_passes import file_order, rectangles
from benches.sweep_parts.random_examples import make_examples, make_lengths
from tests.support.project_fixtures import Command

pytestmark = [pytest.mark.slow, pytest.mark.peers]


def run_forked(command: list[str], **options) -> subprocess.CompletedProcess[str]:
    """Stands for the `subprocess.run` by which the bench measures memory: without the seconds that imports take."""
    assert command[:3] == [sys.executable, "-m", "benches.sweep"]
    with tempfile.TemporaryDirectory() as folder:
        process = Command.start(command[3:], Path(folder), program="benches.sweep:main")
        assert process.wait() == 0, process.error
        return subprocess.CompletedProcess(command, 0, process.output, process.error)


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("bench") / "sweep.json"
    # Lengths generated, and no file of pairs that may lie on this machine.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GDIG_ZH_EN", str(path.parent / "none.json"))
        patch.setenv("OMP_NUM_THREADS", "1")  # which the bench sets
        patch.setattr(sys, "argv", ["sweep", "--quick", "--record", str(path)])
        patch.setattr(benches.sweep, "subprocess", SimpleNamespace(run=run_forked, PIPE=subprocess.PIPE))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            benches.sweep.main()
    assert "quick: Llama" in said.getvalue()
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
    for facts in size["passes"].values():
        times = facts["seconds"]["all"]
        assert len(times) == 2 and min(times) > 0
        ratios = [mine / other for mine, other in zip(times, plain["seconds"]["all"], strict=True)]
        assert facts["against_sorted"]["median"] == pytest.approx(sum(ratios) / 2)
        assert facts["tokens_per_second"] == pytest.approx(size["tokens"] / facts["seconds"]["median"])
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
