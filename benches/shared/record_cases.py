"""A record of several cases, each of which is measured and written by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_case(file: Path, bench: str, name: str, case: dict[str, Any]) -> None:
    """Write a case into a record, beside its other cases.

    Args:
        file: of the record, which need not be there.
        bench: the name of the bench.
        name: of the case.
        case: its values of JSON.
    """
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"bench": bench, "cases": {}}
    record["cases"][name] = case
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_name(f".{file.name}")
    written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    written.replace(file)
    print(f"\n{name}: recorded in {file}", flush=True)
