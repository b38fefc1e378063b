"""Forgeries: files of a run with a right checksum and origin, as somebody writes them who knows the format.

Nothing can tell the numbers of a forgery from those of a run. So the answer may differ; but there is no traceback, and
no hang.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gdig.run.record_file import record_checksum
from gdig.store.tensor_file import read_tensors, write_tensors

_NUMBERS = (0, -1, 1, 2, 10**6, 2**31, 2**53, 10**18, 10**400, -(2**63), 0.0, -0.5, 1e308, 1e-320)
_TEXTS = ("", "x", "../../x", "/etc/passwd", "\x00", "\x1b[2J", "\ud800", "a" * 100_000, "8", "null", "all", "auto")
_OTHERS = (None, True, False, [], {}, [[]], [None], {"a": 1}, [0] * 10_000)
_DTYPES = ("float32", "float16", "float64", "int32", "int64", "uint8", "uint32", "uint64")
_VALUES = (0.0, -1.0, 1.0, 127.0, 4e9, 1e30, np.inf, -np.inf, np.nan)


def forge_tensors(file: Path, rng: Random) -> str:
    """Change a tensor or an entry of the metadata of a tensor file, and return what was done."""
    tensors, metadata = (dict(mapping) for mapping in read_tensors(file))
    if metadata and rng.random() < 0.2:
        key = rng.choice(sorted(metadata))
        if rng.random() < 0.5:
            del metadata[key]
            what = f"metadata {key} dropped"
        else:
            metadata[key] = rng.choice(_TEXTS[:2] + _TEXTS[8:] + ("-1", "18446744073709551615", "[" * 5000, "{}"))
            what = f"metadata {key} = {metadata[key][:20]!r}"
    else:
        name = rng.choice(sorted(tensors))
        tensors, what = _forged(tensors, name, rng)
    write_tensors(file, tensors, metadata)
    return what


def _forged(tensors: dict[str, Any], name: str, rng: Random) -> tuple[dict[str, Any], str]:
    x = np.array(tensors[name])
    kind = rng.randrange(6)
    if kind == 0:
        return {key: value for key, value in tensors.items() if key != name}, f"{name} dropped"
    if kind == 1:
        dtype = rng.choice(_DTYPES)
        with np.errstate(all="ignore"):
            return {**tensors, name: x.astype(dtype)}, f"{name} as {dtype}"
    if kind == 2:
        shapes = [x.reshape(-1), x[None], x[..., None], x[:0], x[:1], x[:-1], x.T, np.concatenate([x, x])]
        at = rng.randrange(len(shapes)) if x.ndim else 0
        return {**tensors, name: shapes[at]}, f"{name} {list(x.shape)} as {list(shapes[at].shape)}"
    value = rng.choice(_VALUES)
    with np.errstate(all="ignore"):
        number = np.array(value).astype(x.dtype)
    if kind == 3 or x.size == 0:
        return {**tensors, name: np.full_like(x, number)}, f"{name} = {value}"
    flat = x.reshape(-1).copy()
    at = rng.randrange(len(flat))
    flat[at] = number
    return {**tensors, name: flat.reshape(x.shape)}, f"{name}[{at}] = {value}"


def forge_record(file: Path, rng: Random) -> str:
    """Change one value of a run.json, and return which."""
    state = json.loads(file.read_text(encoding="utf-8"))
    del state["checksum"]
    places = list(_places(state, []))
    path = rng.choice(places)
    owner: Any = state
    for key in path[:-1]:
        owner = owner[key]
    before = owner[path[-1]]
    alike = _NUMBERS if isinstance(before, (int, float)) and not isinstance(before, bool) else _TEXTS
    new = rng.choice(alike if rng.random() < 0.7 else _NUMBERS + _TEXTS + _OTHERS)
    if isinstance(before, (list, dict)) and rng.random() < 0.5:
        new = before * 2 if isinstance(before, list) else dict(list(before.items())[:-1])
    owner[path[-1]] = new
    text = json.dumps({**state, "checksum": record_checksum(state)})
    file.write_text(text, encoding="utf-8")
    return f"run.json: {'.'.join(map(str, path))} = {str(new)[:30]!r}"


def _places(value: Any, path: list[Any]) -> Iterator[list[Any]]:
    """The paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield [*path, key]
        yield from _places(item, [*path, key])
