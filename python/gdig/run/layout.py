"""Every path of a run directory, once: what a stage leaves, where, and which files a finished run must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gdig.run.file_groups import FileGroup, Kind, NumberedFiles
from gdig.run.origin import (
    checkpoint_origin,
    checkpoint_rows_origin,
    cluster_origin,
    curvature_origin,
    field_key,
    rows_origin,
    seeds_origin,
    sweep_origin,
)
from gdig.run.record import RunRecord
from gdig.run.resume_layout import resume_folder
from gdig.store.numbered import numbered_file

if TYPE_CHECKING:
    from gdig.store.tensor_file import CheckedFile


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

    @property
    def seeds_resume(self) -> Path:
        """Folder of resume files: what the shards need of each seed's gradient, until all shards are done."""
        return resume_folder(self.path)


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

    @property
    def curvatures(self) -> Path:
        """Folder of the curvature."""
        return self.path / "curvature"

    def curvature(self, layer: str) -> Path:
        """Kronecker factors of a layer."""
        return self.curvatures / f"{layer}.safetensors"

    @property
    def seeds(self) -> Path:
        """Folder of the preconditioned seed gradients."""
        return self.path / "seeds"

    def seed_factors(self, layer: str) -> Path:
        """Preconditioned seed gradients of a layer, factored."""
        return self.seeds / f"{layer}.safetensors"

    @property
    def curvature_resume(self) -> Path:
        """Folder of the sums and factors of a curvature that is not finished."""
        return resume_folder(self.curvatures)

    @property
    def seeds_resume(self) -> Path:
        """Folder of the seeds that are preconditioned, until all of them are."""
        return resume_folder(self.seeds)

    @property
    def sweep(self) -> Path:
        """Sketch store of the sweep."""
        return self.path / "sweep"

    @property
    def features(self) -> Path:
        """Folder of features: of the seeds, of the rows of the first files, and for the score net."""
        return self.path / "features"

    @property
    def seed_sketches(self) -> Path:
        """The seeds' own sketches, of the pool's projections and scale: tensor `sketch` float32 [S, dim]."""
        return self.features / "seeds.safetensors"

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
        return self.features / "hidden_mean.safetensors"

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
        return self.features / "difficulty.npy"

    @property
    def score_net(self) -> Path:
        """The trained score net."""
        return self.features / "score_net.safetensors"

    @property
    def score_net_training(self) -> Path:
        """Folder of a score net's training until it is done."""
        return self.path / "score_net"

    @property
    def score_net_options(self) -> Path:
        """What that training was asked for."""
        return self.score_net_training / "training.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the swept training checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, key: str) -> CheckpointLayout:
        """Paths of a swept training checkpoint."""
        return CheckpointLayout(self.checkpoints / key)

    @property
    def clusters(self) -> Path:
        """Folder of the clusters."""
        return self.path / "clusters"

    @property
    def centroids(self) -> Path:
        """The fitted k-means."""
        return self.clusters / "centroids.safetensors"

    @property
    def kmeans_resume_file(self) -> Path:
        """State of k-means while it iterates."""
        return self.clusters / "fit.safetensors"

    @property
    def labels(self) -> Path:
        """Folder of the label files, split as the sweep's shards are."""
        return self.clusters / "labels"

    @property
    def selection(self) -> Path:
        """The chosen rows, unless the option `output` names another file."""
        return self.path / "selection.jsonl"

    @property
    def report(self) -> Path:
        """The report of the last selection, for people."""
        return self.path / "report.html"

    def folders_of(self, stage: str) -> list[Path]:
        """Folders that a stage writes into. They are removed when it starts over."""
        if stage == "fit":
            return [self.curvatures, self.seeds]
        if stage == "sweep":
            more = [self.tokens, self.sources, self.excluded]
            return [self.sweep, self.features, self.checkpoints, self.score_net_training, *more]
        return [self.clusters] if stage == "cluster" else []

    def is_leftover(self, path: Path) -> bool:
        """Whether a file of a directory without run.json was left by a start that was killed before it wrote that."""
        record = path.name.startswith(f".{self.record.name}.") and path.suffix == ".tmp"
        return path in (self.lock, self.ranks_lock) or record

    def files_of(self, record: RunRecord) -> Iterator[FileGroup]:
        """Yield every group of checksummed files of a run, in the order of the stages."""
        if record.stages.fit is not None:
            yield from self._files_of_fit(record)
        if record.stages.sweep is not None:
            yield from self._files_of_sweep(record)
            yield from self._files_of_checkpoints(record)
        if record.stages.sweep is not None and record.stages.cluster is not None:
            done = record.stages.cluster.state == "done"
            optional = {self.kmeans_resume_file: None}
            yield self._group(self.clusters, "cluster", (self.centroids,), done, cluster_origin(record), optional)
            labels = NumberedFiles(self.labels, record.stages.sweep.shards)
            yield self._group(self.labels, "cluster", labels, done, kind="labels")

    def _files_of_fit(self, record: RunRecord) -> Iterator[FileGroup]:
        fit = record.stages.fit
        assert fit is not None
        layers, done = fit.layers or (), fit.state == "done"
        if fit.curvature is not None:
            origin = curvature_origin(record)
            yield self._group(self.curvatures, "fit", tuple(map(self.curvature, layers)), done, origin)
        yield self._group(self.seeds, "fit", tuple(map(self.seed_factors, layers)), done, seeds_origin(record))
        yield self._group(self.curvature_resume, "fit")
        yield self._group(self.seeds_resume, "fit")

    def _files_of_sweep(self, record: RunRecord) -> Iterator[FileGroup]:
        sweep = record.stages.sweep
        assert sweep is not None
        shards, done, origin = sweep.shards, sweep.state == "done", rows_origin(record)
        yield self._group(self.sweep, "sweep", NumberedFiles(self.sweep, shards), done, origin, kind="store")
        yield self._group(resume_folder(self.sweep), "sweep")
        of_sweep = sweep_origin(record)
        optional = {self.hidden_mean: of_sweep, self.score_net: origin}
        yield self._group(self.features, "sweep", (self.seed_sketches,), done, of_sweep, optional)
        # Selections make these when they need them, so no stage has to have left them.
        of_field = None if sweep.source_field is None else field_key(sweep.source_field)
        for folder, key, more in (
            (self.tokens, "", (self.seed_tokens,)),
            (self.sources, of_field, ()),
            (self.excluded, sweep.exclude_key, (self.evaluation_set,)),
        ):
            if key is None:
                continue
            group = self._group(folder, "sweep", NumberedFiles(folder, shards, *more), origin=origin)
            yield replace(group, key=key, rows=sweep.rows or 0, rows_per_shard=sweep.config["rows_per_shard"])

    def _files_of_checkpoints(self, record: RunRecord) -> Iterator[FileGroup]:
        sweep = record.stages.sweep
        assert sweep is not None
        for key, checkpoint in sweep.checkpoints.items():
            paths, swept = self.checkpoint(key), checkpoint.state == "done"
            files, origin = NumberedFiles(paths.shards, sweep.shards), checkpoint_rows_origin(record, key)
            yield self._group(paths.shards, "sweep", files, swept, origin, kind="store")
            yield self._group(resume_folder(paths.shards), "sweep")
            yield self._group(paths.seeds_resume, "sweep")
            yield self._group(paths.path, "sweep", (paths.seed_sketches,), swept, checkpoint_origin(record, key))

    def _group(
        self,
        folder: Path,
        stage: str,
        files: Sequence[Path] = (),
        done: bool = False,
        origin: str | None = None,
        optional: Mapping[Path, str | None] | None = None,
        *,
        kind: Kind = "files",
    ) -> FileGroup:
        name = folder.relative_to(self.path).as_posix()
        return FileGroup(name, stage, folder, files, done, origin, kind, optional=optional or {})
