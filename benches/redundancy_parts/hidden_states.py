"""Planted copies of real rows by the hidden states of a model: recall and false alarms at several cosines."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from benches.redundancy_parts.planted import changes
from gdig.config.config import Config
from gdig.data.corpus import open_corpus
from gdig.passes.influence_pass import make_forward_pass
from gdig.progress import Progress
from gdig.run.session import Workspace
from gdig.selection.centred import unit_float16
from gdig.selection.similar import hold

COSINES = (0.7, 0.8, 0.85, 0.9, 0.95)
MOST_WORDS = 45
PLANTED = 12
"""Copies of each kind."""


def measure_model(model: Path, data: Path, folder: Path, rows: int) -> dict[str, Any]:
    """Pass `rows` rows and their copies through a model, and compare their hidden-state sketches.

    Args:
        model: directory of the model.
        data: .jsonl.gz of rows with `prompt` and `completion`.
        folder: for the files of the pass.
        rows: rows of the pool; half of them are the evaluation set's other side.
    """
    rng = random.Random(0)
    with gzip.open(data, "rt", encoding="utf-8") as lines:
        contents = [json.loads(line) for line in lines]
    short = [c for c in contents if 12 <= len(f"{c['prompt']} {c['completion']}".split()) <= MOST_WORDS]
    short = list({c["prompt"]: c for c in short}.values())
    pool = rng.sample(short, rows)
    words = sorted({word for c in pool for word in c["prompt"].split()})
    kinds = changes(words)
    copies = []
    for kind, change in kinds.items():
        for entry in rng.sample(range(rows), PLANTED):
            copies.append((kind, entry, {**pool[entry], "prompt": change(pool[entry]["prompt"], rng)}))
    file = folder / "pool.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines_out = [{"prompt": c["prompt"], "completion": c["completion"]} for c in [*pool, *(copy[2] for copy in copies)]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines_out), encoding="utf-8")
    config = Config.build(
        {"model": str(model), "candidates": (str(file),), "gradients": False, "run_path": str(folder / "run")}
    )
    work = Workspace(config, Progress())
    examples = work.read_examples(open_corpus([str(file)]))
    hidden = unit_float16(make_forward_pass(work.model, config, work.progress).compute(examples).hidden)
    results: dict[str, Any] = {"rows": rows, "model": model.name, "data": data.name}
    for name, mean in (("less their mean", hidden[:rows].mean(0, dtype=np.float64)), ("as they are", 0.0)):
        x = unit_float16(hidden - mean)
        held, table = hold(x[:rows]), {}
        # Every row beside all others of the pool: none is a copy.
        units = x[:rows].astype(np.float64)
        cosines = units @ units.T
        np.fill_diagonal(cosines, -1)
        for cosine in COSINES:
            nearest, _ = held.nearest(x[rows:], cosine)
            hits = {kind: 0 for kind in kinds}
            for (kind, entry, _), at, vector in zip(copies, nearest.tolist(), x[rows:], strict=True):
                own = float(vector.astype(np.float64) @ x[entry].astype(np.float64))
                hits[kind] += at >= 0 and own > cosine
            alarms = int((cosines.max(1) > cosine).sum())
            table[str(cosine)] = {
                "recall": {kind: hits[kind] / PLANTED for kind in kinds},
                "rows with a false alarm": alarms / rows,
                "pairs with a false alarm": float((np.triu(cosines, 1) > cosine).sum() / (rows * (rows - 1) / 2)),
            }
        results[f"hidden states {name}"] = table
    return results
