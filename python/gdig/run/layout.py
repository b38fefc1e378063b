"""Every path of a run directory, once: what a stage leaves, where, and which files a finished run must have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from gdig.run.origin import (
    checkpoint_origin,
    checkpoint_rows_origin,
    cluster_origin,
    curvature_origin,
    field_key,
    origin_at,
    rows_origin,
    seeds_origin,
    sweep_origin,
)
from gdig.run.record import RunRecord
from gdig.store.numbered import numbered_file

if TYPE_CHECKING:
    from gdig.store.tensor_file import CheckedFile

FOLDERS = {
    "fit": ("curvature", "seeds"),
    "sweep": ("sweep", "features", "checkpoints", "score_net", "tokens", "sources", "excluded"),
    "cluster": ("clusters",),
    "select": (),
}
"""Folders of each stage, which are removed when the stage starts over."""


@dataclass(frozen=True)
class FileGroup:
    """Files of one kind in one folder.

    Args:
        name: of the group, for messages: the folder's path in the run directory.
        stage: the stage that leaves the files.
        folder: where the files lie.
        files: all files that the stage leaves there once it is done.
        done: whether the stage is done, so that every one of `files` must be there.
        origin: what the files are made from (gdig.run.origin); None for resume files and labels, which say more.
        key: what the files of shards depend on besides.
        rows, rows_per_shard: of the sweep, for the files of shards, whose origin may be a step of growth.
        store: whether the folder is a sketch store, with a `store.json` beside the files.
        optional: files of the same origin that a selection makes when it needs them.
    """

    name: str
    stage: str
    folder: Path
    files: Sequence[Path]
    done: bool
    origin: str | None = None
    store: bool = False
    key: str = ""
    rows: int = 0
    rows_per_shard: int = 1
    optional: Sequence[Path] = ()

    def origin_of(self, file: Path) -> str:
        """What one of the files is made from."""
        assert self.origin is not None
        number = int(file.stem) if file.stem.isdigit() else 0
        stop = min(self.rows, (number + 1) * self.rows_per_shard) if file.stem.isdigit() else 0
        return " ".join(filter(None, (origin_at(self.origin, stop), self.key)))


@dataclass(frozen=True)
class CheckpointLayout:
    """Paths of one swept training checkpoint."""

    path: Path

    @property
    def shards(self) -> Path:
        """Sketch store: cosines with the seeds and sketches of the Adam directions."""
        return self.path / "shards"

    @property
    def seed_sketches(self) -> Path:
        """The seeds' sketches by this checkpoint: tensor `sketch` float32 [S, dim]."""
        return self.path / "seeds.safetensors"


@dataclass(frozen=True)
class RunLayout:
    """Paths of the run directory `path`. Nothing here touches the disk.

    Example:
        >>> layout = RunLayout(Path("runs/a"))
        >>> layout.sweep.as_posix(), layout.curvature("mlp.up").as_posix()
        ('runs/a/sweep', 'runs/a/curvature/mlp.up.safetensors')
    """

    path: Path

    @property
    def record(self) -> Path:
        """What the run was asked, and how far it is (gdig.run.record)."""
        return self.path / "run.json"

    def checked(self, path: Path, origin: str) -> CheckedFile:
        """Return a file of the run with what it is made from: its origin, and its place in the run."""
        from gdig.store.tensor_file import CheckedFile  # it imports numpy, which takes a while

        return CheckedFile(path, f"{origin} {path.relative_to(self.path).with_suffix('').as_posix()}")

    @property
    def lock(self) -> Path:
        """Lock of the one process that works in the directory."""
        return self.path / ".lock"

    @property
    def ranks_lock(self) -> Path:
        """Lock that the ranks beside the first share."""
        return self.path / ".ranks"

    def curvature(self, layer: str) -> Path:
        """Kronecker factors of a layer."""
        return self.path / "curvature" / f"{layer}.safetensors"

    def seed_factors(self, layer: str) -> Path:
        """Preconditioned seed gradients of a layer, factored."""
        return self.path / "seeds" / f"{layer}.safetensors"

    @property
    def curvature_resume(self) -> Path:
        """Folder of the sums and factors of a curvature that is not finished."""
        return self.path / "curvature" / "resume"

    @property
    def seeds_resume(self) -> Path:
        """Folder of the seeds that are preconditioned, until all of them are."""
        return self.path / "seeds" / "resume"

    @property
    def sweep(self) -> Path:
        """Sketch store of the sweep."""
        return self.path / "sweep"

    @property
    def seed_sketches(self) -> Path:
        """The seeds' own sketches, of the pool's projections and scale: tensor `sketch` float32 [S, dim]."""
        return self.path / "features" / "seeds.safetensors"

    @property
    def tokens(self) -> Path:
        """Folder of the token files that methods without a model leave (gdig.selection.token_files)."""
        return self.path / "tokens"

    def tokens_of(self, shard: int) -> Path:
        """Token ids of the rows of a shard of the sweep."""
        return numbered_file(self.tokens, shard)

    @property
    def seed_tokens(self) -> Path:
        """Token ids of the seeds."""
        return self.tokens / "seeds.safetensors"

    @property
    def hidden_mean(self) -> Path:
        """Mean of the hidden-state sketches of the first files' rows: tensor `mean` float64 [dim]."""
        return self.path / "features" / "hidden_mean.safetensors"

    @property
    def sources(self) -> Path:
        """Folder of the sources of the rows, as the option source_field names them (gdig.selection.sources)."""
        return self.path / "sources"

    def sources_of(self, shard: int) -> Path:
        """Sources of the rows of a shard of the sweep."""
        return numbered_file(self.sources, shard)

    @property
    def excluded(self) -> Path:
        """Folder of what the rows share with the evaluation set of the option exclude (gdig.selection.exclude)."""
        return self.path / "excluded"

    def excluded_of(self, shard: int) -> Path:
        """What the rows of a shard of the sweep share with the evaluation set."""
        return numbered_file(self.excluded, shard)

    @property
    def evaluation_set(self) -> Path:
        """Hidden-state sketches of the evaluation set: tensor `hidden` float16 [E, dim]."""
        return self.excluded / "entries.safetensors"

    @property
    def excluded_list(self) -> Path:
        """The rows that the last selection left out for the option exclude, and why, for people."""
        return self.path / "excluded.jsonl"

    @property
    def difficulty(self) -> Path:
        """Difficulties that gdig score-net leaves: float32 [N], NaN for a row that is not valid."""
        return self.path / "features" / "difficulty.npy"

    @property
    def score_net(self) -> Path:
        """The trained score net."""
        return self.path / "features" / "score_net.safetensors"

    @property
    def score_net_training(self) -> Path:
        """Folder of a score net's training until it is done."""
        return self.path / "score_net"

    @property
    def score_net_options(self) -> Path:
        """What that training was asked for."""
        return self.score_net_training / "training.json"

    def checkpoint(self, key: str) -> CheckpointLayout:
        """Paths of a swept training checkpoint."""
        return CheckpointLayout(self.path / "checkpoints" / key)

    @property
    def centroids(self) -> Path:
        """The fitted k-means."""
        return self.path / "clusters" / "centroids.safetensors"

    @property
    def kmeans_resume_file(self) -> Path:
        """State of k-means while it iterates."""
        return self.path / "clusters" / "fit.safetensors"

    @property
    def labels(self) -> Path:
        """Folder of the label files, split as the sweep's shards are."""
        return self.path / "clusters" / "labels"

    @property
    def selection(self) -> Path:
        """The chosen rows, unless the option `output` names another file."""
        return self.path / "selection.jsonl"

    @property
    def report(self) -> Path:
        """The report of the last selection, for people."""
        return self.path / "report.html"

    def folders_of(self, stage: str) -> list[Path]:
        """Folders that a stage writes into."""
        return [self.path / name for name in FOLDERS[stage]]

    def is_leftover(self, path: Path) -> bool:
        """Whether a file of a directory without run.json was left by a start that was killed before it wrote that."""
        record = path.name.startswith(f".{self.record.name}.") and path.suffix == ".tmp"
        return path in (self.lock, self.ranks_lock) or record

    def files_of(self, record: RunRecord) -> Iterator[FileGroup]:
        """Yield every group of checksummed files of a run, in the order of the stages."""
        stages = record.stages
        if stages.fit is not None:
            layers, done = stages.fit.layers or (), stages.fit.state == "done"
            if stages.fit.curvature is not None:
                origin = curvature_origin(record)
                yield self._group("curvature", "fit", tuple(map(self.curvature, layers)), done, origin)
            yield self._group("seeds", "fit", tuple(map(self.seed_factors, layers)), done, seeds_origin(record))
            for folder in (self.curvature_resume, self.seeds_resume):
                yield self._group(folder.relative_to(self.path).as_posix(), "fit", (), False)
        if stages.sweep is not None:
            sweep = stages.sweep
            shards, done, origin = sweep.shards, sweep.state == "done", rows_origin(record)
            yield self._group("sweep", "sweep", _Numbered(self.sweep, shards), done, origin, store=True)
            yield self._group("sweep/resume", "sweep", (), False)
            features = self._group("features", "sweep", (self.seed_sketches,), done, sweep_origin(record))
            yield replace(features, optional=(self.hidden_mean,))
            # Selections make these when they need them, so no stage has to have left them.
            of_field = None if sweep.source_field is None else field_key(sweep.source_field)
            for folder, key, more in (
                (self.tokens, "", (self.seed_tokens,)),
                (self.sources, of_field, ()),
                (self.excluded, sweep.exclude_key, (self.evaluation_set,)),
            ):
                if key is None:
                    continue
                group = self._group(folder.name, "sweep", _Numbered(folder, shards, *more), False, origin)
                per_shard = sweep.config["rows_per_shard"]
                yield replace(group, key=key, rows=sweep.rows or 0, rows_per_shard=per_shard)
            for number, checkpoint in sweep.checkpoints.items():
                paths, swept = self.checkpoint(number), checkpoint.state == "done"
                name, origin = f"checkpoints/{number}", checkpoint_rows_origin(record, number)
                yield self._group(f"{name}/shards", "sweep", _Numbered(paths.shards, shards), swept, origin, store=True)
                yield self._group(f"{name}/shards/resume", "sweep", (), False)
                yield self._group(name, "sweep", (paths.seed_sketches,), swept, checkpoint_origin(record, number))
            if stages.cluster is not None:
                done = stages.cluster.state == "done"
                yield self._group("clusters", "cluster", (self.centroids,), done, cluster_origin(record))
                yield self._group("clusters/labels", "cluster", _Numbered(self.labels, shards), done)

    def _group(
        self,
        name: str,
        stage: str,
        files: Sequence[Path],
        done: bool,
        origin: str | None = None,
        *,
        store: bool = False,
    ) -> FileGroup:
        return FileGroup(name, stage, self.path / name, files, done, origin, store)


def shard_resume_file(store: Path, shard: int) -> Path:
    """The rows that are done of a shard that is not yet whole, beside the shards of the store `store`."""
    return numbered_file(store / "resume", shard)


class _Numbered(Sequence[Path]):
    """The files of a folder that are numbered from 0 to `count` - 1, and `more` after them, named when asked for."""

    def __init__(self, folder: Path, count: int, *more: Path) -> None:
        self._folder, self._count, self._more = folder, count, more

    def __len__(self) -> int:
        return self._count + len(self._more)

    def __contains__(self, file: object) -> bool:
        """Without a look at every file."""
        if not isinstance(file, Path) or file.parent != self._folder:
            return file in self._more
        number = int(file.stem) if re.fullmatch(r"[0-9]{8,12}", file.stem) else self._count
        return (number < self._count and file == numbered_file(self._folder, number)) or file in self._more

    @overload
    def __getitem__(self, at: int) -> Path: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Path]: ...
    def __getitem__(self, at: int | slice) -> Path | Sequence[Path]:
        if isinstance(at, slice):
            return tuple(self[i] for i in range(len(self))[at])
        i = range(len(self))[at]
        return numbered_file(self._folder, i) if i < self._count else self._more[i - self._count]
