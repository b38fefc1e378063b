"""Arrays in .npy files, whose headers are read as hostile input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from gdig.errors import StoreError

_READ_HEADER = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def open_npy(path: str | Path) -> NDArray[Any]:
    """Map a .npy file of numbers, read-only.

    Raises:
        StoreError: if the file is absent, no .npy file of numbers, or cut short; the message names the file.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe would wait for its writer
        raise StoreError(f"{path}: expected a .npy file, found none")
    try:
        with path.open("rb") as file:
            version = npy_format.read_magic(file)
            if version not in _READ_HEADER:
                raise ValueError(f"version {version}")
            shape, fortran_order, dtype = _READ_HEADER[version](file)
            offset = file.tell()
            length = path.stat().st_size - offset
    except Exception as error:  # numpy raises many kinds of errors on a damaged header
        raise StoreError(f"{path}: expected a .npy file of numbers: {error}") from None
    if dtype.hasobject or dtype.names is not None or dtype.kind not in "biuf":
        raise StoreError(f"{path}: expected a .npy file of numbers, got {dtype}")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != length:
        raise StoreError(f"{path}: expected {list(shape)} numbers of {dtype.itemsize} bytes, got {length} bytes")
    if length == 0:
        return np.empty(shape, dtype)
    order: Any = "F" if fortran_order else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
