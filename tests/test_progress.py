"""Progress: plain lines, bars on a terminal, silence."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from types import ModuleType

import pytest

import gdig
from gdig.forecast import Forecast, PlannedStage
from gdig.meter import duration
from gdig.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_give_count_share_rate_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock).stage("sweep", total=100_000) as bar:
        clock.now += 20
        bar.advance(16_384)
        clock.now += 4
        bar.advance(1)  # too soon for another line
        clock.now += 76
        bar.advance(83_615, note="batch halved to 4096 tokens")
    assert stream.getvalue().splitlines() == [
        "sweep: 16384/100000 rows (16 %), 819 rows/s, 1:42 left",
        "sweep: 100000/100000 rows (100 %), 1000 rows/s, 0.0 s left, batch halved to 4096 tokens",
        "sweep: 100000 rows in 1:40 (1000 rows/s)",
    ]


def test_rows_of_an_earlier_start_count_as_done_but_not_for_the_rate() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock).stage("sweep", total=1000, done=900) as bar:
        clock.now += 10
        bar.advance(50)
    assert stream.getvalue().splitlines()[0] == "sweep: 950/1000 rows (95 %), 5 rows/s, 0:10 left"


def test_plain_lines_without_a_total() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock).stage("reading", total=None, unit="files") as bar:
        clock.now += 10
        bar.advance(20)
    assert stream.getvalue().splitlines() == ["reading: 20 files, 2 files/s", "reading: 20 files in 0:10 (2 files/s)"]


def test_a_failed_stage_says_nothing_of_success() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError), Progress(stream=stream).stage("sweep", total=10) as bar:
        bar.advance(3)
        raise ValueError
    assert stream.getvalue() == ""


def test_warnings_are_said_once() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    for text in ("row 3 is cut", "row 3 is cut", "row 4 is cut"):
        progress.warn(text)
    progress.say("done")
    assert stream.getvalue() == "warning: row 3 is cut\nwarning: row 4 is cut\ndone\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_prints_nothing(stream: io.StringIO) -> None:
    progress = Progress(quiet=True, stream=stream)
    with progress.stage("sweep", total=10) as bar:
        bar.advance(10)
        progress.say("a")
        progress.warn("b")
    assert stream.getvalue() == ""


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(stream=stream)
    with progress.stage("outer [{x}]", total=2, unit="steps") as outer, progress.stage("inner", total=None) as inner:
        inner.advance(7, note="note [{y}]")
        progress.say("a/long path [with] brackets " + 200 * "z")
        outer.advance(2)
    text = stream.getvalue()
    assert "\r" in text and "\x1b[" in text, "nothing is drawn over: these are no bars"
    for piece in ("outer [{x}]: 100%|", "2/2 steps", "inner: 7 rows", "note [{y}]", " rows/s"):
        assert piece in text
    assert "[with] brackets " + 200 * "z" + "\n" in text, "a line is cut at the terminal's width"
    assert "\x1b[?25l" not in text, "the cursor is hidden"
    assert text.endswith("\n"), "what comes next would stand on the bar"


def test_a_bar_counts_rows_of_an_earlier_start_but_not_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream=stream).stage("sweep", total=10**9, done=10**9 - 1) as bar:
        bar.advance(1)
    last = stream.getvalue().rstrip("\n").rpartition("\r")[2]
    assert "100%" in last and "1000000000/1000000000 rows" in last
    assert float(last.rpartition(", ")[2].removesuffix(" rows/s]")) < 10**8


def test_a_failed_stage_leaves_its_bar_unfinished_and_the_next_line_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(stream=stream)
    with pytest.raises(ValueError), progress.stage("sweep", total=10) as bar:
        bar.advance(3)
        raise ValueError
    progress.say("error: no rows")
    *_, last_bar, line = stream.getvalue().splitlines()
    assert "3/10 rows" in last_bar and "100%" not in stream.getvalue() and line == "error: no rows"


def test_a_notebook_gets_bars_although_its_stream_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    progress = Progress()
    with progress.stage("sweep", total=2) as bar:
        bar.advance(2)
        progress.say("here")
    error = capsys.readouterr().err
    assert "sweep: 100%|" in error and "2/2 rows" in error and "here\n" in error


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(stream=stream).stage("sweep", total=1) as bar:
        bar.advance(1)
    assert stream.getvalue() == "sweep: 1 rows in 0.0 s\n"


def test_the_stream_is_the_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("here")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "here\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (0.4, "0.4 s"), (12, "0:12"), (103.4, "1:43"), (3723, "1:02:03"), (183_845, "2 d 03:04:05")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


PLAN = (
    PlannedStage("fit: factors", units=10, work=1_000, tokens=1_000, partitions=1),
    PlannedStage("sweep", units=100, work=9_000, tokens=9_000),
)


def test_plain_lines_show_tokens_and_all_stages_from_the_first_batch_on() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream=stream, clock=clock)
    progress.expect(lambda: PLAN)
    with progress.stage("fit: factors", total=10) as bar:
        clock.now += 2
        bar.advance(5, tokens=500)
        clock.now += 8
        bar.advance(5, tokens=500)
    with progress.stage("sweep", total=100, done=10) as bar:
        bar.skip(20, tokens=1_800)
        clock.now += 7
        bar.advance(35, tokens=3_150, note="batch halved to 4096 tokens")
    first, second, _, third, _ = stream.getvalue().splitlines()
    # 500 of 10,000 tokens in 2 s: 2 s more for this stage, and 38 s for all that is left.
    assert first == "fit: factors: 5/10 rows (50 %), 250 tokens/s, 0:02 left; all stages: 5 %, 0:38 left"
    assert second == "fit: factors: 10/10 rows (100 %), 100 tokens/s, 0.0 s left; all stages: 10 %, 1:30 left"
    # 65 of 100 rows, of which this start did 35 in 7 s.
    assert third == (
        "sweep: 65/100 rows (65 %), 450 tokens/s, 0:07 left; all stages: 68 %, 0:07 left, batch halved to 4096 tokens"
    )


def test_rows_of_other_lengths_than_planned_end_at_the_whole_share() -> None:
    """Rows twice as long as the sample's: the time left is corrected row by row."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream=stream, clock=clock)
    progress.expect(lambda: PLAN[1:])
    with progress.stage("sweep", total=100) as bar:
        clock.now += 18
        bar.advance(50, tokens=9_000)
        clock.now += 18
        bar.advance(50, tokens=9_000)
    first, second, _ = stream.getvalue().splitlines()
    # 50 rows are left, 4,500 tokens as planned, at 500 tokens/s.
    assert first == "sweep: 50/100 rows (50 %), 500 tokens/s, 0:09 left; all stages: 66 %, 0:09 left"
    assert second == "sweep: 100/100 rows (100 %), 500 tokens/s, 0.0 s left; all stages: 100 %, 0.0 s left"


def test_partitions_of_the_layers_divide_the_planned_work() -> None:
    clock = Clock()
    forecast = Forecast((PLAN[0], replace(PLAN[0], name="fit: eigenvalues"), PLAN[1]), clock)
    shares = []
    for number in (1, 2):
        for name in ("factors", "eigenvalues"):
            stage = forecast.begin(f"fit: {name}, partition {number} of 2")
            assert stage is not None and (stage.work, stage.tokens) == (500, 1_000)
            forecast.end()
            shares.append(forecast.share)
    assert shares == pytest.approx([500 / 11_000, 1_000 / 11_000, 1_500 / 11_000, 2_000 / 11_000])
    assert forecast.begin("sweep") == PLAN[1] and forecast.begin("merge") is None


def test_bars_show_tokens_and_all_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal; a notebook gets the same text."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), Clock()
    progress = Progress(stream=stream, clock=clock)
    progress.expect(lambda: PLAN[1:])
    with progress.stage("sweep", total=100) as bar:
        bar.skip(10, tokens=900)
        clock.now += 9
        bar.advance(30, tokens=2_700)
    last = stream.getvalue().rstrip("\n").rpartition("\r")[2]
    assert "40/100 rows" in last and last.endswith("300 tokens/s, all stages: 40 %, 0:18 left]")


def test_a_notebook_shows_all_stages_from_the_first_batch_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    clock = Clock()
    progress = Progress(clock=clock)
    progress.expect(lambda: PLAN)
    with progress.stage("fit: factors", total=10) as bar:
        clock.now += 2
        bar.advance(1, tokens=100)
    text = capsys.readouterr().err
    assert "1/10 rows" in text and "50 tokens/s, all stages: 1 %, 3:18 left]" in text


def test_a_quiet_run_makes_no_plan() -> None:
    progress = Progress(quiet=True)
    progress.expect(lambda: pytest.fail("asked for a plan"))
    with progress.stage("sweep", total=1) as bar:
        bar.skip(1)


def test_a_run_tells_tokens_and_all_stages_of_each_model_pass(project, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("gdig.progress._FIRST_LINE_S", 0.0)
    gdig.select(**project.options(tmp_path / "run", quiet=False))
    every = capsys.readouterr().err.splitlines()
    first_lines = {line.partition(": ")[0]: line for line in reversed(every)}
    lines = [line for line in first_lines.values() if "all stages: " in line]
    shares = [int(line.partition("all stages: ")[2].partition(" %")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0
    text = "\n".join(lines)
    for name in ("fit", "sweep", "cluster"):
        assert f"\n{name}: " in f"\n{text}"
    assert text.count(" tokens/s, ") >= 2
    assert " tokens/s, " in first_lines["fit"] and "all stages: " in first_lines["fit"]
    for name in ("fit: eigenvectors", "fit: seeds", "sweep: scale", "sweep: seeds"):
        assert any(line.startswith(f"{name}: ") and "all stages: " in line for line in every), name
    assert all(" tokens/s, " in line for line in every if line.startswith(("fit: seeds: ", "sweep: s")) and "/" in line)
