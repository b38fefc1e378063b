"""Every file of a run against its checksum."""

from __future__ import annotations

from pathlib import Path

from gdig.errors import ConfigError, StoreError
from gdig.run.directory import read_state
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import verify_file


def verify_run(path: Path) -> list[str]:
    """Read every file of a run directory; return lines that say what was read.

    Raises:
        ConfigError: when it is none.
        StoreError: naming every file that is damaged.
    """
    if not (path / "run.json").is_file():
        raise ConfigError(f"run_path: {path} is no run directory (it holds no run.json)")
    lines = []
    expected = _finished_files(path)
    for name in ("curvature", "seeds", "features", "clusters", "clusters/labels"):
        files = sorted({*(path / name).glob("*.safetensors"), *(f for f in expected if f.parent == path / name)})
        for file in files:
            verify_file(file)  # says so if it is not there
        if files:
            lines.append(f"{name}: {len(files)} files, {sum(f.stat().st_size for f in files):,} bytes, sound")
    if (path / "sweep" / "store.json").is_file():
        report = SketchStore.open(path / "sweep").verify()
        if lost := [file for file in expected if file.parent == path / "sweep" and not file.is_file()]:
            raise StoreError(f"{lost[0]}: is missing, and {len(lost) - 1} more shards of the finished sweep")
        lines.append(f"sweep: {report.shards} shards, {report.rows:,} rows, {report.bytes:,} bytes, sound")
    if lost := [file for file in expected if file.is_relative_to(path / "checkpoints") and not file.is_file()]:
        raise StoreError(f"{lost[0]}: is missing, and {len(lost) - 1} more files of swept checkpoints")
    if stores := sorted(path.glob("checkpoints/*/shards/store.json")):
        for file in path.glob("checkpoints/*/seeds.safetensors"):
            verify_file(file)
        reports = [SketchStore.open(file.parent).verify() for file in stores]
        shards, rows, size = (sum(getattr(one, name) for one in reports) for name in ("shards", "rows", "bytes"))
        swept = sum(one.shards > 0 for one in reports)
        lines.append(f"checkpoints: {swept} swept, {shards} shards, {rows:,} rows, {size:,} bytes, sound")
    return lines


def _finished_files(path: Path) -> list[Path]:
    """The files that the finished stages of a run have left, by what run.json says."""
    stages = read_state(path / "run.json")["stages"]
    stages = {name: facts for name, facts in stages.items() if facts.get("state") == "done"}
    fit, swept = stages.get("fit", {}), stages.get("sweep", {})
    files = [f"seeds/{layer}" for layer in fit.get("layers", ())]
    if "curvature" in fit:
        files += [f"curvature/{layer}" for layer in fit["layers"]]
    shards = range(-(-swept["rows"] // swept["config"]["rows_per_shard"])) if swept else range(0)
    files += [f"sweep/{shard:08d}" for shard in shards]
    files += ["features/seeds"] if swept else []
    for key in (key for key, facts in swept.get("checkpoints", {}).items() if facts.get("state") == "done"):
        files += [f"checkpoints/{key}/seeds", *(f"checkpoints/{key}/shards/{shard:08d}" for shard in shards)]
    if "cluster" in stages:
        files += ["clusters/centroids", *(f"clusters/labels/{shard:08d}" for shard in shards)]
    return [path / f"{file}.safetensors" for file in files]
