"""The error of the seeds' low-rank form: factored and exact scores of a few seeds with a few rows of the pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gdig import ops
from gdig.data.tokens import Example
from gdig.influence.curvature_sums import with_ones
from gdig.influence.inverse import Inverse
from gdig.model.batches import make_batches
from gdig.model.partition_pass import PartitionPass
from gdig.model.places import Places
from gdig.ops import Segments


class ProbeRows:
    """Rows of the pool, whose scores show what the low-rank form loses.

    Args:
        gradients: passes the rows, over some layers.
        probe: the rows.
        inverses: the inverse of each of these layers. The tokens are kept in its coordinates. None: as they are.

    Attributes:
        rows: the number of rows.
    """

    def __init__(
        self, gradients: PartitionPass, probe: Sequence[Example], inverses: Sequence[Inverse] | None = None
    ) -> None:
        self.rows = len(probe)
        layers = gradients.layers
        tokens: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in layers]
        lengths = torch.zeros(len(layers), self.rows, dtype=torch.int64)

        for row, example in enumerate(probe):
            length = len(example.input_ids)
            (batch,) = make_batches([example], length, window=length)

            def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places, row: int = row) -> None:
                dtype = torch.promote_types(a.dtype, torch.float32)
                a, d = with_ones(a.to(dtype), layers[index].width), d.to(dtype)
                # A gradient that is not turned can be a view of memory that the pass uses again.
                tokens[index].append(inverses[index].coordinates(a, d) if inverses else (a, d.clone()))
                lengths[index, row] = len(a)

            gradients.run(batch, sink)
        offsets = torch.cat([torch.zeros(len(layers), 1, dtype=torch.int64), lengths.cumsum(1)], dim=1)
        # For each layer a [T, J] and d [T, O] of all rows. Layers that read one tensor have one eigenbasis. An expert
        # that no row goes to has none.
        self._tokens: list[tuple[torch.Tensor, torch.Tensor, Segments] | None] = []
        inputs: dict[str, torch.Tensor] = {}
        for layer, pairs, starts in zip(layers, tokens, offsets, strict=True):
            if not pairs:
                self._tokens.append(None)
                continue
            if layer.input_name not in inputs:
                inputs[layer.input_name] = torch.cat([a for a, _ in pairs])
            self._tokens.append((inputs[layer.input_name], torch.cat([d for _, d in pairs]), Segments(starts)))
            pairs.clear()

    def scores(
        self, index: int, forms: Sequence[tuple[torch.Tensor, torch.Tensor]], exact: Sequence[torch.Tensor]
    ) -> np.ndarray:
        """Compute <G_e, H^-1 G_s> of some seeds with each row, in one layer.

        Args:
            index: the number of the layer.
            forms: for each seed U [O, r] and V [J, r], in the coordinates of the rows.
            exact: for each seed H^-1 G_s [O, J], in the same coordinates.

        Returns:
            float64 [seeds, 2, rows]: the scores of the low-rank forms, and the exact scores.
        """
        seen = self._tokens[index]
        if seen is None:
            return np.zeros((len(exact), 2, self.rows))
        a, d, examples = seen
        out = torch.zeros(2, self.rows, len(exact), dtype=a.dtype, device=a.device)
        columns = Segments(torch.tensor([0] + [u.shape[1] for u, _ in forms]).cumsum(0))
        u, v = (torch.cat(side, dim=1) for side in zip(*forms, strict=True))
        ops.score(a, d, examples, u, v, columns, out[0])
        ops.score_dense(a, d, examples, torch.stack(list(exact)), out[1])
        return out.permute(2, 0, 1).double().cpu().numpy()


def compare(scores: np.ndarray) -> tuple[float, float]:
    """Compare the factored scores with the exact ones, over all pairs of a seed and a probe row.

    Args:
        scores: float64 [S, 2, rows], of `ProbeRows.scores`.

    Returns:
        The relative error, and the correlation. Without scores, both are NaN.
    """
    factored, exact = scores[:, 0].ravel(), scores[:, 1].ravel()
    if not len(factored):
        return float("nan"), float("nan")
    norm = float(np.linalg.norm(exact))
    error = float(np.linalg.norm(factored - exact)) / norm if norm else 0.0
    correlation = float(np.corrcoef(factored, exact)[0, 1]) if factored.std() and exact.std() else float("nan")
    return error, correlation
