"""One start of a run, or of its plan, in a process of its own: processor seconds by stage, as one line of JSON.

    python -m benches.plan_parts.run run|plan OPTIONS.json

The seconds are those of the processor, so that other work on the machine does not count. With one thread they are what
a user waits for on a machine of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gdig
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

    def _add(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def main() -> None:
    """Do what the arguments say."""
    kind, path = sys.argv[1:]
    options = json.loads(Path(path).read_text(encoding="utf-8"))
    if kind == "plan":
        begun = time.process_time()
        plan = make_plan(Workspace(gdig.Config.build(options), Progress(quiet=True)), clock=time.process_time)
        print(plan, file=sys.stderr)
        print(json.dumps({"plan": plan.as_json(), "seconds": time.process_time() - begun}))
        return
    progress = StageClock()
    gdig.select(gdig.Config.build(options), progress=progress)
    print(json.dumps({"stages": progress.seconds, "after": time.process_time() - progress._last}))


if __name__ == "__main__":
    main()
