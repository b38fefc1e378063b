"""What is kept of a curvature that is not finished: the sums over the sample, and the factors of some layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from gdig.config.config import Config
from gdig.distributed.ranks import Ranks
from gdig.influence.sums_resume import SumsResume
from gdig.model.batches import Batch
from gdig.model.causal_model import Model
from gdig.run.record import CurvatureReport
from gdig.store.resume_file import ResumeFile


@dataclass(frozen=True)
class CurvatureResume:
    """Where the resume files of a curvature are.

    Attributes:
        folder: the folder of the files; None keeps nothing.
        origin: a hash of the inputs and options of the fit.
        warn: prints a message.
    """

    folder: Path | None = None
    origin: str = ""
    warn: Callable[[str], object] = print

    def of_sums(
        self,
        batches: Sequence[Batch],
        token_batch_size: int,
        model: Model,
        config: Config,
        ranks: Ranks,
        layers: Sequence[str],
    ) -> SumsResume:
        """Return what keeps the sums of these layers over these batches."""
        digest = blake2b(digest_size=8)
        for batch in batches:
            digest.update(np.array(batch.shape).tobytes() + batch.keys.tobytes() + batch.input_ids.tobytes())
        made_from = {
            "origin": self.origin,
            "batches": digest.hexdigest(),
            "token_batch_size": token_batch_size,
            "layers": blake2b("\n".join(layers).encode(), digest_size=8).hexdigest(),
            "model": [str(model.dtype), model.device.type, config.matmul_precision, config.torch_compile],
        }
        return SumsResume(self.folder, made_from, ranks, self.warn)

    def partition(self, layers: Sequence[str]) -> ResumeFile | None:
        """Return the file that says that the curvature files of a partition are complete; None keeps nothing."""
        if self.folder is None:
            return None
        name = blake2b("\n".join(layers).encode(), digest_size=8).hexdigest()
        return ResumeFile(self.folder / f"partition-{name}.safetensors", {"origin": self.origin}, self.warn)

    def end_partition(self, layers: Sequence[str], report: CurvatureReport) -> None:
        """Keep that the files of a partition are complete, and let go of its sums. Rank 0 calls this."""
        file = self.partition(layers)
        if file is not None and self.folder is not None:
            file.write({"report": np.array([report.examples, report.tokens, report.invalid])})
            for path in self.folder.glob("rank-*.safetensors"):
                path.unlink(missing_ok=True)

    def report_of(self, layers: Sequence[str]) -> CurvatureReport | None:
        """Return the report of a partition that an earlier start has completed. Rank 0 calls this."""
        file = self.partition(layers)
        content = file.read() if file is not None else None
        return CurvatureReport(*map(int, content[0]["report"])) if content is not None else None
