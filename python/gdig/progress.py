"""What a run shows on stderr while it works: bars, plain lines, or nothing.

Bars (by tqdm) stand in a terminal and in a notebook. A log file gets plain lines. Results go to stdout, not through
this module.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

_LINE_INTERVAL_S = 5.0
_FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
)
_FORMAT_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit} [{elapsed}, {rate_noinv_fmt}{postfix}]"


class Bar(Protocol):
    """Progress of one stage."""

    def advance(self, k: int, note: str = "") -> None:
        """Count `k` more units as done, and show `note` (such as "batch halved to 4096 tokens") beside the count."""


class Progress:
    """Progress of a run.

    Args:
        quiet: print nothing at all.
        stream: where to print. Default: stderr as it is when the object is made.
        clock: seconds from any origin, never going back. A test can set the clock.
        first: of several processes, whether this process is the first to give a warning. The first process prints it.
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
        self._open_bars = 0
        self._in_notebook = not quiet and stream is None and "ipykernel.zmqshell" in sys.modules
        self._in_terminal = not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print a line. If bars are shown, the line stands above the bars."""
        if self._quiet:
            return
        if self._open_bars:
            from tqdm import tqdm

            tqdm.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning, each text once."""
        if text not in self._warned:
            self._warned.add(text)
            if self._first(text):
                self._print_warning(f"warning: {text}")

    def _print_warning(self, line: str) -> None:
        self.say(line)

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
        """Show the progress of a stage until the block ends. A stage inside another gets a bar of its own.

        Args:
            name: what is being done, such as "sweep".
            total: units in all; None if that is not known.
            unit: plural of what is counted.
            done: units that an earlier start finished. They count as done, but not for the rate.
        """
        if self._quiet:
            yield _SilentBar()
        elif self._in_notebook or self._in_terminal:
            bar = _TqdmBar(self._in_notebook, self._stream, name, total, unit, done)
            self._open_bars += 1
            try:
                yield bar
            finally:
                self._open_bars -= 1
                bar.close()
        else:
            lines = _LineBar(self.say, self._clock, name, total, unit, done)
            yield lines
            lines.finish()


class WarningsOnly(Progress):
    """What a process other than the first one prints: its warnings, after the name of the process."""

    def __init__(self, name: str, quiet: bool, first: Callable[[str], bool]) -> None:
        super().__init__(quiet=True, first=first)
        self._name, self._prints_nothing = name, quiet

    def _print_warning(self, line: str) -> None:
        if not self._prints_nothing:
            print(f"{self._name}: {line}", file=self._stream, flush=True)


class _SilentBar:
    def advance(self, k: int, note: str = "") -> None:
        pass


class _TqdmBar:
    """A bar of tqdm. It stays on the screen when the stage ends."""

    def __init__(self, in_notebook: bool, stream: TextIO, name: str, total: int | None, unit: str, done: int) -> None:
        # Not before a bar is shown: `gdig --help` has to start fast.
        if in_notebook:
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
        is_sized = in_notebook or _has_width(stream)
        self._bar: Any = tqdm(
            desc=name,
            total=total,
            initial=done,
            unit=f" {unit}",
            file=stream,
            bar_format=_FORMAT_WITHOUT_TOTAL if total is None else _FORMAT,
            # A terminal of width 0 (a pseudo-terminal that nobody gave a size) would get empty bars.
            dynamic_ncols=is_sized,
            ncols=None if is_sized else shutil.get_terminal_size().columns,
            nrows=None if is_sized else shutil.get_terminal_size().lines,
            miniters=1,  # batches differ in length, so the time alone decides when to draw
        )

    def advance(self, k: int, note: str = "") -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(k)

    def close(self) -> None:
        self._bar.close()


def _has_width(stream: TextIO) -> bool:
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


class _LineBar:
    """Prints at most one line every few seconds, and one line at the end."""

    def __init__(
        self, say: Callable[[str], None], clock: Callable[[], float], name: str, total: int | None, unit: str, done: int
    ) -> None:
        self._say, self._clock, self._name, self._total, self._unit = say, clock, name, total, unit
        self._initial = self._done = done
        self._start = self._last_line = clock()

    def advance(self, k: int, note: str = "") -> None:
        self._done += k
        now = self._clock()
        if now - self._last_line < _LINE_INTERVAL_S:
            return
        self._last_line = now
        rate = (self._done - self._initial) / (now - self._start)
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
        units = self._done - self._initial
        if units and seconds >= 1:
            text += f" ({_number(units / seconds)} {self._unit}/s)"
        self._say(text)


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
