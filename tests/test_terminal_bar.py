"""The line of a stage in a terminal: what matters most is there at any width, and no line is too wide."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TextIO

import pytest

import gdig
from gdig.forecast import PlannedStage
from gdig.progress import Progress
from gdig.terminal_bar import BarTexts, fit_line
from tests.test_progress import Clock

WIDTHS = (60, 72, 80, 100, 120, 200)
USUAL = BarTexts(
    title="fit: factors",
    share=" 27%",
    counts="8/30 rows",
    times="00:01<00:03",
    units_speed=" 6.37 rows/s",
    tokens_speed="863 tokens/s",
    whole="all stages: 5 %, 0:25 left",
    whole_short="all 5%, 0:25 left",
)
LONG = BarTexts(
    title="fit: eigenvalues, partition 12 of 30",
    share="100%",
    counts="123456/123456 rows",
    times="22:00:01<22:00:03",
    units_speed=" 6.37 rows/s",
    tokens_speed="123456 tokens/s",
    whole="all stages: 100 %, 12 d 23:20:25 left",
    whole_short="all 100%, 12 d 23 h left",
    note="batch halved to 4096 tokens",
)


def drawn(columns: int) -> str:
    return "#" * columns


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("texts", [USUAL, LONG], ids=["usual", "long"])
def test_what_matters_most_is_there_at_any_width(texts: BarTexts, width: int) -> None:
    line = fit_line(texts, width, drawn)
    assert len(line) <= width
    assert texts.share in line and texts.tokens_speed in line
    assert texts.whole in line or texts.whole_short in line
    assert line[:2] in (texts.title[:2], "ei")
    if texts is LONG:
        assert "12/30: " in line or texts.title in line
    assert (texts.title in line) == (texts is USUAL or width >= 100)


def test_lines_by_width() -> None:
    """The drawing goes first, then units a second with the times of the stage, then the counts."""
    lines = {width: fit_line(USUAL, width, drawn) for width in WIDTHS}
    assert lines[60] == "fit: factors:  27%|######| [863 tokens/s, all 5%, 0:25 left]"
    assert lines[72] == "fit: factors:  27% 8/30 rows [863 tokens/s, all stages: 5 %, 0:25 left]"
    assert lines[80] == "fit: factors:  27%|#######| 8/30 rows [863 tokens/s, all stages: 5 %, 0:25 left]"
    assert lines[100] == (
        "fit: factors:  27% 8/30 rows [00:01<00:03,  6.37 rows/s, 863 tokens/s, all stages: 5 %, 0:25 left]"
    )
    assert lines[200].count("#") == 200 - len(lines[100]) - 2
    assert fit_line(LONG, 60, drawn) == "ei.. 12/30: 100% [123456 tokens/s, all 100%, 12 d 23 h left]"


def test_a_line_grows_with_its_width() -> None:
    """No text comes and goes again as a window gets wider."""
    for texts in (USUAL, LONG, replace(USUAL, share="", counts="8 rows"), replace(USUAL, tokens_speed="", whole="")):
        lines = [fit_line(texts, width, drawn) for width in range(60, 201)]
        assert all(len(line) <= width for width, line in zip(range(60, 201), lines, strict=True))
        for text in (texts.title, texts.whole, texts.note):
            there = [text in line for line in lines]
            assert there == sorted(there), text
        assert all(text in lines[-1] for text in vars(texts).values() if text != texts.whole_short)


def test_a_line_without_a_total_has_its_count() -> None:
    texts = BarTexts("reading", "", "7 files", "00:01", "5 files/s")
    assert fit_line(texts, 60, drawn) == "reading: 7 files [00:01, 5 files/s]"
    assert fit_line(replace(texts, title="r" * 100), 30, drawn) == "r" * 19 + "..: 7 files"


def screen_of(text: str, width: int, rows: dict[int, str] | None = None) -> dict[int, str]:
    """What a terminal of a width shows, by line, after a text that moves as bars do."""
    screen, row, column = dict(rows or {}), max(rows or {0: ""}), 0
    for piece in re.findall(r"\x1b\[[0-9]*[A-Za-z]|[\r\n]|[^\r\n\x1b]", text):
        line = screen.get(row, "")
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
        elif piece == "\x1b[A":
            row -= 1
        elif piece == "\x1b[K":
            screen[row] = line[:column]
        elif column == width:
            row, column = row + 1, 1
            screen[row] = piece
        else:
            screen[row] = line[:column].ljust(column) + piece + line[column + 1 :]
            column += 1
    return screen


def resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@contextmanager
def terminal_of(columns: int) -> Iterator[tuple[int, TextIO, Callable[[], str]]]:
    """A pseudo-terminal: its leader, its stream, and what was written to it since the last call."""
    leader, follower = pty.openpty()
    resize(leader, columns)
    texts: list[bytes] = []

    def read() -> None:
        while True:
            try:
                texts.append(os.read(leader, 1 << 16))
            except OSError:  # no process has the follower open any more
                return

    def written() -> str:
        mark = f"\x1b]{len(texts)}\x07"
        stream.write(mark)
        stream.flush()
        while not (text := b"".join(texts).decode(errors="ignore")).endswith(mark):
            pass
        texts.clear()
        return text.removesuffix(mark)

    reader = threading.Thread(target=read, daemon=True)
    with os.fdopen(follower, "w") as stream:
        reader.start()
        yield leader, stream, written
    reader.join()
    os.close(leader)


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("gdig.progress._DRAW_S", 0.0)


PLAN = (
    PlannedStage("fit: factors, partition 1 of 2", units=30, work=4_000, tokens=4_000),
    PlannedStage("sweep", units=100, work=76_000, tokens=76_000),
)


@pytest.mark.usefixtures("every_batch")
def test_a_window_that_is_resized_in_between_keeps_one_line() -> None:
    """The emulated screen cuts no line: a line that wraps would stand in two rows."""
    clock = Clock()
    with terminal_of(100) as (leader, stream, written):
        progress = Progress(stream=stream, clock=clock)
        progress.expect(lambda: PLAN)
        with progress.stage("fit: factors, partition 1 of 2", total=30) as bar:
            screen: dict[int, str] = {}
            for columns in (100, 80, 60, 72, 60, 120):
                resize(leader, columns)
                clock.now += 2
                bar.advance(2, tokens=250)
                # A terminal that is made narrower cuts its lines, as xterm does.
                screen = screen_of(written(), columns, {row: line[:columns] for row, line in screen.items()})
                assert list(screen) == [0] and len(screen[0]) < columns
                assert "125 tokens/s" in screen[0] and "left]" in screen[0] and "%" in screen[0], screen[0]


@pytest.mark.usefixtures("every_batch")
def test_bars_inside_one_another_and_lines_above_them_in_80_columns() -> None:
    with terminal_of(80) as (_, stream, written):
        progress = Progress(stream=stream)
        with progress.stage("outer", total=2, unit="steps") as outer, progress.stage("inner", total=5) as inner:
            inner.advance(5)
            progress.say("a line")
            outer.advance(2)
        lines = list(screen_of(written(), 80).values())
    assert lines[0] == "a line" and lines[1].startswith("inner: 100%|") and lines[2].startswith("outer: 100%|")


@pytest.mark.usefixtures("every_batch")
def test_a_run_in_a_terminal_of_80_columns(project: Any, tmp_path: Any) -> None:
    with terminal_of(80) as (_, stream, written):
        gdig.select(progress=Progress(stream=stream), **project.options(tmp_path / "run", quiet=False))
        text = written()
    drawn_lines = [line for line in re.split(r"[\r\n]+", text) if line.startswith("\x1b[K") and len(line) > 3]
    lines = [line.removeprefix("\x1b[K") for line in drawn_lines]
    assert all(len(line) < 80 for line in lines)
    planned = [line for line in lines if "tokens/s" in line]
    assert len(planned) >= 8
    assert all(re.search(r"^[a-z:, 0-9]+: +\d+%.*\d tokens/s, all (stages: )?\d+ ?%, .* left", x) for x in planned)
    assert not [line for line in screen_of(text, 80).values() if "\r" in line]


def test_a_stream_that_tells_no_width_has_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    with Progress(stream=stream).stage("a title of more than sixty columns " * 2, total=2) as bar:
        bar.advance(2)
    assert all(len(line.replace("\x1b[K", "")) < 60 for line in re.split("[\r\n]", stream.getvalue()))
