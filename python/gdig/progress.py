"""What a run tells the person who waits for it, on stderr: bars on a terminal, plain lines elsewhere, or nothing.

Results never pass through here; they go to stdout.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_PLAIN_INTERVAL_S = 5.0


class Bar(Protocol):
    """Progress of one stage."""

    def advance(self, k: int, note: str = "") -> None:
        """Count `k` more units as done; `note` (such as "batch halved to 4096 tokens") stands beside the bar."""


class Progress:
    """Progress of a run.

    Args:
        quiet: print nothing at all.
        stream: where to print; stderr as it is when the object is made, if None.
        clock: seconds from any origin, never going back; a test can set it.
        first: of several processes: whether this one is the first to give a warning, which then is given here.
    """

    def __init__(
        self,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        first: Callable[[str], bool] = lambda text: True,
    ) -> None:
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._warned: set[str] = set()
        self._first = first
        self._rich: RichProgress | None = None
        self._terminal = not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print a line (above the bars, if some are shown)."""
        if self._quiet:
            return
        if self._rich is not None:
            # Plain text: a bracket in a file name is no markup, and a path is not cut at the terminal's width.
            self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning, each text once."""
        if text not in self._warned:
            self._warned.add(text)
            if self._first(text):
                self._warn(f"warning: {text}")

    def _warn(self, line: str) -> None:
        self.say(line)

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
        """Show the progress of a stage until the block ends.

        Args:
            name: what is being done, such as "sweep".
            total: units in all; None if that is not known.
            unit: plural of what is counted.
            done: units that an earlier start left finished. They count as done, but not for the rate.
        """
        if self._quiet:
            yield _Silent()
        elif self._terminal:
            with self._on_terminal() as rich_progress:
                bar = _RichBar(rich_progress, name, total, unit, done)
                yield bar
                bar.finish()
        else:
            plain = _PlainBar(self.say, self._clock, name, total, unit, done)
            yield plain
            plain.finish()

    @contextmanager
    def _on_terminal(self) -> Iterator[RichProgress]:
        if self._rich is not None:  # a stage inside another: one more bar in the same display
            yield self._rich
            return
        self._rich = _rich_display(self._stream)
        try:
            with self._rich:
                yield self._rich
        finally:
            self._rich = None


class WarningsOnly(Progress):
    """What a process beside the first one tells: its warnings, with its name before them."""

    def __init__(self, name: str, quiet: bool, first: Callable[[str], bool]) -> None:
        super().__init__(quiet=True, first=first)
        self._name, self._mute = name, quiet

    def _warn(self, line: str) -> None:
        if not self._mute:
            print(f"{self._name}: {line}", file=self._stream, flush=True)


class _Silent:
    def advance(self, k: int, note: str = "") -> None:
        pass


class _PlainBar:
    """At most a line every few seconds, and one at the end."""

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float], name: str, total: int | None, unit: str, done: int
    ) -> None:
        self._say, self._clock, self._name, self._total, self._unit = say, clock, name, total, unit
        self._before = self._done = done
        self._start = self._last = clock()

    def advance(self, k: int, note: str = "") -> None:
        self._done += k
        now = self._clock()
        if now - self._last < _PLAIN_INTERVAL_S:
            return
        self._last = now
        rate = (self._done - self._before) / (now - self._start)
        text = f"{self._name}: {self._done}"
        if self._total:
            text += f"/{self._total} {self._unit} ({100 * self._done // self._total} %)"
        else:
            text += f" {self._unit}"
        text += f", {_number(rate)} {self._unit}/s"
        if self._total and rate > 0:
            text += f", {duration(max(0, self._total - self._done) / rate)} left"
        self._say(text + (f", {note}" if note else ""))

    def finish(self) -> None:
        seconds = self._clock() - self._start
        text = f"{self._name}: {self._done} {self._unit} in {duration(seconds)}"
        worked = self._done - self._before
        if worked and seconds >= 1:
            text += f" ({_number(worked / seconds)} {self._unit}/s)"
        self._say(text)


class _RichBar:
    """One task of a rich display; it stays on the screen when it is done."""

    def __init__(self, rich_progress: RichProgress, name: str, total: int | None, unit: str, done: int) -> None:
        self._display = rich_progress
        self._task: TaskID = rich_progress.add_task(name, total=total, completed=done, unit=unit, note="")

    def advance(self, k: int, note: str = "") -> None:
        self._display.update(self._task, advance=k, note=note)

    def finish(self) -> None:
        task = next(t for t in self._display.tasks if t.id == self._task)
        if task.total is None:
            self._display.update(self._task, total=task.completed)
        self._display.refresh()


def _rich_display(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Counted(ProgressColumn):
        def render(self, task: Task) -> Text:
            done, unit = f"{task.completed:.0f}", task.fields["unit"]
            return Text(f"{done}/{task.total:.0f} {unit}" if task.total is not None else f"{done} {unit}")

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{_number(speed)} {task.fields['unit']}/s" if speed else "", style="cyan")

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            left = task.time_remaining
            return Text(f"{duration(left)} left" if left else "", style="green")

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        Counted(),
        Rate(),
        TimeElapsedColumn(),
        Left(),
        TextColumn("{task.fields[note]}", markup=False, style="yellow"),
        console=Console(file=stream),
        expand=True,
    )


def duration(seconds: float) -> str:
    """Write a span of time as people do: "0.4 s", "0:12", "1:02:03", "2 d 03:04:05"."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86_400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
