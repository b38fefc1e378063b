"""The seeds' factors in the layout of the tensor cores: made once, for all batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gdig.kernels.factors import DEPTH, scaled
from gdig.kernels.segments import Segments

# Columns of a chunk: from the shortest that a tile of the tensor cores sums well to the longest. An expert sees few
# tokens of a seed, so the seed has few columns there: padded to 16, most of them would be zeros.
CHUNKS = (16, 32, 64)
EXPERT_CHUNKS = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Prepared:
    """U and V with each seed's columns padded with zeros to whole chunks.

    Attributes:
        u: [C', O'] in the dtype of the activations; a row is a padded column of U over a power of two. v: [C', I'].
        scale: float32 [C'], the factor of the product of a row of u and a row of v.
        bias: float32 [C'], the last row of V over the power of two of its column; None without bias.
        chunks: int32 [S + 1]; seed s has the chunks chunks[s] .. chunks[s + 1] - 1.
        chunk: columns of a chunk.
        most: the largest number of chunks of a seed.
    """

    u: torch.Tensor
    v: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None
    chunks: torch.Tensor
    chunk: int
    most: int

    def fits(self, v: torch.Tensor, seeds: Segments, width: int, a: torch.Tensor) -> bool:
        """Whether this can have been prepared from such a v and such seeds, for such activations."""
        return (
            self.u.dtype == a.dtype
            and self.u.device == a.device
            and len(self.chunks) == len(seeds) + 1
            and len(self.u) == int((-(-seeds.lengths // self.chunk)).sum()) * self.chunk
            and self.v.shape[1] >= width > self.v.shape[1] - DEPTH
            and (self.bias is not None) == (len(v) > width)
        )


def prepare(
    u: torch.Tensor, v: torch.Tensor, seeds: Segments, width: int, dtype: torch.dtype, chunks: Sequence[int] = CHUNKS
) -> Prepared:
    """Pad, scale, transpose and round. u [O, C], v [I, C] or [I + 1, C], width: I, chunks: those to choose from."""
    chunk = chunk_of(seeds.lengths, chunks)
    counts = -(-seeds.lengths // chunk)
    first_chunks = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    # The new place of column c: as far behind its seed's first chunk as c is behind the seed's first column.
    place = torch.arange(seeds.end) + (first_chunks[:-1] * chunk - seeds.offsets[:-1]).repeat_interleave(seeds.lengths)
    place = place.to(u.device)
    columns = int(first_chunks[-1]) * chunk

    def padded(x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(columns, *x.shape[1:], dtype=x.dtype, device=x.device)
        out[place] = x
        return out

    left, left_scale = scaled(u.T, dtype)
    right, right_scale = scaled(v[:width].T, dtype)
    return Prepared(
        padded(left),
        padded(right),
        padded(left_scale * right_scale),
        padded(v[width].float() / right_scale) if len(v) > width else None,
        first_chunks.to(device=u.device, dtype=torch.int32),
        chunk,
        int(counts.max()) if len(counts) else 0,
    )


def chunk_of(lengths: torch.Tensor, chunks: Sequence[int] = CHUNKS) -> int:
    """The longest of some chunks that pads the columns to at most a sixteenth more than the shortest does."""
    padded = {chunk: int((-(-lengths // chunk)).sum()) * chunk for chunk in chunks}
    return max(chunk for chunk in chunks if 16 * padded[chunk] <= 17 * padded[chunks[0]])


@dataclass(frozen=True)
class PreparedExperts:
    """The factors of all experts of a matrix, one after another.

    Attributes:
        joint: of all experts; its "seed" n * S + s is seed s of expert n. seeds: S.
        first_chunks: Python numbers [E + 1], the first chunk of each expert.
    """

    joint: Prepared
    seeds: int
    first_chunks: list[int]

    def fits(self, v: Sequence[torch.Tensor], seeds: Sequence[Segments], width: int, a: torch.Tensor) -> bool:
        """Whether this can have been prepared from such factors, for such activations."""
        columns = Segments(_joint_offsets(seeds))
        return self.seeds == len(seeds[0]) and self.joint.fits(v[0], columns, width, a)


def prepare_experts(
    u: Sequence[torch.Tensor], v: Sequence[torch.Tensor], seeds: Sequence[Segments], width: int, dtype: torch.dtype
) -> PreparedExperts:
    """As `prepare`, for the factors u [O, C], v [J, C] and the seeds' columns of each expert."""
    columns = Segments(_joint_offsets(seeds))
    joint = prepare(torch.cat(list(u), 1), torch.cat(list(v), 1), columns, width, dtype, EXPERT_CHUNKS)
    counts = (-(-columns.lengths // joint.chunk)).view(len(seeds), -1).sum(1)
    return PreparedExperts(joint, len(seeds[0]), [0, *counts.cumsum(0).tolist()])


def _joint_offsets(seeds: Sequence[Segments]) -> torch.Tensor:
    """Where the columns of each expert and seed begin, of all experts one after another."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat([own.lengths for own in seeds]).cumsum(0)])
