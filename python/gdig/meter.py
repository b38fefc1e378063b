"""How far a stage is: its units and tokens, its speed, and the time left."""

from __future__ import annotations

from collections.abc import Callable

from gdig.forecast import Forecast, PlannedStage


class Meter:
    """Counts the units and tokens of a stage, and measures its speed.

    Args:
        clock: seconds.
        forecast: of all stages.
        planned: the plan of this stage, where there is one.
        total: units in all; None if that is not known.
        unit: plural of what is counted.
        done: units that an earlier start finished.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        forecast: Forecast,
        planned: PlannedStage | None,
        total: int | None,
        unit: str,
        done: int,
    ) -> None:
        self._clock, self._forecast, self._planned = clock, forecast, planned
        self.total, self.unit = total, unit
        self.done = self.skipped = done
        self.tokens = 0
        self._tokens_skipped = done * self._mean
        self._start = clock()
        self._tell()

    @property
    def _mean(self) -> float:
        """Expected tokens a unit."""
        return self._planned.tokens / self._planned.units if self._planned and self._planned.units else 0.0

    def advance(self, k: int, tokens: int) -> None:
        """Count units and tokens of this start."""
        self.done += k
        self.tokens += tokens
        self._tell()

    def skip(self, k: int, tokens: int) -> None:
        """Count units and tokens of an earlier start."""
        self.done += k
        self.skipped += k
        self._tokens_skipped += tokens
        self._tell()

    def finish(self) -> None:
        """Count the stage as done, because its block has ended well."""
        if self._planned:
            self._forecast.end()

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._start

    def left_s(self) -> float | None:
        """Seconds left of this stage; None while that is not known."""
        share, before = self._shares()
        return self.seconds * (1 - share) / (share - before) if share > before else None

    def rate(self) -> str:
        """The speed: tokens a second where tokens are counted, or else units a second."""
        amount, unit = (self.tokens, "tokens") if self.tokens else (self.done - self.skipped, self.unit)
        return f"{_number(amount / self.seconds)} {unit}/s" if self.seconds > 0 else ""

    def whole_run(self, short: bool = False) -> str:
        """How far all stages are, and the time left of them; nothing without a plan. `short`: in fewer columns."""
        seconds_left = self._forecast.left_s if self._planned else None
        if seconds_left is None:
            return ""
        percent = int(100 * self._forecast.share + 1e-9)  # a sum of floats may end at 0.9999999999999999
        if short:
            return f"all {percent}%, {duration(seconds_left, short=True)} left"
        return f"all stages: {percent} %, {duration(seconds_left)} left"

    def _tell(self) -> None:
        if self._planned:
            self._forecast.update(*self._shares())

    def _shares(self) -> tuple[float, float]:
        """The share of the stage that is done, and the share that earlier starts did."""
        if not self.total:
            return 0.0, 0.0
        if not self._mean:
            return self.done / self.total, self.skipped / self.total
        # Rows that are left have the expected length; those that are done have their own.
        passed = self._tokens_skipped + self.tokens
        expected = passed + max(0, self.total - self.done) * self._mean
        return (passed / expected, self._tokens_skipped / expected) if expected else (0.0, 0.0)


def duration(seconds: float, short: bool = False) -> str:
    """Write a span of time as people do: "0.4 s", "0:12", "1:02:03", "2 d 03:04:05"; `short`: "2 d 3 h"."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86_400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days and short:
        return f"{days} d {hours} h"
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
