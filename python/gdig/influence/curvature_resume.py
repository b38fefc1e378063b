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

    def of_batches(
        self, batches: Sequence[Batch], token_batch_size: int, model: Model, config: Config, ranks: Ranks
    ) -> SumsResume:
        """Return what keeps the sums over these batches."""
        digest = blake2b(digest_size=8)
        for batch in batches:
            digest.update(np.array(batch.shape).tobytes() + batch.keys.tobytes() + batch.input_ids.tobytes())
        made_from = {
            "origin": self.origin,
            "batches": digest.hexdigest(),
            "token_batch_size": token_batch_size,
            "model": [str(model.dtype), model.device.type, config.matmul_precision, config.torch_compile],
        }
        return SumsResume(self.folder, made_from, ranks, self.warn)
