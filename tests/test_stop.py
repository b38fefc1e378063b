"""Ctrl-C and SIGTERM: with one sentence, whatever runs at that moment, before it ends by itself."""

from __future__ import annotations

import signal
import time

import pytest

import gdig
from tests.support.project_fixtures import Command, SignalAt, flags

PASS = "gdig.model.capture:GradientPass.run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_process_in_one_long_operation_of_torch_ends_before_it(tmp_path, number, status, word):
    """An eigenvalue problem of minutes, which raises no exception before it ends: then the status would be another."""
    command = Command.start([], tmp_path, program="tests.support.blocked:run")
    while "at work" not in command.output:
        assert command.process.is_alive(), command.error
        time.sleep(0.01)
    command.send(number)
    assert command.wait() == status
    assert (command.output, command.error) == ("at work\n", f"{word}; the same command goes on from here\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_in_a_batch_keeps_what_was_done(project, finished, tmp_path, number):
    run_path = tmp_path / "run"
    args = ["select", *flags(project.options(run_path, rows_per_shard=64, token_batch_size=128))]
    command = Command.start(args, tmp_path, signal_at=SignalAt(PASS, 70, number))
    word, status = ("interrupted", 130) if number == signal.SIGINT else ("terminated", 143)
    assert command.wait() == status, command.error
    assert command.error == f"{word}; the same command goes on from here\n"
    assert list(run_path.rglob("*.tmp")) == []
    assert list(run_path.rglob("resume/*")) != []
    again = project.options(run_path, rows_per_shard=64, token_batch_size=128)
    gdig.select(**again)
    gdig.select(**{**again, "run_path": str(tmp_path / "fresh")})
    assert (run_path / "selection.jsonl").read_bytes() == (tmp_path / "fresh" / "selection.jsonl").read_bytes()
