"""Shards whose last batches end during the next shard, as on a GPU: the same bytes, and nothing lost by a stop."""

from __future__ import annotations

import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import gdig
from gdig.data.tokens import Example
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.passes import shards
from gdig.passes.in_flight import Flight, RowNumbers, SpanRows
from gdig.passes.row_pass import RowPass
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors
from tests.support.stops import Stop, StopAt
from tests.support.torchrun import files_of

OPTIONS = {"token_batch_size": 128, "rows_per_shard": 16}


def options_of(project, run_path) -> dict:
    unknown = ("n_clusters", "budget", "report", "method", "tau")
    return {k: v for k, v in project.options(run_path, **OPTIONS).items() if k not in unknown}


@pytest.fixture(scope="module")
def whole(project, tmp_path_factory) -> Path:
    """The sweep of a run whose passes do not overlap."""
    return gdig.sweep(**options_of(project, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def events(monkeypatch) -> list[tuple[str, int]]:
    """Passes overlap. The list gets what happens: a shard starts, all of its batches have started, it is whole, each
    with its first row, and "written" with its number."""
    happened: list[tuple[str, int]] = []
    shard, write, tensors = RowPass.shard, shards._write, RowPass._tensors

    def starts(self, encoded, *args, **kwargs):
        happened.append(("starts", encoded.start))
        shard(self, encoded, *args, **kwargs)
        happened.append(("all started", encoded.start))

    def written(store, number, *rest):
        write(store, number, *rest)
        happened.append(("written", number))

    def is_whole(self, encoded, *args):
        happened.append(("whole", encoded.start))
        return tensors(self, encoded, *args)

    monkeypatch.setattr(RowPass, "shard", starts)
    monkeypatch.setattr(RowPass, "_tensors", is_whole)
    monkeypatch.setattr(shards, "_write", written)
    monkeypatch.setattr(RowPass, "overlaps", property(lambda self: True))
    return happened


def test_overlapping_shards_have_the_same_bytes(project, whole, tmp_path, events):
    run_path = gdig.sweep(**options_of(project, tmp_path / "run"))
    assert files_of(run_path) == files_of(whole)
    assert [number for what, number in events if what == "written"] == [0, 1, 2, 3]
    for first, second in pairwise((0, 16, 32, 48)):  # the last two batches of the first are still on the way
        assert events.index(("starts", second)) < events.index(("whole", first))
        assert events.index(("whole", first)) < events.index(("all started", second)), "it waits for all of the next"


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_stop_in_the_next_shard_loses_no_row_of_either(project, whole, tmp_path, events, monkeypatch, after):
    stop_at = StopAt(monkeypatch, GradientPass, "run", lambda batch, *sinks, **more: len(batch.rows))
    all_batches, before = stop_at(None), []
    with monkeypatch.context() as counting:
        shard = RowPass.shard
        counting.setattr(RowPass, "shard", lambda *a, **k: (before.append(len(all_batches)), shard(*a, **k)))
        gdig.sweep(**options_of(project, tmp_path / "run"))
    n_batches = len(all_batches)
    events.clear()
    options = options_of(project, tmp_path / "again")
    batches = stop_at(before[1] + after)  # this batch of the second shard raises
    with pytest.raises(Stop):
        gdig.sweep(**options)
    sweep, of_second = tmp_path / "again" / "sweep", list(batches)[before[1] : -1]
    assert len(of_second) == after - 1
    assert SketchStore.open(sweep).shards == [0] and events[-1] == ("written", 0)
    kept = [read_tensors(file)[0]["rows"] for file in (sweep / "resume").glob("*.safetensors")]
    assert sum(map(len, kept)) == sum(of_second)
    assert len(batches) - 1 + len(_sweep_again(stop_at, options)) == n_batches, "what was done was done again"
    assert files_of(tmp_path / "again") == files_of(whole)


def _sweep_again(stop_at: StopAt, options: dict) -> list[int]:
    stopped = stop_at(None)
    gdig.sweep(**options)
    return stopped


class Copy:
    """A batch's result."""

    def __init__(self, value: float, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def numpy(self) -> list[np.ndarray]:
        if self.error is not None:
            raise self.error
        return [np.full((1, 2), self.value, np.float32)] * 2 + [np.full(1, self.value, np.float32), np.zeros((1, 0))]


class Kept:
    """A resume file that notes which rows it gets."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def load(self, columns) -> np.ndarray:
        return np.zeros(len(columns["loss"]), dtype=bool)

    def keep(self, done, columns, *, now=False) -> None:
        if now:
            self.rows.append(np.flatnonzero(done).tolist())


def test_a_result_that_does_not_arrive_leaves_the_other_rows_of_both_shards():
    batches = make_batches([Example(np.ones(3, np.int32), np.ones(3, np.int32))] * 3, 3)
    whole: list[RowNumbers] = []
    first, second = Kept(), Kept()
    spans = [SpanRows(_zeros(3), None, kept, whole.append) for kept in (first, second)]
    flight = Flight(2)
    for batch, value in zip(batches, (1, 2, 3), strict=True):
        flight.add(spans[0], batch, Copy(value, ValueError("lost") if value == 2 else None))
    spans[0].end_starts()
    with pytest.raises(ValueError, match="lost"):
        for batch in batches[:2]:
            flight.add(spans[1], batch, Copy(4.0))
    flight.save()
    assert whole == []
    lost = batches[1].rows.tolist()
    assert first.rows == [sorted({0, 1, 2} - set(lost))] and second.rows == [batches[0].rows.tolist()]


def test_a_shard_that_is_whole_is_let_go():
    batches = make_batches([Example(np.ones(3, np.int32), np.ones(3, np.int32))] * 3, 3)
    flight, whole = Flight(2), []
    span = SpanRows(_zeros(3), None, None, lambda rows: whole.append(rows.loss.tolist()))
    for batch in batches:
        flight.add(span, batch, Copy(5.0))
    span.end_starts()
    flight.land()
    held = weakref.ref(span)
    del span
    assert whole == [[5.0] * 3] and held() is None


def _zeros(n: int) -> RowNumbers:
    return RowNumbers(np.zeros((n, 2)), np.zeros((n, 2)), np.full(n, np.nan), np.zeros((n, 0)))
