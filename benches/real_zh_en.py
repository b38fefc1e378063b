"""Does gdig tell good pairs from spoiled ones? Measured on real Chinese-English pairs with a model trained on the spot.

Splits the pairs, spoils 30 % of the candidates in four known ways, trains a tokenizer and a small Llama, selects with
`gdig select`, and prints for each kind how well each score tells clean rows from spoiled ones, how many of the rows
chosen by each method are clean, and what it cost. The data are read by path and are no part of this project:

    python benches/real_zh_en.py --data pairs.json          # a JSON list of src_lang, trg_lang, src_text, trg_text
    python benches/real_zh_en.py --data pairs.json --quick  # a small sample, for a look
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))  # the demo's AUROC and tokenizer serve here too

import torch
from zh_en.cosine import gradient_cosines
from zh_en.measure import ALL, auroc_table, machine, markdown, provenance, read_scores, standard_error
from zh_en.model import Recipe, train_model
from zh_en.pool import CORRUPTIONS, read_pairs, split_pairs, write_jsonl

import gdig

METHODS = ("gdig", "top", "diverse", "loss", "random")


@dataclass(frozen=True)
class Setup:
    """What is measured. Rows of the file that are neither training row nor seed are candidates.

    pairs: how many of the file's are used (None: all). options: gdig's, where they differ from its defaults.
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
    """Run the bench, or say that it is skipped for want of data."""
    arguments = _arguments()
    if not arguments.data.is_file():
        print(f"real_zh_en: skipped, there are no pairs at {arguments.data} (--data, or GDIG_ZH_EN, names the file)")
        return
    setup = QUICK if arguments.quick else FULL
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(arguments.threads)
    record = {"bench": "real_zh_en", "machine": machine() | {"threads": arguments.threads}, **provenance(ROOT)}
    record |= measure(setup, arguments.data, folder, arguments.threads)
    print(f"\n{tables(record)}")
    out = arguments.record or (None if arguments.quick else ROOT / "benches" / "record" / "real_zh_en.json")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nrecorded in {out}")


def measure(setup: Setup, data: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Make inputs and model in `folder`, run gdig, and return what came out."""
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
    stages = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]

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
        "pool_tokens": stages["sweep"]["counts"]["tokens"],
        "model": trained,
        "auroc": auroc_table(scores, kinds),
        "auroc_noise": {
            ALL: standard_error(n_clean, len(kinds) - n_clean),
            "one kind": standard_error(n_clean, n_kind),
        },
        "chosen": chosen,
        "probe": {name: stages["fit"]["seeds"][name] for name in ("relative_error", "correlation", "columns")},
        "seconds": {
            "train the model": trained["seconds"],
            **{name: stages[name]["seconds"] for name in ("fit", "sweep", "cluster")},
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
        raise SystemExit(process.returncode)  # gdig has said why
    return time.monotonic() - start, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tables(record: dict[str, Any]) -> str:
    """The record as markdown."""
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
    return "\n\n".join([
        describe(record),
        "AUROC: the chance that a clean row scores higher than a spoiled one. 0.5 means that the score does not tell "
        "them apart, 1 that it always does, below 0.5 that it prefers the spoiled. A score that knows nothing strays "
        f"from 0.5 by {record['auroc_noise'][ALL]:.3f} ({ALL}) or {record['auroc_noise']['one kind']:.3f} (one kind).",
        markdown(["AUROC, clean against", *columns], scores),
        f"Rows chosen ({record['setup']['budget']} of the pool, {n_chosen} rows): share that is clean, and how many "
        f"of each kind. A random choice strays from the pool's share by {spread:.1%}.",
        markdown(["method", "clean", *CORRUPTIONS], [*methods, pool]),
        markdown(["cost", ""], costs),
    ])  # fmt: skip


def describe(record: dict[str, Any]) -> str:
    """Say in a paragraph what was measured, where and of which commit."""
    rows, model, host, recipe = record["rows"], record["model"], record["machine"], record["setup"]["recipe"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        f"{rows['pairs']} real Chinese-English pairs: {rows['candidates']} candidates "
        f"({record['pool_tokens']} tokens), {sum(record['pool'][kind] for kind in CORRUPTIONS)} of them spoiled, "
        f"and {rows['seeds']} clean seeds. Model: "
        f"a Llama of {recipe['layers']} layers, {recipe['hidden_size']} wide, {model['parameters'] / 1e6:.1f}M "
        f"parameters, trained from nothing for {recipe['epochs']} epochs on the "
        f"{rows[record['setup']['model_learned_from']]} {record['setup']['model_learned_from']} rows "
        f"(last epoch: {model['loss']:.2f} nats a token). Options of gdig besides its defaults: "
        f"{record['setup']['options'] or 'none'}. Machine: {host['cpu']}, {host['cores']} cores, {host['threads']} "
        f"threads, load {host['load_at_start']} at the start. Commit {record['commit'][:12]}"
        f"{'+' if record['commit'].endswith('+') else ''}, {record['date']}; {versions}."
    )


def _command(options: dict[str, Any]) -> list[str]:
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "gdig", "select", *flags]


def _arguments() -> argparse.Namespace:
    default = os.environ.get("GDIG_ZH_EN") or ROOT.parent / "shared" / "data" / "zh-en.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(default), help="pairs (default: $GDIG_ZH_EN, %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small sample and model; nothing is recorded")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "real_zh_en", help="where inputs and runs go")
    parser.add_argument("--record", type=Path, help="JSON file (default: benches/record/; --quick: none)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of the CPU (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
