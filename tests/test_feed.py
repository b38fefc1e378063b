"""What runs beside the model pass: tokenising in other processes, writing behind it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from functools import partial

import numpy as np
import pytest

import gdig
from gdig.background import Background
from gdig.config.config import Config
from gdig.errors import CorpusError, RunError
from gdig.passes import encode_ahead
from gdig.passes.encode_ahead import Feed
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.project_fixtures import read_jsonl, write_jsonl

SHARDS = [(0, 16), (32, 48), (48, 60), (16, 32)]


@pytest.fixture(params=["fork", "spawn"])
def start_method(request, monkeypatch):
    """How workers start: the default differs between systems and versions of Python."""
    made = partial(encode_ahead.DataLoader, multiprocessing_context=request.param)
    monkeypatch.setattr(encode_ahead, "DataLoader", made)


def feed(project, tmp_path, workers, **changes):
    config = Config.build(project.options(tmp_path / "run", **changes))
    numbers = range(len(SHARDS))
    work, shards = Workspace(config, Progress(quiet=True)), [[span] for span in SHARDS]
    spans = list(Feed(work, shards, 64, workers).encode(numbers))
    assert [number for number, _ in spans] == list(numbers)
    return [span for _, (span,) in spans]


@pytest.mark.usefixtures("start_method")
def test_workers_make_the_same_shards_in_the_same_order(project, tmp_path):
    here, there = feed(project, tmp_path, 0), feed(project, tmp_path, 2)
    assert [(x.start, x.stop) for x in there] == SHARDS
    for a, b in zip(here, there, strict=True):
        for name in ("positions", "tokens", "cut", "hash"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        assert len(a.batches) == len(b.batches) > 1
        for x, y in zip(a.batches, b.batches, strict=True):
            assert np.array_equal(x.input_ids, y.input_ids) and np.array_equal(x.labels, y.labels)
            assert np.array_equal(x.rows, y.rows)


def test_a_sweep_with_workers_leaves_the_same_files(project, finished, tmp_path):
    gdig.select(**project.options(tmp_path / "run", workers=2))
    for file in sorted((finished / "sweep").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "run" / "sweep" / file.name).read_bytes()


def test_a_bad_row_comes_over_as_the_error_it_is(project, tmp_path):
    rows = read_jsonl(project.pool)
    rows[40]["trg_text"] = ""
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    shards = feed(project, tmp_path, 1, candidates=(str(pool),))
    assert [len(shard.errors) for shard in shards] == [0, 1, 0, 0]
    assert "line 41" in str(shards[1].errors[0]) and "trg_text" in str(shards[1].errors[0])


def test_a_pool_that_cannot_be_read_in_a_worker_is_gdigs_error(project, tmp_path):
    with pytest.raises(CorpusError, match="nowhere"):
        feed(project, tmp_path, 1, candidates=(str(tmp_path / "nowhere.jsonl"),))


def test_a_worker_that_dies_is_told(project, tmp_path):
    config = Config.build(project.options(tmp_path / "run"))
    work, shards = Workspace(config, Progress(quiet=True)), [[span] for span in SHARDS]
    spans = Feed(work, shards, 64, 1).encode(range(len(SHARDS)))
    next(spans)  # the worker is at most two shards ahead, so the last one is still to be made
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="a process that tokenises has died"):
        list(spans)


def test_background_does_in_order_and_keeps_errors():
    done, may = [], threading.Event()

    def slow(number):
        may.wait(30)
        done.append(number)

    with Background(ahead=1) as thread:
        thread.submit(slow, 0)
        thread.submit(slow, 1)
        assert done == []
        may.set()
        thread.submit(slow, 2)  # waits for the first
        assert done[:1] == [0]
    assert done == [0, 1, 2]
    with pytest.raises(ZeroDivisionError), Background() as thread:
        thread.submit(lambda: 1 / 0)
    with pytest.raises(KeyError), Background() as thread:  # the block's own error, with what came before it done
        thread.submit(done.append, 3)
        raise KeyError
    assert done[-1] == 3
