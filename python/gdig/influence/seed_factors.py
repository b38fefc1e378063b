"""The preconditioned gradients H^-1 G_s of all seeds, in low-rank form, layer by layer, in memory and in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gdig.errors import StoreError
from gdig.model.layers import Layer
from gdig.store.tensor_file import CheckedFile, check_offsets, damage_of


@dataclass
class SeedFactors:
    """The preconditioned gradients of all S seeds in one layer, side by side: H^-1 G_s ~ U_s V_s^T.

    Attributes:
        u: [O, C], the columns of all U_s.
        v: [J, C], the columns of all V_s.
        column_offsets: int64 [S + 1] on the CPU. Seed s has the columns column_offsets[s] .. column_offsets[s + 1] - 1.
        energy: float64 [S], the share of |H^-1 G_s|^2 that U_s V_s^T keeps.
        share: the share of a batch's tokens that the layer sees on average.
    """

    u: torch.Tensor
    v: torch.Tensor
    column_offsets: torch.Tensor
    energy: np.ndarray
    share: float = 1.0

    def save(self, file: CheckedFile, layer: str) -> None:
        """Write one file, complete or not at all. `layer` is the name of the layer."""
        file.write(
            {
                "u": self.u.cpu().numpy(),
                "v": self.v.cpu().numpy(),
                "column_offsets": self.column_offsets.numpy(),
                "energy": self.energy,
            },
            {"layer": layer},
        )

    @classmethod
    def load(cls, file: CheckedFile, layer: Layer) -> SeedFactors:
        """Read the file of a layer that `save` wrote.

        Raises:
            StoreError: when it is missing or damaged, of something else, or holds no factors of this layer.
        """
        arrays, _ = file.read()
        shapes = {"u": "float O C", "v": "float J C", "column_offsets": "int64 offsets", "energy": "float64 S"}
        sizes = arrays.shaped({"O": layer.out_features, "J": layer.width}, **shapes)
        check_offsets(file.path, "column_offsets", arrays["column_offsets"], sizes["C"])
        if sizes["offsets"] != sizes["S"] + 1:
            raise StoreError(f"{file.path}: expected offsets of {sizes['S']} seeds, got {sizes['offsets'] - 1}")
        u, v, offsets = (torch.tensor(arrays[name]) for name in ("u", "v", "column_offsets"))
        return cls(u.to(layer.device), v.to(layer.device), offsets, np.array(arrays["energy"]), layer.share)


class SeedFiles(Sequence[SeedFactors]):
    """The files of the seeds' factors, read one at a time.

    Args:
        layers: the layers of the model, in order.
        file: returns the file of a layer, by the layer's name.
    """

    def __init__(self, layers: Sequence[Layer], file: Callable[[str], CheckedFile]) -> None:
        self._layers, self._file = layers, file

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # a sequence also takes slices
        """Read the factors of a layer, or of a slice of the layers.

        Raises:
            StoreError: if a file is missing or damaged, or of something else.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        layer = self._layers[index]
        return SeedFactors.load(self._file(layer.name), layer)

    @property
    def size(self) -> int:
        """Bytes of the files that are there, which is about what the factors take in memory."""
        paths = [self._file(layer.name).path for layer in self._layers]
        return sum(path.stat().st_size for path in paths if path.is_file())

    def write(self, index: int, factors: SeedFactors) -> None:
        """Write the file of a layer."""
        name = self._layers[index].name
        factors.save(self._file(name), name)

    def complete(self, partition: Sequence[int]) -> bool:
        """Whether there is a sound file of each layer of a partition."""
        return not any(damage_of([self._file(self._layers[index].name) for index in partition]))
