"""Processes of a run that die, and what they leave to those that go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import gdig
from gdig.cli.main import main
from gdig.errors import RunError
from gdig.run.lock import lock, unlock
from tests.support.project_fixtures import Command, SignalAt, flags


def test_a_forked_process_does_not_hold_the_lock_of_its_parent(tmp_path):
    """As a worker that tokenises does, whose parent was killed."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        lock(tmp_path / ".lock")
        if os.fork() == 0:
            os.write(writer, f"{os.getpid()}\n".encode())
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(reader, 20))
    try:
        with pytest.raises(RunError, match="is in use by another gdig process"):
            lock(tmp_path / ".lock")
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        unlock(lock(tmp_path / ".lock"))
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_worker_that_dies_anywhere_is_one_clear_error(project, whole, tmp_path, monkeypatch):
    """torch's signal handler raises at whatever place the program is."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))

    def died(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("gdig.api.survey", died)
    monkeypatch.setattr("gdig.api.make_judge", died)
    with pytest.raises(RunError, match="a process that tokenises has died, perhaps for lack of memory; lower workers"):
        gdig.select(**project.options(run, method="top"))


def select_with_forks() -> int:
    """`gdig select` as a shell starts it: its workers are forked, and not by the fork server of the tests."""
    multiprocessing.set_start_method("fork", force=True)
    return main(["select", *sys.argv[1:]])


def test_after_a_kill_the_same_command_goes_on_at_once(project, tmp_path, finished):
    """Its workers, which tokenise, outlive it for seconds: the lock is not theirs."""
    options = {**project.options(tmp_path / "run"), "workers": 2}
    stop = SignalAt("gdig.passes.row_pass:RowPass.shard", 2, signal.SIGSTOP)
    program = f"{__name__}:{select_with_forks.__name__}"
    command = Command.start(flags(options), tmp_path / "first", signal_at=stop, program=program)
    pid = command.process.pid
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert command.process.is_alive(), command.error
        time.sleep(0.02)
    workers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    try:
        command.send(signal.SIGKILL)
        command.wait()
        assert workers and all(Path(f"/proc/{worker}").exists() for worker in workers), "orphans"
        gdig.select(**{**options, "workers": 0})
        assert (tmp_path / "run" / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
