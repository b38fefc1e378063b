"""The share of all stages: the same work counts at every start, so that no start shows less than the one before it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import sys
from dataclasses import replace
from types import ModuleType

import pytest

import gdig
from gdig.forecast import Forecast, PlannedStage
from gdig.influence.memory_plan import plan_fit
from gdig.kmeans import KMeans
from gdig.model.capture import GradientPass
from gdig.progress import Progress
from tests.support.project_fixtures import SignalAt, _command, flags, fork
from tests.support.stops import Stop, StopAt
from tests.test_progress import Clock, Terminal

KEEP_ALL = {"GDIG_RESUME_INTERVAL": "0"}
# Rows of a few shards in small batches, so that a stop hits shards that are whole, and one that is not.
OPTIONS = {"token_batch_size": 128, "rows_per_shard": 16, "quiet": False}
SHARE = re.compile(r"all stages: (\d+) %")


def shares(text: str) -> list[int]:
    return [int(share) for share in SHARE.findall(text)]


@pytest.fixture
def every_batch(monkeypatch) -> None:
    """Every batch is kept, and shown."""
    monkeypatch.setenv("GDIG_RESUME_INTERVAL", "0")
    for name in ("_FIRST_LINE_S", "_LINE_INTERVAL_S", "_DRAW_S"):
        monkeypatch.setattr(f"gdig.progress.{name}", 0.0)


def test_what_earlier_starts_finished_counts_as_done() -> None:
    stages = (
        PlannedStage("fit", 10, 1000, done=1.0),
        PlannedStage("sweep", 10, 2000, done=0.5),
        PlannedStage("cluster", 10, 1000, done=0.5),
    )
    clock = Clock()
    forecast = Forecast(stages, clock)
    assert forecast.share == 2500 / 4000
    forecast.begin("sweep")
    forecast.update(0.5, 0.5)
    assert forecast.share == 2500 / 4000 and forecast.left_s is None
    clock.now += 10
    forecast.update(0.6, 0.5)  # 200 in 10 s; 800 of the sweep and 500 of the clusters are left
    assert forecast.share == 2700 / 4000 and forecast.left_s == pytest.approx(1300 / 20)


@pytest.mark.parametrize("where", ["plain lines", "terminal", "notebook"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"random_seed": 1}, {"inversion": "cg", "cg_iterations": 2, "cg_rows": 8}, {"inversion": "identity"}],
    ids=["ekfac", "ekfac in partitions", "cg", "identity"],
)
def test_the_share_of_all_stages_never_falls_at_a_start(
    project, tmp_path, monkeypatch, capsys, every_batch, where, changes
) -> None:
    """Stopped inside every stage. Rows differ in length from those of the sample: their tokens count."""
    if where == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    if "random_seed" in changes:
        groups = ((0, 1, 2), (3, 4), (5,))
        monkeypatch.setattr("gdig.influence.fit.plan_fit", lambda *given: replace(plan_fit(*given), partitions=groups))
        monkeypatch.setattr("gdig.influence.fit.plan_seeds_on_ranks", lambda *given: [list(group) for group in groups])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "250")
    stop_at = StopAt(monkeypatch, GradientPass, "run", lambda batch, *sinks, **more: len(batch.rows))
    shown: list[list[int]] = []
    for n in (3, 7, 11, 9, 8, 12, 6, 4, 5, None):
        stream = None if where == "notebook" else Terminal() if where == "terminal" else io.StringIO()
        stop_at(n)
        capsys.readouterr()
        with contextlib.suppress(Stop):
            gdig.select(progress=Progress(stream=stream), **project.options(tmp_path / "run", **OPTIONS, **changes))
        shown.append(shares(capsys.readouterr().err if stream is None else stream.getvalue()))
    whole = [share for start in shown for share in start]
    assert len([start for start in shown if start]) >= 6, "the stops must hit stages"
    assert whole == sorted(whole), shown
    assert whole[-1] == 100


def test_iterations_of_k_means_that_an_earlier_start_did_count_as_done(
    project, tmp_path, monkeypatch, every_batch
) -> None:
    """A fit that goes on from a resume file tells the third iteration first."""
    fit = KMeans.fit

    def resumed(self, store, *, callback, resume_file):
        fit(self, store)
        callback(3, 2.0, 1.0)
        callback(4, 1.0, 0.0)

    monkeypatch.setattr(KMeans, "fit", resumed)
    stream = io.StringIO()
    options = project.options(tmp_path / "run", **OPTIONS, kmeans_max_iter=8)
    gdig.select(progress=Progress(stream=stream), **options)
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("cluster: k-means: ")]
    assert [line.partition(" iterations")[0].rpartition(" ")[2] for line in lines] == ["3/8", "4/8", "4"]


def test_a_start_that_only_clusters_shows_the_share_of_all_stages(project, tmp_path, every_batch) -> None:
    options = project.options(tmp_path / "run", **OPTIONS)
    gdig.sweep(**{**options, "quiet": True})
    stream = io.StringIO()
    gdig.select(progress=Progress(stream=stream), **options)
    assert shares(stream.getvalue())[0] > 50
    stream = io.StringIO()
    gdig.select(progress=Progress(stream=stream), **{**options, "method": "top"})
    assert shares(stream.getvalue()) == []


def read_until_end(leader: int, follower: int, process) -> str:
    """What a process writes to a pseudo-terminal."""
    text = b""
    while process.is_alive() or select.select([leader], [], [], 0)[0]:
        if select.select([leader], [], [], 0.05)[0]:
            text += os.read(leader, 1 << 16)
    process.join()
    os.close(leader)
    os.close(follower)
    return text.decode()


@pytest.mark.slow
def test_killed_in_a_pseudo_terminal_and_started_again(project, tmp_path) -> None:
    args = ["select", *flags(project.options(tmp_path / "run", **OPTIONS))]
    last = []
    for count in (14, 25, None):
        leader, follower = pty.openpty()
        signal_at = None if count is None else SignalAt("gdig.model.capture:GradientPass.run", count)
        environment = {**KEEP_ALL, "TERM": "xterm", "COLUMNS": "250", "LINES": "50"}
        process = fork(_command, args, os.devnull, os.ttyname(follower), None, environment, signal_at, None)
        text = read_until_end(leader, follower, process)
        assert process.exitcode == (0 if count is None else -signal.SIGKILL), text
        last.append(shares(text))
    whole = [share for start in last for share in start]
    assert all(last) and whole == sorted(whole), last
