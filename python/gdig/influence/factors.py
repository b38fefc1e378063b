"""The curvature of one layer: Kronecker factors, their eigenvectors and eigenvalues, and the file that holds them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from gdig.errors import NotFiniteError, StoreError
from gdig.model.layers import Layer
from gdig.store.tensor_file import CheckedFile, Named

WIDE = 1024
"""Width from which on a factor is factored in its own dtype."""


@dataclass
class Factors:
    """The curvature of one layer with J inputs (with the constant input of a bias) and O outputs.

    Attributes:
        q_a: [J, J], the eigenvectors of A in columns, in the dtype of the sums. A is q_a diag(l_a) q_a^T.
        q_s: [O, O], the eigenvectors of S in columns, in the same dtype.
        l_a: float64 [J], the eigenvalues of A, >= 0.
        l_s: float64 [O], the eigenvalues of S, >= 0.
        corrected: [O, J], the eigenvalues of EK-FAC, or None.
        tokens: the number of tokens in the sums.
        examples: the number of examples in the sums.
        reduce: whether the factors are averages over examples (kfac_approx "reduce") or over tokens ("expand").
        seen: the tokens in the sums that the layer saw: all of them, or those of an expert.
        shared: whether the factors are those of the mean expert of the block (`gdig.influence.expert_moments`).
    """

    q_a: torch.Tensor
    q_s: torch.Tensor
    l_a: torch.Tensor
    l_s: torch.Tensor
    corrected: torch.Tensor | None
    tokens: int
    examples: int
    reduce: bool
    seen: int = 0
    shared: bool = False

    def eigenvalues(self) -> torch.Tensor:
        """Return L, float64 [O, J]: the mean per-example Hessian in the eigenbasis.

        L is `corrected`, or else the outer product of l_s and l_a, times the number of tokens an example.
        """
        if self.corrected is not None:
            return self.corrected.double()
        per_example = 1.0 if self.reduce else self.tokens / self.examples
        return torch.outer(self.l_s, self.l_a) * per_example

    def save(self, file: CheckedFile, layer: str) -> None:
        """Write one file, complete or not at all. `layer` is the name of the layer."""
        names = ("q_a", "q_s", "l_a", "l_s") + (() if self.corrected is None else ("corrected",))
        tensors = {name: getattr(self, name).cpu().numpy() for name in names}
        counts = {"tokens": self.tokens, "examples": self.examples, "reduce": int(self.reduce)}
        counts |= {"seen": self.seen, "shared": int(self.shared)}
        file.write(tensors, {"layer": layer, **{name: str(value) for name, value in counts.items()}})

    @classmethod
    def load(cls, file: CheckedFile, layer: Layer) -> Factors:
        """Read the file of a layer that `save` wrote.

        Raises:
            StoreError: when it is missing or damaged, of something else, or holds no curvature of this layer.
        """
        return cls.of(file.path, *file.read(), layer)

    @classmethod
    def of(cls, path: Path, arrays: Named[NDArray[Any]], metadata: Named[str], layer: Layer) -> Factors:
        """Make the curvature of a layer of the content of the file `path`.

        Raises:
            StoreError: when it is no curvature of this layer.
        """
        corrected = {"corrected": "float O J"} if "corrected" in arrays else {}
        shapes = {"q_a": "float J J", "q_s": "float O O", "l_a": "float64 J", "l_s": "float64 O", **corrected}
        arrays.shaped({"J": layer.width, "O": layer.out_features}, **shapes)
        counts = [metadata[name] for name in ("tokens", "examples")]
        if not all(re.fullmatch(r"[1-9][0-9]{0,17}", count) for count in counts):
            raise StoreError(f"{path}: tokens and examples: expected whole numbers of at least 1, got {counts}")
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", metadata["seen"]):
            raise StoreError(f"{path}: seen: expected a whole number of tokens, got {metadata['seen']!r}")
        tensors = {name: torch.tensor(arrays[name]).to(layer.device) for name in shapes}
        return cls(
            q_a=tensors["q_a"],
            q_s=tensors["q_s"],
            l_a=tensors["l_a"],
            l_s=tensors["l_s"],
            corrected=tensors.get("corrected"),
            tokens=int(counts[0]),
            examples=int(counts[1]),
            reduce=metadata["reduce"] == "1",
            seen=int(metadata["seen"]),
            shared=metadata["shared"] == "1",
        )


def eigenbasis(x: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute eigenvectors and eigenvalues of a symmetric matrix.

    A matrix narrower than `WIDE` is factored in float64. A wider one is factored in its own dtype, because float64
    takes 2.5 times as long on a CPU, and minutes on a GPU. With u the unit roundoff of the dtype, LAPACK's result is
    exact for a matrix that differs from x by n u |x|. Its vectors are orthogonal up to n u. Against the damping, a
    tenth of the mean eigenvalue, that is nothing; and EK-FAC measures its eigenvalues in the basis that it gets.

    Args:
        x: [n, n].
        layer: the name of the layer, for errors.

    Returns:
        The eigenvectors [n, n] in columns, in the dtype of x; and the eigenvalues, float64 [n], >= 0.

    Raises:
        ModelError: if a number of x is not finite.
    """
    if not bool(torch.isfinite(x).all()):
        raise NotFiniteError(
            f"{layer}: expected finite sums over the sample, but the sum of its inputs or gradients is not finite; "
            "check the model's weights, or set precision=float32"
        )
    work = x if len(x) >= WIDE else x.double()
    values, vectors = torch.linalg.eigh((work + work.T) / 2)
    # A file returns the eigenvectors row by row. The same layout here gives products the same order of sums.
    return vectors.to(x.dtype).contiguous(), values.double().clamp(min=0)
