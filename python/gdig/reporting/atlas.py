"""A table of rows for Embedding Atlas (https://apple.github.io/embedding-atlas): texts, numbers, places in the plane.

embedding-atlas atlas.parquet --text text --x projection_x --y projection_y
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gdig.data.show import row_text
from gdig.reporting.columns import counted_columns, sketches_of
from gdig.reporting.plane import nearest_of_sample, to_plane
from gdig.selection.finished_run import FinishedRun
from gdig.store.atomic import replacing

_SAMPLE = 4_000
"""Rows that are laid out; the others take the place of the nearest of these."""
_CHUNK = 8_192
_TEXT = 2_000


def write_atlas(run: FinishedRun, path: Path) -> None:
    """Write a Parquet file with a line for each valid row, or for a sample of a million.

    Columns: `row`, `text`, `source`, `score` and `agreement` (with influence), `loss`, `tokens`, `cluster` (with
    clusters), `chosen`, `place` (0 if it is not chosen), `projection_x`, `projection_y`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, names = counted_columns(run), run.sweep.sources.names
    values, voters = columns.values, run.sweep.survey.voters
    place = run.chosen.place if run.chosen is not None else {}
    at = np.linspace(0, len(columns.rows) - 1, min(_SAMPLE, len(columns.rows))).astype(np.int64)
    sample = sketches_of(run, columns.rows[at])
    plane = to_plane(sample, run.config.random_seed).layout
    rng = np.random.default_rng(run.config.random_seed)
    with replacing(path) as temporary:
        writer = None
        for start in range(0, len(columns.rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows = columns.rows[chunk]
            nearest = nearest_of_sample(sketches_of(run, rows), sample)
            spots = plane[nearest] + rng.normal(0, 0.01, (len(rows), 2))
            contents = run.work.candidates.take(rows)
            table = {
                "row": rows,
                "text": [_clean(row_text(content, _TEXT)) for content in contents],
                "source": [names[i] for i in columns.source[chunk]],
                **({"score": values["score"][chunk], "agreement": values["votes"][chunk] / voters} if voters else {}),
                "loss": values["loss"][chunk],
                "tokens": values["tokens"][chunk],
                **({"cluster": values["label"][chunk]} if "label" in values else {}),
                "chosen": columns.is_chosen[chunk],
                "place": [place.get(row, 0) for row in rows.tolist()],
                "projection_x": spots[:, 0],
                "projection_y": spots[:, 1],
            }
            batch = pa.table(table)
            writer = writer or pq.ParquetWriter(temporary, batch.schema)
            writer.write_table(batch)
        if writer is not None:
            writer.close()


def _clean(text: str) -> str:
    """Half of a surrogate pair, which Parquet cannot hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
