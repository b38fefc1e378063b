"""Finished steps of a long bench, kept as files, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gdig.store.atomic import replacing


class Steps:
    """A folder of results by name; a result is computed again when what it was asked with has changed.

    Args:
        folder: where they lie.
        inputs: what all of them depend on (data, code), any JSON.
    """

    def __init__(self, folder: Path, inputs: Any) -> None:
        self.folder = folder
        self._inputs = inputs
        folder.mkdir(parents=True, exist_ok=True)

    def facts(self, name: str, asked: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, any JSON."""
        return self._step(name, asked, ".json", lambda file: file.write_text(json.dumps(compute())), _read_json)

    def arrays(self, name: str, asked: Any, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What `compute` returns, arrays by name."""

        def write(file: Path) -> None:
            with file.open("wb") as out:
                np.savez(out, **compute())  # type: ignore[arg-type]

        return self._step(name, asked, ".npz", write, lambda file: dict(np.load(file)))

    def path(self, name: str, asked: Any, make: Callable[[Path], Any]) -> Path:
        """A file or folder that `make` writes at the path it is given."""
        path = self.folder / f"{name} {self._key(asked)}"
        if not path.exists():
            start = time.monotonic()
            partial = path.with_name(f"{path.name}.part")
            make(partial)
            self._took(name, start)
            partial.rename(path)
        return path

    def _step(
        self, name: str, asked: Any, ending: str, write: Callable[[Path], Any], read: Callable[[Path], Any]
    ) -> Any:
        file = self.folder / f"{name} {self._key(asked)}{ending}"
        if not file.exists():
            start = time.monotonic()
            print(f"{name} ...", flush=True)
            with replacing(file) as temporary:
                write(temporary)
            self._took(name, start)
        return read(file)

    def _took(self, name: str, start: float) -> None:
        """Keep the seconds of a step: a later start has them too."""
        seconds = time.monotonic() - start
        print(f"{name}: {seconds:.0f} s", flush=True)
        with (self.folder / "seconds.jsonl").open("a") as out:
            out.write(json.dumps([name, round(seconds, 1)]) + "\n")

    def all_seconds(self) -> dict[str, float]:
        """Seconds that each step took when it was last computed."""
        file = self.folder / "seconds.jsonl"
        return dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}

    def _key(self, asked: Any) -> str:
        text = json.dumps([self._inputs, asked], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text())
