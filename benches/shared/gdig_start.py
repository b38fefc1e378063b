"""One start of gdig in a process of its own: what it cost by stage, as one line of JSON.

    python -m benches.shared.gdig_start plan|fit|sweep|select OPTIONS.json

The seconds of the stages are those of the processor, so that other work on the machine counts little. With one thread
they are what a user waits for on a machine of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gdig
from benches.shared.processes import Measured, measure
from gdig.planning.run_plan import make_plan
from gdig.progress import Bar, Progress
from gdig.run.session import Workspace


class StageClock(Progress):
    """Shows nothing, and measures the processor seconds of each stage, and of what lies before it."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "rows", done: int = 0) -> Iterator[Bar]:
        """Measure a stage."""
        self._add(f"before {name}")
        with super().stage(name, total, unit, done) as bar:
            yield bar
        self._add(name)

    def end(self) -> dict[str, float]:
        """The seconds by stage, with those since the last one as "after"."""
        self._add("after")
        return self.seconds

    def _add(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def start_gdig(
    kind: str, options: dict[str, Any], work: Path, environment: dict[str, str]
) -> tuple[Measured, dict[str, Any]]:
    """Run this module, and return what the process cost and what it says.

    Args:
        kind: plan, fit, sweep or select.
        options: of gdig.
        work: folder for the options and the output.
        environment: variables beside those of this process.

    Returns:
        The cost; for a plan "plan" and "seconds", for a stage "stages", as `StageClock.end`.
    """
    file = work / "options.json"
    file.write_text(json.dumps(options), encoding="utf-8")
    measured = measure("benches.shared.gdig_start", [kind, str(file)], work / f"{kind}.log", environment)
    line = next(line for line in reversed(measured.text.splitlines()) if line.startswith("{"))
    return measured, json.loads(line)


def main() -> None:
    """Do what the arguments say."""
    kind, path = sys.argv[1:]
    config = gdig.Config.build(json.loads(Path(path).read_text(encoding="utf-8")))
    if kind == "plan":
        begun = time.process_time()
        plan = make_plan(Workspace(config, Progress(quiet=True)), clock=time.process_time)
        print(plan, file=sys.stderr)
        print(json.dumps({"plan": plan.as_json(), "seconds": time.process_time() - begun}))
        return
    clock = StageClock()
    {"fit": gdig.fit, "sweep": gdig.sweep, "select": gdig.select}[kind](config, progress=clock)
    print(json.dumps({"stages": clock.end()}))


if __name__ == "__main__":
    main()
