"""Progress: plain lines, bars on a terminal, silence."""

from __future__ import annotations

import io
import sys
from types import ModuleType

import pytest

from gdig.progress import Progress, duration


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
