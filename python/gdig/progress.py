"""What a run shows on stderr while it works: bars, plain lines, or nothing.

Bars (by tqdm) stand in a terminal and in a notebook. A log file gets plain lines. Results go to stdout, not through
this module.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from gdig.control_characters import visible
from gdig.forecast import Forecast, PlannedStage
from gdig.meter import Meter, duration

if TYPE_CHECKING:
    from gdig.terminal_bar import TerminalBar

_FIRST_LINE_S = 1.0
"""A stage that ends within this time prints no line before its last one."""
_LINE_INTERVAL_S = 5.0
_DRAW_S = 0.1
"""A bar is drawn again after this time."""
_FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
)
_FORMAT_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit} [{elapsed}, {rate_noinv_fmt}{postfix}]"


class Bar(Protocol):
    """Progress of one stage."""

    def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
        """Count `k` more units as done, and show `note` (such as "batch halved to 4096 tokens") beside the count.

        `tokens` is the number of tokens that went through the model for these units.
        """

    def skip(self, k: int, *, tokens: int = 0) -> None:
        """Count `k` more units that an earlier start finished. They count as done, but not for the rate."""


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
        self._plan: Callable[[], Sequence[PlannedStage]] = tuple
        self._forecast: Forecast | None = None
        self._in_notebook = not quiet and stream is None and "ipykernel.zmqshell" in sys.modules
        self._in_terminal = not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Print a line, with the control characters of others escaped. If bars are shown, it stands above the bars."""
        if self._quiet:
            return
        text = visible(text)
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

    def expect(self, plan: Callable[[], Sequence[PlannedStage]]) -> None:
        """Set what all stages of the run are expected to do, so that bars show how far the whole run is.

        Args:
            plan: returns all stages in order, with what earlier starts have done of them. It is called when the first
                bar is shown, and not at all by a quiet run.
        """
        self._plan, self._forecast = plan, None

    def _begin(self, name: str) -> tuple[Forecast, PlannedStage | None]:
        if self._forecast is None:
            self._forecast = Forecast(self._plan(), self._clock)
        return self._forecast, self._forecast.begin(name)

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
            return
        meter = Meter(self._clock, *self._begin(name), total, unit, done)
        if self._in_notebook or self._in_terminal:
            make_bar = _NotebookBar if self._in_notebook else _terminal_bar
            bar = make_bar(self._stream, name, meter)
            self._open_bars += 1
            try:
                yield bar
            finally:
                self._open_bars -= 1
                bar.close()
        else:
            lines = _LineBar(self.say, self._clock, name, meter)
            yield lines
            lines.finish()
        meter.finish()


class WarningsOnly(Progress):
    """What a process other than the first one prints: its warnings, after the name of the process."""

    def __init__(self, name: str, quiet: bool, first: Callable[[str], bool]) -> None:
        super().__init__(quiet=True, first=first)
        self._name, self._prints_nothing = name, quiet

    def _print_warning(self, line: str) -> None:
        if not self._prints_nothing:
            print(f"{self._name}: {visible(line)}", file=self._stream, flush=True)


class _SilentBar:
    def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
        pass

    def skip(self, k: int, *, tokens: int = 0) -> None:
        pass


class _NotebookBar:
    """A bar of tqdm in a notebook. It stays there when the stage ends."""

    def __init__(self, stream: TextIO, name: str, meter: Meter) -> None:
        # Not before a bar is shown: `gdig --help` has to start fast.
        from tqdm.auto import tqdm

        self._meter = meter
        self._bar: Any = tqdm(
            desc=name,
            total=meter.total,
            initial=meter.done,
            unit=f" {meter.unit}",
            file=stream,
            bar_format=_FORMAT_WITHOUT_TOTAL if meter.total is None else _FORMAT,
            dynamic_ncols=True,
            mininterval=_DRAW_S,
            miniters=1,  # batches differ in length, so the time alone decides when to draw
        )

    def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
        self._meter.advance(k, tokens)
        rate = self._meter.rate() if self._meter.tokens else ""
        texts = [text for text in (rate, self._meter.whole_run(), note) if text]
        self._bar.set_postfix_str(", ".join(texts), refresh=False)
        self._bar.update(k)

    def skip(self, k: int, *, tokens: int = 0) -> None:
        self._meter.skip(k, tokens)
        self._bar.initial += k
        self._bar.update(k)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def _terminal_bar(stream: TextIO, name: str, meter: Meter) -> TerminalBar:
    # Not before a bar is shown, as above.
    from gdig.terminal_bar import TerminalBar

    # A terminal of width 0 (a pseudo-terminal that nobody gave a size) would get empty lines.
    size = None if _has_width(stream) else shutil.get_terminal_size()
    return TerminalBar(stream, size, name, meter, _DRAW_S)


def _has_width(stream: TextIO) -> bool:
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


class _LineBar:
    """Prints a line for the first batch, at most one line every few seconds after it, and one line at the end."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float], name: str, meter: Meter) -> None:
        self._say, self._clock, self._name, self._meter = say, clock, name, meter
        self._next_line = clock() + _FIRST_LINE_S

    def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
        meter = self._meter
        meter.advance(k, tokens)
        if self._clock() < self._next_line or meter.done == meter.skipped:
            return
        self._next_line = self._clock() + _LINE_INTERVAL_S
        text = f"{self._name}: {meter.done}"
        if meter.total:
            text += f"/{meter.total} {meter.unit} ({100 * meter.done // meter.total} %)"
        else:
            text += f" {meter.unit}"
        text += f", {meter.rate()}"
        seconds_left = meter.left_s()
        if seconds_left is not None:
            text += f", {duration(seconds_left)} left"
        whole = meter.whole_run()
        self._say(text + (f"; {whole}" if whole else "") + (f", {note}" if note else ""))

    def skip(self, k: int, *, tokens: int = 0) -> None:
        self._meter.skip(k, tokens)

    def finish(self) -> None:
        meter, seconds = self._meter, self._meter.seconds
        text = f"{self._name}: {meter.done} {meter.unit} in {duration(seconds)}"
        if meter.done > meter.skipped and seconds >= 1:
            text += f" ({meter.rate()})"
        self._say(text)
