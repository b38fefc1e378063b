"""The fit and the scores of another library as a command, over the first rows and seeds of a run of gdig.

    python -m benches.real_model_parts.peers kronfluence|bergson fit|scores OPTIONS.json ROWS SEEDS FOLDER

The layers are those of the run. kronfluence fits its own factors, which its scores read again from the folder. bergson
scores by the seeds' preconditioned gradients of gdig's run, multiplied out: it holds all of them in memory.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benches.libraries import bergson_cpu
from benches.libraries.common import Sorted, discarded
from benches.libraries.kronfluence_cpu import analyzer
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.fit import read_seed_factors
from gdig.progress import Progress
from gdig.run.origin import seeds_origin
from gdig.run.record_file import read_record
from gdig.run.session import Workspace

LINES = 8
"""Examples in a batch of kronfluence, which counts examples, not tokens."""
TOKENS = 512
"""Tokens in a batch of bergson."""


def main() -> None:
    """Do what the arguments say."""
    library, step, options, rows, seeds, folder = sys.argv[1:]
    work = Workspace(Config.build(json.loads(Path(options).read_text(encoding="utf-8"))), Progress(quiet=True))
    torch.set_num_threads(work.config.threads or 1)
    examples = work.read_examples(work.candidates)[: int(rows)]
    with discarded():
        if library == "kronfluence":
            _kronfluence(work, step, examples, work.seed_examples[: int(seeds)], folder)
        else:
            _bergson(work, step, examples, int(seeds), folder)
    print(f"{len(examples)} rows, {sum(map(len, examples))} tokens")


def _kronfluence(work: Workspace, step: str, rows: Sequence[Example], seeds: Sequence[Example], folder: str) -> None:
    names = [layer.name for layer in work.model.layers]
    ready = analyzer(work.model.module, names, folder)
    if step == "fit":
        ready.fit_all_factors("factors", Sorted(rows), per_device_batch_size=LINES, overwrite_output_dir=True)
        return
    ready.compute_pairwise_scores(
        "scores", "factors", Sorted(seeds), Sorted(rows), per_device_query_batch_size=len(seeds),
        per_device_train_batch_size=LINES, overwrite_output_dir=True,
    )  # fmt: skip


def _bergson(work: Workspace, step: str, rows: Sequence[Example], n_seeds: int, folder: str) -> None:
    module, names = bergson_cpu.frozen(work.model.module, [layer.name for layer in work.model.layers])
    if step == "fit":
        bergson_cpu.fit(module, names, rows, TOKENS, folder)
        return
    origin = seeds_origin(read_record(work.layout.record))
    factors = read_seed_factors(work, str(work.model.dtype), origin)
    dense = {}
    for name, f in zip(names, factors, strict=True):
        bounds = f.column_offsets.tolist()[: n_seeds + 1]
        dense[name] = torch.stack([(f.u[:, i:j] @ f.v[:, i:j].T).flatten() for i, j in itertools.pairwise(bounds)])
    bergson_cpu.scores(module, dense, rows, TOKENS)


if __name__ == "__main__":
    main()
