"""Every file of a run against its checksum."""

from __future__ import annotations

from pathlib import Path

from gdig.errors import StoreError
from gdig.run.directory import require_run
from gdig.run.layout import FileGroup, RunLayout
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import verify_file


def verify_run(path: Path) -> list[str]:
    """Read every file of a run directory; return lines that say what was read.

    Raises:
        ConfigError: when the directory holds no run.
        StoreError: naming every file that is damaged or missing.
    """
    layout = RunLayout(path)
    record = require_run(layout, "run_path")
    return [line for group in layout.files_of(record) if (line := _verify(group))]


def _verify(group: FileGroup) -> str:
    """Verify the files of a group: those that must be there, and others of an unfinished stage. Return what to say."""
    if missing := group.missing():
        more = f", and {len(missing) - 1} more files of {group.name}" if len(missing) > 1 else ""
        raise StoreError(f"{missing[0]}: is missing{more}")
    if group.store:
        if not SketchStore.exists(group.folder):
            return ""
        report = SketchStore.open(group.folder).verify()
        return f"{group.name}: {report.shards} shards, {report.rows:,} rows, {report.bytes:,} bytes, sound"
    files = sorted({*group.folder.glob("*.safetensors"), *(file for file in group.files if file.is_file())})
    for file in files:
        verify_file(file)
    return f"{group.name}: {len(files)} files, {sum(f.stat().st_size for f in files):,} bytes, sound" if files else ""
