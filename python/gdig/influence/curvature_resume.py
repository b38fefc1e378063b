"""What is kept of a curvature that is not finished: the sums over the sample, and the factors of some layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gdig.config.config import Config
from gdig.distributed.ranks import Ranks
from gdig.errors import StoreError
from gdig.influence.factors import Factors
from gdig.influence.sums_resume import SumsResume
from gdig.model.batches import Batch, content_digest
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.precision import products_made_from
from gdig.run.record import CurvatureReport
from gdig.run.resume_layout import curvature_files, factors_file, layers_key, partition_file
from gdig.store.resume_file import Pace, ResumeFile


@dataclass(frozen=True)
class CurvatureResume:
    """Where the resume files of a curvature are.

    Attributes:
        folder: the folder of the files; None keeps nothing.
        origin: a hash of the inputs and options of the fit.
        warn: prints a message.
        pace: says when to write.
    """

    folder: Path | None = None
    origin: str = ""
    warn: Callable[[str], object] = print
    pace: Pace = field(default_factory=Pace)

    def of_partition(
        self,
        batches: Sequence[Batch],
        token_batch_size: int,
        model: Model,
        config: Config,
        ranks: Ranks,
        layers: Sequence[str],
    ) -> PartitionResume:
        """Return what keeps the sums of these layers over these batches, and the factors that follow from them."""
        made_from = {
            "origin": self.origin,
            "batches": content_digest(batches),
            "token_batch_size": token_batch_size,
            "layers": layers_key(layers),
            "model": [
                str(model.dtype),
                model.device.type,
                products_made_from(config.matmul_precision, model.device),
                config.torch_compile,
            ],
        }
        sums = SumsResume(self.folder, made_from, ranks, self.warn, self.pace)
        return PartitionResume(self.folder, made_from, sums, self.warn)

    def partition(self, layers: Sequence[str]) -> ResumeFile | None:
        """Return the file that says that the curvature files of a partition are complete; None keeps nothing."""
        if self.folder is None:
            return None
        return ResumeFile(partition_file(self.folder, layers), {"origin": self.origin}, self.warn)

    def end_partition(self, layers: Sequence[str], report: CurvatureReport) -> None:
        """Keep that the files of a partition are complete, and let go of the others. Rank 0 calls this."""
        file = self.partition(layers)
        if file is not None and self.folder is not None:
            file.write({"report": np.array([report.examples, report.tokens, report.invalid])})
            for path in curvature_files(self.folder):
                path.unlink(missing_ok=True)

    def report_of(self, layers: Sequence[str]) -> CurvatureReport | None:
        """Return the report of a partition that an earlier start has completed. Rank 0 calls this."""
        file = self.partition(layers)
        if file is None or (content := file.read()) is None:
            return None
        try:
            content[0].shaped(report="int 3")
        except StoreError as error:
            file.discard(str(error))
            return None
        return CurvatureReport(*map(int, content[0]["report"]))


class PartitionResume:
    """Keeps the sums over the sample, and the factors of layers while others are missing.

    Args:
        folder: the folder of the files; None keeps nothing.
        made_from: what the factors depend on besides their layer, by name: JSON values.
        sums: keeps the sums that the factors are made from. Its pace is that of the factors too.
        warn: prints a message.
    """

    def __init__(
        self, folder: Path | None, made_from: Mapping[str, Any], sums: SumsResume, warn: Callable[[str], object]
    ) -> None:
        self._folder, self._made_from, self.sums, self._warn = folder, dict(made_from), sums, warn
        self._unsaved: dict[str, Factors] = {}

    def load(self, layer: Layer) -> Factors | None:
        """Read the factors of a layer; None if no earlier start has kept them."""
        if self._folder is None or (content := (file := self._file(layer.name)).read()) is None:
            return None
        try:
            return Factors.of(file.path, *content, layer)
        except StoreError as error:
            file.discard(str(error))
            return None

    def keep(self, layer: Layer, f: Factors) -> None:
        """Keep the factors of a layer. The files of the layers since the last time are written if they are due."""
        if self._folder is not None:
            self._unsaved[layer.name] = f
            if self.due():
                self.save()

    def due(self, ahead_s: float = 0.0) -> bool:
        """Whether a file is due, or will be in `ahead_s` seconds."""
        return self._folder is not None and self.sums.pace.due(ahead_s)

    def save(self) -> None:
        """Write the files of the layers that have none."""
        with self.sums.pace.writing():
            for name, f in self._unsaved.items():
                values = {field.name: getattr(f, field.name) for field in fields(f)}
                tensors = {key: x.cpu().numpy() for key, x in values.items() if isinstance(x, torch.Tensor)}
                counts = {key: str(int(x)) for key, x in values.items() if isinstance(x, (bool, int))}
                self._file(name).write(tensors, counts)
        self._unsaved.clear()

    def _file(self, layer: str) -> ResumeFile:
        assert self._folder is not None
        made_from = {**self._made_from, "layer": layer}
        return ResumeFile(factors_file(self._folder, layer), made_from, self._warn)
