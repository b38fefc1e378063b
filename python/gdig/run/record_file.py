"""run.json: a record is written with its checksum, and read as hostile input."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gdig.config.convert import describe
from gdig.config.options.sweep import SweepOptions
from gdig.errors import RecordError
from gdig.run.record import FORMAT, Growth, RunRecord, Stages, SweepRecord
from gdig.store.atomic import replacing

_CHECKSUM = "checksum"
_MOST_SHARDS = 1_000_000
"""A record that asks for more shards is damaged: to look for them would take minutes."""
_MOST_BYTES = 64 << 20
"""The largest file: a fingerprint of an input file takes some hundred bytes."""
_MOST_NESTED = 64
"""The deepest nesting of a record."""

# What a stage that is done must have recorded.
_FACTS = {
    "fit": ("seeds", "layers", "coverage", "dtype"),
    "sweep": ("rows", "scale", "counts"),
    "cluster": ("n_clusters",),
    "select": ("rows", "output"),
}
# Facts of a fit that a run without gradients lacks.
_OF_GRADIENTS = ("seeds", "coverage")


def write_record(file: Path, record: RunRecord) -> None:
    """Write a run.json, complete or not at all, with its checksum. A number that is not finite is written as null."""
    with replacing(file) as temporary:
        value = plain(record)
        text = json.dumps({**value, _CHECKSUM: record_checksum(value)}, indent=1, ensure_ascii=False, allow_nan=False)
        # The name of a file may have bytes that are no UTF-8. JSON escapes them as backslashreplace does.
        temporary.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))


def read_record(file: Path) -> RunRecord:
    """Read a run.json.

    Raises:
        RecordError: naming the file and the key. The file is no JSON, or has another format or checksum. A key is
            unknown or missing, a value has another type, or a name cannot be that of a file.
    """
    if not file.is_file():  # opening a pipe would wait for its writer
        raise RecordError(f"{file}: not a run.json: expected a file")
    if (size := file.stat().st_size) > _MOST_BYTES:
        raise RecordError(f"{file}: not a run.json: expected at most {_MOST_BYTES:,} bytes, got {size:,}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{file}: not a run.json: {error}") from None
    if _depth(value) > _MOST_NESTED:
        raise RecordError(f"{file}: not a run.json: its values lie more than {_MOST_NESTED} deep")
    if not isinstance(value, dict) or "format" not in value:
        raise RecordError(f"{file}: not a run.json: expected an object with the key 'format'")
    if value["format"] != FORMAT:
        raise RecordError(
            f"{file}: expected format {FORMAT}, got {value['format']!r:.200}; another version of gdig made this run, "
            "which can continue it"
        )
    if (recorded := value.pop(_CHECKSUM, None)) != (computed := record_checksum(value)):
        raise RecordError(
            f"{file}: checksum: expected {computed}, got {recorded!r:.200}: the file was damaged, or changed by hand; "
            "put back a copy of it, or use another --run-path"
        )
    record: RunRecord = _decode(RunRecord, value, str(file))
    try:
        date.fromisoformat(record.date)
    except ValueError:
        raise RecordError(f"{file}: date: expected a day as 2026-01-31, got {record.date!r:.200}") from None
    try:
        _check(record.stages)
        _check_growth(record)
    except ValueError as error:
        raise RecordError(f"{file}: stages: {error}") from None
    return record


def _check(stages: Stages) -> None:
    """Check what the types do not say, so that no later code has to. Raise ValueError that names the key."""
    # Methods without clusters need no cluster stage.
    for earlier, name in (("fit", "sweep"), ("sweep", "cluster"), ("sweep", "select")):
        if getattr(stages, name) is not None and getattr(stages, earlier) is None:
            raise ValueError(f"{name}: expected a record of the stage {earlier} before it, got none")
    for name, facts in _FACTS.items():
        stage = getattr(stages, name)
        if stage is not None and stage.state == "done":
            for fact in facts:
                without_gradients = fact in _OF_GRADIENTS and stage.config.get("gradients") is False
                if getattr(stage, fact) is None and not without_gradients:
                    raise ValueError(f"{name}: {fact}: expected a value, because the stage is done, got null")
    if stages.fit is not None:
        for layer in stages.fit.layers or ():
            _check_name("fit: layers", layer)
    if stages.sweep is not None:
        _check_sweep(stages.sweep)


def _check_sweep(sweep: SweepRecord) -> None:
    for name in ("rows_per_shard", "projection_dim"):
        number = sweep.config.get(name)
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number < 2**31:
            raise ValueError(f"sweep: config: {name}: expected a whole number of at least 1, got {number!r}")
    dtypes, dtype = _hints(SweepOptions)["sketch_dtype"], sweep.config.get("sketch_dtype")
    if dtype not in get_args(dtypes):
        raise ValueError(f"sweep: config: sketch_dtype: expected {describe(dtypes)}, got {dtype!r}")
    per_shard, rows, scale = sweep.config["rows_per_shard"], sweep.rows, sweep.scale
    if rows is not None and not 1 <= rows <= _MOST_SHARDS * per_shard:
        raise ValueError(f"sweep: rows: expected 1 to {_MOST_SHARDS:,} shards of rows, got {rows} rows")
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"sweep: scale: expected a number above 0, got {scale!r}")
    for key in sweep.checkpoints:
        _check_name("sweep: checkpoints", key)
    for key in sweep.checkpoint_order:
        if key not in sweep.checkpoints:
            raise ValueError(f"sweep: checkpoint_order: no checkpoint {key!r:.200} in the record")


def _check_growth(record: RunRecord) -> None:
    """Check that each step of growth has files and rows after those of the step before."""
    sweep, files = record.stages.sweep, len(record.inputs.get("candidates", {}))
    if sweep is None:
        return
    rows, before = sweep.rows or 0, Growth(0, 0)
    for growth in sweep.growth:
        if not (before.files < growth.files < files and before.first_row < growth.first_row <= rows):
            raise ValueError(
                f"sweep: growth: expected files and rows that rise to {files} and {rows}, "
                f"got {growth.files} and {growth.first_row} after {before.files} and {before.first_row}"
            )
        before = growth


def _check_name(where: str, name: str) -> None:
    """Check a name that becomes the name of a file or a folder: it must not leave the run directory."""
    size = len(name.encode("utf-8", "replace"))
    if not name.isprintable() or not 0 < size <= 200 or re.search(r"[/\\]", name) or name in (".", ".."):
        raise ValueError(f"{where}: expected a name of up to 200 bytes without a slash, got {name!r:.300}")


def record_checksum(value: Any) -> str:
    """Return the checksum of a run.json's content without the checksum itself: 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def plain(value: Any) -> Any:
    """Return a record, or a value of one, as JSON holds it: a number that is not finite is null."""
    if isinstance(value, Stages):
        return {f.name: plain(stage) for f in fields(value) if (stage := getattr(value, f.name)) is not None}
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _depth(value: Any) -> int:
    """How deep the values of a JSON value lie, found without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(hint: Any, value: Any, where: str) -> Any:
    """Return the JSON `value` as a value of type `hint`, or raise RunError that names the key."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _decode_dataclass(hint, value, where)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in args:
            return None
        (hint,) = (arg for arg in args if arg is not types.NoneType)
        return _decode(hint, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _decode(args[1], item, f"{where}: {key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal and value in args:
        return value
    if hint is float and value is None:
        return math.nan
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        return float(value)
    # Python 3.10 calls list[str] a type too; its origin is not None.
    plain = origin is None and isinstance(hint, type)
    if plain and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = "an object" if origin is dict else "a list" if origin is tuple else describe(hint)
    raise RecordError(f"{where}: expected {expected}, got {value!r:.200}")


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected an object, got {value!r:.200}")
    names = [f.name for f in fields(kind)]
    if unknown := [key for key in value if key not in names]:
        raise RecordError(f"{where}: unknown key {unknown[0]!r:.200}; another version of gdig made this run")
    if kind is Stages:
        names = [name for name in names if name in value]
    if missing := [name for name in names if name not in value]:
        raise RecordError(f"{where}: key {missing[0]!r} is missing; another version of gdig made this run")
    return kind(**{name: _decode(_hints(kind)[name], value[name], f"{where}: {name}") for name in names})
