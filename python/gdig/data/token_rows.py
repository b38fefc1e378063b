"""Rows that hold tokens and labels instead of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gdig.data.row_forms import RowError

IGNORED = -100
"""Label of a position without loss."""


def checked_tokens(row: Mapping[str, Any], vocab_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a row's `input_ids` and `labels` as int32 [T] each.

    Raises:
        RowError: naming the field. A field may be missing, empty, of other values than whole numbers, or out of range.
            The lengths may differ, the labels may be shifted by one, or the row may be padded.
    """
    top = (vocab_size or 1 << 31) - 1
    columns = []
    for field, lowest in (("input_ids", 0), ("labels", IGNORED)):
        values = row.get(field)
        if values is None:
            raise RowError(f"field {field!r} is missing or null; the row has: {', '.join(row) or 'no field'}")
        if not isinstance(values, list) or not set(map(type, values)) <= {int}:
            raise RowError(f"field {field!r}: expected a list of whole numbers")
        if not values:
            raise RowError(f"field {field!r} is empty, expected at least one number")
        for bad in (min(values), max(values)):
            if not (0 <= bad <= top or bad == lowest):
                allowed = f"0 to {top}" + (f" or {IGNORED}" if lowest else "")
                raise RowError(f"field {field!r}: {bad} at position {values.index(bad)} is out of range ({allowed})")
        columns.append(np.array(values, dtype=np.int32))
    input_ids, labels = columns
    if len(input_ids) != len(labels):
        raise RowError(f"field 'labels': expected as many as input_ids ({len(input_ids)}), got {len(labels)}")
    negative = (labels < 0) & (labels != IGNORED)
    if negative.any():
        at = int(np.flatnonzero(negative)[0])
        raise RowError(f"field 'labels': {labels[at]} at position {at} is out of range (0 to {top} or {IGNORED})")
    labelled = np.flatnonzero(labels != IGNORED)
    shifted = labelled[labelled < len(labels) - 1]
    differs = (labels[labelled] != input_ids[labelled]).any()
    if differs and len(shifted) > 1 and (labels[shifted] == input_ids[shifted + 1]).all():
        raise RowError("field 'labels': shifted by one against input_ids; expected labels[t] == input_ids[t]")
    mask = row.get("attention_mask")
    if isinstance(mask, list) and 0 in mask:
        raise RowError("field 'attention_mask': the row is padded (it holds 0); give the row without padding")
    return input_ids, labels
