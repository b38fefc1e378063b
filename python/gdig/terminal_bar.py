"""The bar of a stage in a terminal: one line that fits the terminal's width, with what matters most at any width."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.std import Bar as Drawing
from tqdm.utils import disp_len, disp_trim

from gdig.meter import Meter

_LEAST_DRAWING = 4
"""Columns of a drawing that is worth its place."""
_LEAST_TITLE = 8
"""Columns that the title keeps when the line is cut."""


@dataclass(frozen=True)
class BarTexts:
    """What a line may say, each text in full. A text is empty where there is nothing to say.

    Attributes:
        title: of the stage.
        share: of the stage, such as " 27%"; empty without a total.
        counts: "8/30 rows".
        times: since the stage began, and its time left: "00:01<00:03".
        units_speed: "6.37 rows/s".
        tokens_speed: "863 tokens/s".
        whole: "all stages: 5 %, 0:25 left".
        whole_short: the same in fewer columns.
        note: of the last batch.
    """

    title: str
    share: str
    counts: str
    times: str
    units_speed: str
    tokens_speed: str = ""
    whole: str = ""
    whole_short: str = ""
    note: str = ""


def fit_line(texts: BarTexts, width: int, draw: Callable[[int], str]) -> str:
    """Return a line of at most `width` columns.

    The title, the share, the tokens a second and what tells of all stages are always there. The title and all stages
    are there in a short form where they must be. All else comes in the order of what it tells, as far as there is room:
    the whole title, all stages in full, the note, the counts, the stage's own times, its units a second. A drawing
    takes what is left.

    Args:
        texts: what there is to say.
        width: columns of the line.
        draw: returns a drawing of a number of columns.
    """
    shown = {
        "title": _short(texts.title),
        "share": texts.share,
        "tokens": texts.tokens_speed,
        "whole": texts.whole_short,
    }
    if not texts.share:
        shown["counts"] = texts.counts
    spare = width - disp_len(_line(shown, ""))
    if spare < 0:
        room = max(_LEAST_TITLE, disp_len(shown["title"]) + spare)
        return disp_trim(_line({**shown, "title": _cut(shown["title"], room)}, ""), width)
    for name, text in (
        ("title", texts.title),
        ("whole", texts.whole),
        ("note", texts.note),
        ("counts", texts.counts),
        ("times", texts.times),
        ("units", texts.units_speed),
    ):
        more = {**shown, name: text}
        if disp_len(_line(more, "")) <= width:
            shown = more
        elif name != "note":  # a note is of one batch, and what is less than it may be shorter
            break
    columns = width - disp_len(_line(shown, "")) - len("||")
    return _line(shown, draw(columns) if texts.share and columns >= _LEAST_DRAWING else "")


def _line(shown: dict[str, str], drawing: str) -> str:
    """Join what is shown, in the order of the line."""
    head = shown["share"] + (f"|{drawing}|" if drawing else "")
    inside = ", ".join(text for name in ("times", "units", "tokens", "whole", "note") if (text := shown.get(name)))
    parts = [f"{shown['title']}:", head, shown.get("counts", ""), f"[{inside}]" if inside else ""]
    return " ".join(part for part in parts if part)


def _short(title: str) -> str:
    """A title in fewer columns: "fit: eigenvalues, partition 12 of 30" becomes "eigenvalues 12/30"."""
    short = re.sub(r",? partition (\d+) of (\d+)", r" \1/\2", title)
    short = re.sub(r"(\d+) of (\d+)", r"\1/\2", short)
    return short.removeprefix("fit: ") if short != title else short


def _cut(title: str, width: int) -> str:
    """The title in at most `width` columns: its start and, because numbers stand there, its end."""
    if disp_len(title) <= width:
        return title
    end = match[0] if (match := re.search(r" \d+/\d+$", title)) and len(match[0]) <= width - 4 else ""
    return disp_trim(title, width - 2 - len(end)) + ".." + end


class TerminalBar:
    """A bar in a terminal. It stays on the screen when the stage ends.

    Args:
        stream: the terminal.
        size: columns and lines of a terminal that does not tell them; None to ask it whenever the line is drawn.
        name: the title of the stage.
        meter: of the stage.
        interval: least seconds between two drawings.
    """

    def __init__(self, stream: TextIO, size: tuple[int, int] | None, name: str, meter: Meter, interval: float) -> None:
        self._meter, self._note = meter, ""
        columns, lines = (None, None) if size is None else size
        self._bar: Any = _Line(
            self._draw,
            desc=name,
            total=meter.total,
            initial=meter.done,
            file=stream,
            dynamic_ncols=size is None,
            ncols=columns,
            nrows=lines,
            mininterval=interval,
            miniters=1,  # batches differ in length, so the time alone decides when to draw
        )

    def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
        """Count `k` more units, and `tokens` of them."""
        self._meter.advance(k, tokens)
        self._note = note
        self._bar.update(k)

    def skip(self, k: int, *, tokens: int = 0) -> None:
        """Count `k` more units of an earlier start."""
        self._meter.skip(k, tokens)
        self._bar.update(k)
        self._bar.refresh()

    def close(self) -> None:
        """Draw the line once more, and leave it."""
        self._bar.close()

    def _draw(self, form: dict[str, Any]) -> str:
        # Some terminals go to the next line as soon as the last column is written.
        width = max(1, (form["ncols"] or 80) - 1)
        meter = self._meter

        def draw(columns: int) -> str:
            charset = Drawing.ASCII if form["ascii"] is True else Drawing.UTF
            return format(Drawing(min(1.0, meter.done / meter.total) if meter.total else 0.0, columns, charset=charset))

        return fit_line(texts_of(form["prefix"].removesuffix(": "), meter, self._note), width, draw)


def texts_of(name: str, meter: Meter, note: str) -> BarTexts:
    """Return what the line of a stage may say."""
    done, total, seconds = meter.done, meter.total, meter.seconds
    speed = (done - meter.skipped) / seconds if seconds > 0 else 0.0
    left_s = meter.left_s()
    if left_s is None and total and speed:
        left_s = (total - done) / speed
    times = tqdm.format_interval(round(seconds))
    if total:
        times += f"<{'?' if left_s is None else tqdm.format_interval(round(left_s))}"
    return BarTexts(
        title=name,
        share=f"{100 * done / total:3.0f}%" if total else "",
        counts=f"{done}/{total} {meter.unit}" if total else f"{done} {meter.unit}",
        times=times,
        units_speed=f"{speed:5.2f} {meter.unit}/s" if speed else f"? {meter.unit}/s",
        tokens_speed=meter.rate() if meter.tokens else "",
        whole=meter.whole_run(),
        whole_short=meter.whole_run(short=True),
        note=note,
    )


class _Line(tqdm):
    """A bar of tqdm whose line is made by `draw` from what tqdm knows of the terminal."""

    def __init__(self, draw: Callable[[dict[str, Any]], str], **options: Any) -> None:
        self._draw = draw  # before the line is drawn for the first time
        super().__init__(**options)

    def __str__(self) -> str:
        return self._draw(self.format_dict)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Print a line over the one before it, which may be wider than a terminal that was made narrower.

        Spaces up to the end of the old line would wrap there, and the lines to come would stand below it.
        """

        def print_status(text: str) -> None:
            file.write(f"\r\x1b[K{text}")
            file.flush()

        return print_status
