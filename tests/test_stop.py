"""Ctrl-C and SIGTERM: within two seconds, with one sentence, whatever runs at that moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

import gdig
from tests.support.project_fixtures import Command, SignalAt, flags

PASS = "gdig.model.capture:GradientPass.run"
LIMIT_S = 2.0
# What a shared machine may add between the signal and the moment at which the thread that waits for it runs.
ALLOWANCE_S = 8.0

# The commands' `run` with another command: one that computes without a look at signals.
BLOCKED = """
    import gdig.cli.main as command
    import torch

    def work(args, ranks):
        x = torch.ones({side}, {side}, dtype=torch.float64)
        print("at work", flush=True)
        torch.linalg.eigvals(x)
        print("done", flush=True)
        return 0

    command._main = work
    command.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_process_in_one_long_operation_of_torch_ends_in_time(number, status, word):
    """An eigenvalue problem of minutes, which raises no exception before it ends."""
    code = textwrap.dedent(BLOCKED).format(side=6_000)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    start = time.monotonic()
    process.send_signal(number)
    rest, error = process.communicate()
    assert time.monotonic() - start < LIMIT_S + ALLOWANCE_S
    assert (process.returncode, rest, error) == (status, "", f"{word}; the same command goes on from here\n")


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
