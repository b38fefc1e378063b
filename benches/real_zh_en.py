"""Does gdig prefer good pairs to spoiled pairs? Measured on real Chinese-English pairs, with a model trained here.

The bench splits the pairs and spoils 30 % of the candidates in four known ways. It trains a tokenizer and a small
Llama, and selects with `gdig select`. It prints how well each score separates clean rows from spoiled rows, how many
rows of each method's choice are clean, and what the run cost. README.md shows these tables. The data are read by path
and are not part of this project:

    python -m benches.real_zh_en --data pairs.json          # a JSON list of src_lang, trg_lang, src_text, trg_text
    python -m benches.real_zh_en --data pairs.json --quick  # a small sample, for a look
    python -m benches.real_zh_en --tables                   # the tables of the record; nothing is measured
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gdig
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.tables import markdown
from benches.zh_en.cosine import gradient_cosines
from benches.zh_en.measure import ALL, auroc_table, read_scores, standard_error
from benches.zh_en.pair_model import Recipe, train_model
from benches.zh_en.pool import CORRUPTIONS, read_pairs, split_pairs, write_jsonl
from gdig.run.layout import RunLayout
from gdig.run.record_file import read_record

RECORD = ROOT / "benches" / "record" / "real_zh_en.json"
METHODS = ("gdig", "top", "diverse", "loss", "random")


@dataclass(frozen=True)
class Setup:
    """What is measured. Every row of the file that is not a training row or a seed is a candidate.

    pairs: the number of the file's pairs that are used (None: all). options: of gdig, where they differ from its
    defaults.
    """

    pairs: int | None = None
    training: int = 0
    seeds: int = 128
    corrupted: float = 0.3
    budget: str = "10%"
    random_seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    options: dict[str, Any] = field(default_factory=dict)


FULL = Setup(training=2000, seeds=64, recipe=Recipe(vocab_size=4096, hidden_size=128, intermediate_size=256, layers=3))
QUICK = Setup(pairs=600, seeds=32, recipe=Recipe(vocab_size=2048, hidden_size=128, intermediate_size=256, layers=2))


def main() -> None:
    """Run the bench, or print that it is skipped because there are no data."""
    arguments = _arguments()
    record_file = arguments.record or (None if arguments.quick else RECORD)
    if arguments.tables:
        print(tables(json.loads((record_file or RECORD).read_text(encoding="utf-8"))))
        return
    if not arguments.data.is_file():
        print(f"real_zh_en: skipped, no file of pairs at {arguments.data}; name one by --data or GDIG_ZH_EN")
        return
    setup = QUICK if arguments.quick else FULL
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(arguments.threads)
    record = {"bench": "real_zh_en", "machine": machine() | {"threads": arguments.threads}, **provenance(ROOT)}
    record |= measure(setup, arguments.data, folder, arguments.threads)
    print(f"\n{tables(record)}")
    if record_file is not None:
        record_file.parent.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nrecorded in {record_file}")


def measure(setup: Setup, data: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Make the inputs and the model in `folder`, run gdig, and return the figures of the record."""
    start = time.monotonic()
    pairs = read_pairs(data)[: setup.pairs]
    split = split_pairs(pairs, setup.training, setup.seeds, setup.corrupted, setup.random_seed)
    for name in ("candidates", "seeds", "training"):
        write_jsonl(folder / f"{name}.jsonl", getattr(split, name))
    learned = "training" if split.training else "candidates"
    print(f"training a model on the {len(getattr(split, learned))} {learned} rows", flush=True)
    trained = train_model(folder / f"{learned}.jsonl", folder / "model", setup.recipe)

    options = {"model": folder / "model", "candidates": folder / "candidates.jsonl", "seeds": folder / "seeds.jsonl"}
    options |= {"budget": setup.budget, "random_seed": setup.random_seed, "threads": threads, **setup.options}
    run = folder / "run"
    command = _command(options | {"run_path": run, "output": folder / "gdig.jsonl"})
    seconds, peak = run_measured(command)
    stages = read_record(RunLayout(run).record).stages
    assert stages.fit is not None and stages.fit.seeds is not None, f"{run}: the fit is not finished"
    assert stages.sweep is not None and stages.sweep.counts is not None, f"{run}: the sweep is not finished"
    assert stages.cluster is not None, f"{run}: the rows are not clustered"

    kinds = np.array([row["corruption"] for row in split.candidates])
    chosen = {}
    for method in METHODS:
        output = folder / f"{method}.jsonl"
        rows = gdig.select(**options, run_path=run, method=method, output=output, quiet=True).rows
        chosen[method] = {kind: int(np.sum(kinds[rows] == kind)) for kind in ("clean", *CORRUPTIONS)}
    print("gradient cosine, the baseline without curvature", flush=True)
    scores = read_scores(run, *gradient_cosines(gdig.Config.build(options)), setup.random_seed)
    n_clean, n_kind = int(np.sum(kinds == "clean")), int(np.sum(kinds == CORRUPTIONS[-1]))
    return {
        "setup": asdict(setup) | {"model_learned_from": learned},
        "rows": {"pairs": len(pairs), **{name: len(rows) for name, rows in vars(split).items()}},
        "pool": {kind: int(np.sum(kinds == kind)) for kind in ("clean", *CORRUPTIONS)},
        "pool_tokens": stages.sweep.counts.tokens,
        "model": trained,
        "auroc": auroc_table(scores, kinds),
        "auroc_noise": {
            ALL: standard_error(n_clean, len(kinds) - n_clean),
            "one kind": standard_error(n_clean, n_kind),
        },
        "chosen": chosen,
        "probe": {name: getattr(stages.fit.seeds, name) for name in ("relative_error", "correlation", "columns")},
        "seconds": {
            "train the model": trained["seconds"],
            "fit": stages.fit.seconds,
            "sweep": stages.sweep.seconds,
            "cluster": stages.cluster.seconds,
            "gdig select, whole command": seconds,
            "bench, in all": time.monotonic() - start,
        },
        "peak_rss_mib": peak,
    }


def run_measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its largest resident memory in MiB, mapped files included."""
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)  # gdig has printed the reason
    return time.monotonic() - start, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tables(record: dict[str, Any]) -> str:
    """The record as markdown; paragraphs are wrapped as in README.md."""
    columns = (ALL, *CORRUPTIONS)
    scores = [[name, *(f"{row[kind]:.3f}" for kind in columns)] for name, row in record["auroc"].items()]
    n_chosen = sum(record["chosen"]["gdig"].values())
    share = record["pool"]["clean"] / sum(record["pool"].values())
    spread = (share * (1 - share) / n_chosen) ** 0.5
    methods = [
        [method, f"{counts['clean'] / sum(counts.values()):.1%}", *(str(counts[kind]) for kind in CORRUPTIONS)]
        for method, counts in record["chosen"].items()
    ]
    pool = ["(the pool)", f"{share:.1%}", *(str(record["pool"][kind]) for kind in CORRUPTIONS)]
    costs = [[name, f"{value:.0f} s"] for name, value in record["seconds"].items()]
    costs.append(["gdig select, peak resident memory", f"{record['peak_rss_mib']:.0f} MiB"])
    noise = record["auroc_noise"]
    return "\n\n".join([
        *map(_wrapped, describe(record)),
        _wrapped(
            "AUROC is the chance that a clean row scores higher than a spoiled row. At 0.5 the score does not separate "
            "them, at 1 it always does, and below 0.5 it prefers the spoiled rows. A score without information "
            f"deviates from 0.5 by {noise[ALL]:.3f} (all four kinds) or {noise['one kind']:.3f} (one kind)."
        ),
        markdown(["AUROC, clean against", *columns], scores),
        _wrapped(
            f"Each method chooses {record['setup']['budget']} of the pool, {n_chosen} rows. The table shows the share "
            "of clean rows among them, and the number of rows of each kind. The share of a random choice deviates "
            f"from the pool's share by {spread:.1%}."
        ),
        markdown(["method", "clean", *CORRUPTIONS], [*methods, pool]),
        _wrapped(_load(record["machine"])),
        markdown(["cost", ""], costs),
    ])  # fmt: skip


def describe(record: dict[str, Any]) -> list[str]:
    """Paragraphs: what was measured, then where and with which versions."""
    rows, model, host, recipe = record["rows"], record["model"], record["machine"], record["setup"]["recipe"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    learned = record["setup"]["model_learned_from"]
    return [
        f"{rows['pairs']} real Chinese-English pairs give {rows['candidates']} candidates "
        f"({record['pool_tokens']} tokens) and {rows['seeds']} clean seeds. "
        f"{sum(record['pool'][kind] for kind in CORRUPTIONS)} candidates are spoiled in four known ways. The model is "
        f"a Llama of {recipe['layers']} layers, {recipe['hidden_size']} wide, with {model['parameters'] / 1e6:.1f}M "
        f"parameters. It is trained from nothing for {recipe['epochs']} epochs on {rows[learned]} {learned} rows; its "
        f"loss in the last epoch is {model['loss']:.2f} nats a token. Options of gdig that differ from its defaults: "
        f"{record['setup']['options'] or 'none'}.",
        f"Machine: {host['cpu']}, {host['cores']} cores, {host['threads']} "
        f"thread{'s' * (host['threads'] != 1)}. Commit {record['commit'][:12]}"
        f"{'+' if record['commit'].endswith('+') else ''}, {record['date']}; {versions}.",
    ]


def _load(host: dict[str, Any]) -> str:
    """How busy the machine was, which the seconds depend on."""
    load, cores = host["load_at_start"], host["cores"]
    if load is not None and load > cores / 2:
        return (
            f"The costs were taken on a busy machine: its load was {load:.1f} on {cores} cores at the start. "
            "A quiet machine takes less time."
        )
    return "The costs were taken on a quiet machine."


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def _command(options: dict[str, Any]) -> list[str]:
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "gdig", "select", *flags]


def _arguments() -> argparse.Namespace:
    default = os.environ.get("GDIG_ZH_EN") or ROOT.parent / "shared" / "data" / "zh-en.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(default), help="pairs (default: $GDIG_ZH_EN, %(default)s)")
    parser.add_argument("--quick", action="store_true", help="measure a small sample and model; record nothing")
    parser.add_argument("--tables", action="store_true", help="print the tables of the record, and measure nothing")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "real_zh_en", help="folder of the inputs and runs"
    )
    parser.add_argument(
        "--record",
        type=Path,
        help="JSON file of the record (default: benches/record/real_zh_en.json; with --quick: none)",
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of the CPU (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
