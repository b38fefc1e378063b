"""Counter-based random numbers: the n-th number of a named stream is the same on every device and in any order.

The generator is Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). GPU kernel
languages have it built in, so a kernel can make the same numbers in registers.
"""

from __future__ import annotations

import hashlib

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def stream_key(*names: object) -> int:
    """The 64-bit key of a stream, from the text of its names: 1 and "1" give the same key."""
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def philox(key: int, n: int, start: int = 0) -> np.ndarray:
    """The words `start` .. `start + n - 1` of stream `key`: uint32 [n]. Word 4c + l is lane l of counter c."""
    first, last = start // 4, -(-(start + n) // 4)
    counter = np.arange(first, last, dtype=np.uint64)
    x = [counter & _LOW, counter >> _SHIFT, np.zeros_like(counter), np.zeros_like(counter)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        left, right = x[0] * _MULTIPLIERS[0], x[2] * _MULTIPLIERS[1]
        x = [
            (right >> _SHIFT) ^ x[1] ^ np.uint64(k[0]),
            right & _LOW,
            (left >> _SHIFT) ^ x[3] ^ np.uint64(k[1]),
            left & _LOW,
        ]
        k = [(k[0] + _WEYL[0]) & 0xFFFFFFFF, (k[1] + _WEYL[1]) & 0xFFFFFFFF]
    words = np.stack(x, axis=1).astype(np.uint32).reshape(-1)
    return words[start - 4 * first :][:n]


def rademacher(key: int, rows: int, columns: int) -> np.ndarray:
    """Signs of stream `key`: float32 [rows, columns] of +-1.

    Entry (i, j) is bit j % 32 of word i * ceil(columns / 32) + j // 32; a set bit means -1.
    """
    words = philox(key, rows * -(-columns // 32)).reshape(rows, -1)
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")[:, :columns]
    return 1.0 - 2.0 * bits.astype(np.float32)


def uniform(key: int, n: int) -> np.ndarray:
    """Numbers of stream `key` in (0, 1): float64 [n], the middles of the intervals between multiples of 2^-32."""
    return (philox(key, n).astype(np.float64) + 0.5) / 2.0**32


def sparse_map(key: int, n: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """A sparse JL map n -> dim with one +-1 for each input (count sketch, Charikar et al. 2002).

    Returns:
        columns: int64 [n] in 0..dim-1. signs: float32 [n] of +-1.
    """
    words = philox(key, 2 * n).astype(np.uint64)
    columns = (words[:n] * np.uint64(dim)) >> _SHIFT
    signs = 1.0 - 2.0 * (words[n:] & np.uint64(1)).astype(np.float32)
    return columns.astype(np.int64), signs
