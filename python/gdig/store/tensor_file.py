"""Tensor files: one safetensors file with a checksum, complete or absent, that may say what it was made from.

A file is compared with its checksum when a process first reads it, and not again while it stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.errors import StoreError

MADE_FROM = "made_from"
"""The key of the metadata that says what a file was made from."""

State = Literal["missing", "damaged", "foreign"]

Value = TypeVar("Value")


_KINDS = {"float": "f", "int": "iu"}
"""NumPy's letters of types, by the word for them."""


class Damage(NamedTuple):
    """A file that cannot be used. what: the file, and what is wrong with it."""

    state: State
    what: str


class Named(dict[str, Value], Generic[Value]):
    """The tensors, or the metadata, of a file by name. A name that is not there is a StoreError of the file."""

    def __init__(self, path: str | Path, what: str, values: Mapping[str, Value]) -> None:
        super().__init__(values)
        self._path, self._what = path, what

    def __missing__(self, name: str) -> Value:
        names = ", ".join(sorted(self)[:20]) or "none"
        raise StoreError(f"{self._path}: {self._what} {name!r}: expected it in the file, which holds {names}")

    def shaped(self, sizes: Mapping[str, int] | None = None, /, **dimensions: str) -> dict[str, int]:
        """Check the types and shapes of tensors: `x="float n d"` expects a tensor `x` of floats with two dimensions.

        Args:
            sizes: the numbers behind some of the words.
            dimensions: the type and the dimensions of each tensor, by its name. The type is "float", "int" or the name
                of one. A dimension is a number, or a word that stands for the same number in all tensors.

        Returns:
            The number behind each word.

        Raises:
            StoreError: if a tensor is absent, or of another type or shape.
        """
        numbers = dict(sizes or {})
        for name, words in dimensions.items():
            tensor = np.asarray(cast(Any, self[name]))
            (kind, *expected), shape = words.split(), tensor.shape
            if tensor.dtype.kind not in _KINDS.get(kind, "") and tensor.dtype.name != kind:
                raise StoreError(f"{self._path}: tensor {name!r}: expected {kind}, got {tensor.dtype.name}")
            numbers.update({word: int(word) for word in expected if word.isdigit()})
            if len(shape) != len(expected) or any(
                numbers.setdefault(word, n) != n for word, n in zip(expected, shape, strict=True)
            ):
                by_word = {word: numbers[word] for word in expected if word in numbers and not word.isdigit()}
                raise StoreError(
                    f"{self._path}: tensor {name!r}: expected the shape [{', '.join(expected)}], got {list(shape)}"
                    + (f" with {', '.join(f'{word}={n}' for word, n in by_word.items())}" if by_word else "")
                )
        return numbers


def check_offsets(path: Path, name: str, offsets: NDArray[Any], count: int) -> None:
    """Check the tensor `name` of a file: whole numbers that rise from 0 to `count`, one behind each of some lists.

    Raises:
        StoreError: if they do not.
    """
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != count or (offsets[1:] < offsets[:-1]).any():
        raise StoreError(f"{path}: {name}: expected ascending numbers from 0 to {count}")


@dataclass(frozen=True)
class CheckedFile:
    """A tensor file that says what it was made from.

    path: of the file. made_from: what its content depends on, and its place, as its writer says it. A file that was
    made from something else is refused, and so is a damaged one. A file that says nothing has an empty `made_from`.
    """

    path: Path
    made_from: str = ""

    def write(self, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
        """Write the file, complete or not at all (see :func:`write_tensors`)."""
        origin = {MADE_FROM: self.made_from} if self.made_from else {}
        write_tensors(self.path, tensors, {**(metadata or {}), **origin})

    def read(self) -> tuple[Named[NDArray[Any]], Named[str]]:
        """Read the tensors and the metadata.

        Raises:
            StoreError: if the file is absent, damaged or made from something else.
        """
        return read_tensors(self.path, self.made_from)

    def damage(self) -> Damage | None:
        """Return what is wrong with the file; None for a sound one."""
        return damage_of([self])[0]

    def remove(self) -> None:
        """Remove the file where it is there."""
        self.path.unlink(missing_ok=True)


def damage_of(files: Iterable[CheckedFile | Path]) -> list[Damage | None]:
    """Compare files with their checksums, on several threads: what is wrong with each, or None.

    Of a path alone, the origin is not compared.
    """
    pairs: list[tuple[PathLike[str], str | None]] = [
        (file.path, file.made_from) if isinstance(file, CheckedFile) else (file, None) for file in files
    ]
    return [None if damage is None else Damage(*cast(Any, damage)) for damage in _native.damage_of(pairs)]


def write_tensors(
    path: str | Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file with a checksum, complete or not at all.

    Args:
        path: the file; missing parent folders are made.
        tensors: arrays of float16/32/64, int8/32/64 or uint8/32/64; bool becomes uint8. An array that is not
            C-contiguous is copied.
        metadata: strings to store beside the tensors.

    Raises:
        StoreError: if the file cannot be written; then there is no new file.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    _native.write_tensors(path, contiguous(tensors), dict(metadata or {}))


def contiguous(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return each tensor as a C-contiguous array. A C-contiguous array is not copied."""
    return {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}


def read_tensors(path: str | Path, made_from: str | None = None) -> tuple[Named[NDArray[Any]], Named[str]]:
    """Read and verify a file that :func:`write_tensors` or a store wrote.

    NumPy lacks bfloat16, so a bfloat16 tensor is returned as the uint16 of its bits.

    Args:
        path: the file.
        made_from: what the file is to be made from; None accepts any.

    Returns:
        The tensors and the metadata, each by name. A name that the file lacks is a StoreError.

    Raises:
        StoreError: if the file is absent or damaged, or made from something else; the message names the file and what
            is wrong.
    """
    tensors, metadata = _native.read_tensors(path, made_from)
    return Named(path, "tensor", tensors), Named(path, "metadata", metadata)


def verify_file(path: str | Path) -> int:
    """Read one file and compare its checksum.

    Returns:
        The length of the file in bytes.

    Raises:
        StoreError: if the file is absent or damaged; the message names the file and the damage.
    """
    return _native.verify_file(path)
