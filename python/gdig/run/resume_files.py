"""The resume files of a store that are no longer needed."""

from __future__ import annotations

import contextlib

from gdig.run.resume_layout import resume_folder, seeds_resume_file, shard_resume_file
from gdig.store.sketches import SketchStore


def remove_finished(store: SketchStore) -> None:
    """Remove the resume files of shards that are whole, and of the seeds, which come before all shards.

    A start can end between the two, and a merge adds shards.
    """
    folder = resume_folder(store.path)
    if not folder.is_dir():
        return
    for shard in store.shards:
        shard_resume_file(store.path, shard).unlink(missing_ok=True)
    seeds_resume_file(store.path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other shards are begun
        folder.rmdir()
