"""The entry of an output in dataset_info.json, from which LLaMA-Factory reads data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gdig.data.conversions import TurnFormat
from gdig.data.export import complete_or_absent, ending_of
from gdig.errors import OutputError

NAME = "dataset_info.json"

_ENTRIES: dict[str, dict[str, Any]] = {
    "alpaca": {
        "formatting": "alpaca",
        "columns": {
            "prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history",
        },
    },
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
    },
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "observation_tag": "tool", "system_tag": "system",
        },
    },
}  # fmt: skip


def check_entries(output: Path, output_format: str) -> None:
    """Raise, before an output is written, if the dataset_info.json that would name it cannot be read.

    Raises:
        CorpusError: if a file of that name is there and is no JSON object.
    """
    ending = ending_of(output)
    if output_format == "tokens" or not (ending is None or ending.endswith(".gz")):
        read_entries(output.with_name(NAME))


def write_entry(output: Path, output_format: TurnFormat) -> Path | None:
    """Name the output in the dataset_info.json of its folder, and return that file. Other entries stay.

    The name of the entry is that of the file, without its ending. None for a .gz file and for an ending in capital
    letters, which LLaMA-Factory does not read.

    Raises:
        CorpusError: if a file of that name is there and is no JSON object, or cannot be written.
    """
    ending = ending_of(output)
    if ending is None or ending.endswith(".gz") or not output.name.endswith(ending):
        return None
    path = output.with_name(NAME)
    entries = read_entries(path)
    entries[output.name.removesuffix(ending)] = {"file_name": output.name, **_ENTRIES[output_format]}
    _write(path, entries)
    return path


def remove_entry(output: Path) -> None:
    """Remove the entry that names the output from the dataset_info.json of its folder, where there is one.

    Raises:
        CorpusError: if a file of that name is there and is no JSON object, or cannot be written.
    """
    path, ending = output.with_name(NAME), ending_of(output)
    entries = read_entries(path)
    name = output.name.removesuffix(ending or "")
    if isinstance(entry := entries.get(name), dict) and entry.get("file_name") == output.name:
        del entries[name]
        _write(path, entries)


def read_entries(path: Path) -> dict[str, Any]:
    """Return the entries of a dataset_info.json; none if there is no such file.

    Raises:
        CorpusError: if the file is no JSON object.
    """
    if not path.exists():
        return {}
    if not path.is_file():  # opening a pipe would wait for its writer
        raise OutputError(f"{path}: expected a file, got something else; name another output folder")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: cannot be read as JSON: {error}; name another output folder") from None
    if not isinstance(entries, dict):
        raise OutputError(f"{path}: expected an object of data sets, got {type(entries).__name__}")
    return entries


def _write(path: Path, entries: dict[str, Any]) -> None:
    with complete_or_absent(path) as temporary:
        text = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # a name that is no UTF-8, as JSON escapes it
