"""Put the shards of one sweep together that machines without a common disk have made, each in its copy of the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gdig.errors import ConfigError, RunError
from gdig.progress import Progress
from gdig.run.directory import read_state, write_state
from gdig.run.lock import lock
from gdig.store.atomic import replacing
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import verify_file

_FITTED = ("curvature", "seeds")


def merge_runs(paths: Sequence[Path], out: Path, progress: Progress) -> list[str]:
    """Copy into `out` the shards of the sweep that it lacks, and the fit if it is new; each file complete or absent.

    Where several runs have a shard, the first one's is taken (what `out` has is kept).

    Args:
        paths: run directories whose fit is done and whose sweep has begun.
        out: run directory to leave; it may be one of these, or be absent.
        progress: where to show it.

    Returns:
        Lines that say what is there now.

    Raises:
        ConfigError: when there is nothing to merge, or a path is no run directory.
        RunError: naming what differs between two runs: options, inputs, or a file of the fit; or when `out` is in use.
        StoreError: naming a file that is damaged.
    """
    if not paths:
        raise ConfigError("merge: name the run directories to put together")
    fresh = not (out / "run.json").exists()
    if fresh and out.exists() and any(path.name != ".lock" for path in out.iterdir()):
        raise RunError(f"run_path: {out} is not empty and holds no run.json; choose another directory")
    # What is in `out` comes first: it is kept.
    runs = [*([] if fresh else [out]), *(path for path in paths if fresh or path.resolve() != out.resolve())]
    states = [_state(path) for path in runs]
    for path, state in zip(runs[1:], states[1:], strict=True):
        _compare(runs[0], states[0], path, state)
    for path in runs:
        for file in _fit_files(path):
            if _checksum(path / file) != _checksum(runs[0] / file):
                raise RunError(
                    f"{path / file}: another fit than {runs[0] / file}: fit once, then copy the run directory"
                )
    out.mkdir(parents=True, exist_ok=True)
    held = lock(out / ".lock")
    try:
        lines = _copy(runs, states[0], out, fresh, progress)
    finally:
        os.close(held)
    return lines


def _copy(runs: list[Path], state: dict[str, Any], out: Path, fresh: bool, progress: Progress) -> list[str]:
    n_rows = state["stages"]["sweep"]["rows"]
    if fresh:
        for file in (*_fit_files(runs[0]), Path("sweep/store.json"), Path("features/seeds.safetensors")):
            _copy_file(runs[0] / file, out / file)
        stages = {name: state["stages"][name] for name in ("fit", "sweep")}
        stages["sweep"] = {**stages["sweep"], "state": "running"}
        config = {**state["config"], "run_path": str(out), "sweep_part": None}
        write_state(out / "run.json", {**state, "config": config, "stages": stages})
    lines = _copy_shards(runs, out, Path("sweep"), n_rows, progress, "merge")
    return lines + _copy_checkpoints(runs, out, n_rows, progress)


def _copy_shards(
    runs: list[Path], out: Path, place: Path, n_rows: int, progress: Progress, title: str, what: str = ""
) -> list[str]:
    """Copy the shards of the store at `place` of each run that `out` lacks there."""
    store = SketchStore.open(out / place)
    wanted, copied = store.missing(n_rows), 0
    with progress.stage(title, len(wanted), "shards") as bar:
        for path in (path for path in runs if (path / place / "store.json").is_file()):
            source = SketchStore.open(path / place)
            there = set(source.shards) - set(source.missing(n_rows))
            for shard in [shard for shard in wanted if shard in there]:
                verify_file(source.shard_path(shard))
                _copy_file(source.shard_path(shard), store.shard_path(shard))
                wanted.remove(shard)
                copied += 1
                bar.advance(1)
    whole = -(-n_rows // store.rows_per_shard)
    lines = [f"{out}: {what}{copied} shards copied, {whole - len(wanted)} of {whole} are there"]
    if wanted:
        shown = ", ".join(map(str, wanted[:10])) + (", ..." if len(wanted) > 10 else "")
        lines.append(f"missing: {shown}; gdig sweep --run-path {out} makes them")
    return lines


def _copy_checkpoints(runs: list[Path], out: Path, n_rows: int, progress: Progress) -> list[str]:
    """The same for the checkpoints that any of the runs has swept; a folder's name stands for its content."""
    known: dict[str, dict] = {}
    order: list[str] = []
    for path in (out, *runs):
        swept = read_state(path / "run.json")["stages"]["sweep"]
        known = {**swept.get("checkpoints", {}), **known}
        order = order or swept.get("checkpoint_order", [])
    lines = []
    for key, facts in known.items():
        place = Path("checkpoints") / key
        holder = next((path for path in runs if (path / place / "seeds.safetensors").is_file()), None)
        if holder is None:
            continue
        for file in ("seeds.safetensors", "shards/store.json"):
            if not (out / place / file).exists():
                (out / place / file).parent.mkdir(parents=True, exist_ok=True)
                _copy_file(holder / place / file, out / place / file)
        title = f"merge, checkpoint {facts['path']}"
        lines += _copy_shards(runs, out, place / "shards", n_rows, progress, title, f"checkpoint {facts['path']}: ")
        missing = SketchStore.open(out / place / "shards").missing(n_rows)
        known[key] = {**facts, "state": "running" if missing else "done"}
    if known:
        state = read_state(out / "run.json")
        state["stages"]["sweep"].update(checkpoints=known, checkpoint_order=order)
        write_state(out / "run.json", state)
    return lines


def _state(path: Path) -> dict[str, Any]:
    if not (path / "run.json").is_file():
        raise ConfigError(f"merge: {path} is no run directory (it holds no run.json)")
    state = read_state(path / "run.json")
    stages = state["stages"]
    if stages.get("fit", {}).get("state") != "done":
        raise RunError(f"{path}: its fit is not done; fit once, copy the run directory to each machine, then sweep")
    if "rows" not in stages.get("sweep", {}) or "scale" not in stages["sweep"]:
        raise RunError(f"{path}: its sweep has not begun")
    return state


def _compare(first: Path, then: dict[str, Any], path: Path, now: dict[str, Any]) -> None:
    """Raise RunError that names whatever a shard depends on and that differs between two runs."""
    lines = []
    for kind in {**then["inputs"], **now["inputs"]}:
        before, files = then["inputs"].get(kind, {}), now["inputs"].get(kind, {})
        differing = [name for name in {**before, **files} if before.get(name) != files.get(name)]
        lines += [f"{kind}: {name} is not the same in both" for name in differing]
        if not differing and list(before) != list(files):
            lines.append(f"{kind}: the files come in another order")
    for stage in ("fit", "sweep"):
        a, b = then["stages"][stage], now["stages"][stage]
        a, b = ({**run["config"], **{k: run[k] for k in ("dtype", "scale", "rows") if k in run}} for run in (a, b))
        lines += [f"{k}: {a.get(k)!r} and {b.get(k)!r}" for k in {**a, **b} if a.get(k) != b.get(k)]
    if lines:
        raise RunError(f"{first} and {path} are not parts of one sweep:\n" + "\n".join(f"  {line}" for line in lines))


def _fit_files(path: Path) -> Iterator[Path]:
    layers = read_state(path / "run.json")["stages"]["fit"]["layers"]
    for folder in _FITTED:
        if folder == "seeds" or (path / folder).is_dir():
            yield from (Path(folder) / f"{layer}.safetensors" for layer in layers)


def _checksum(file: Path) -> str:
    """The checksum in a sound file, which stands for its bytes."""
    verify_file(file)
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return header["__metadata__"]["xxh3"]


def _copy_file(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
