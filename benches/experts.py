"""CPU seconds of a fit and a sweep: a mixture of experts beside a dense model with the same active parameters.

    python -m benches.experts --rows 64      # writes benches/record/experts.json

Both have random weights and see the same random rows. The dense model's MLPs are as wide as the experts of a token
together. The two take turns, and the record has the median of the repeats for each number of rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from benches.shared.machine import ROOT, core_machine
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.causal_model import wrap_model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress

VOCAB = 512
RECORD = ROOT / "benches" / "record" / "experts.json"


def main() -> None:
    """Print the seconds of each stage, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in {
        "experts": 16, "slots": 4, "rows": 64, "seeds": 8, "tokens": 96, "hidden": 256, "width": 128, "blocks": 4
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = [{kind: _stages(args, kind) for kind in ("dense", "experts")} for _ in range(args.repeats)]
    seconds: dict[str, dict[str, float]] = {}
    for stage in runs[0]["dense"]:
        seconds[stage] = {kind: median(run[kind][stage] for run in runs) for kind in ("dense", "experts")}
        dense, experts = seconds[stage].values()
        print(f"{stage:8} dense {dense:7.2f} s   experts {experts:7.2f} s   ratio {experts / dense:.2f}")
    record = json.loads(args.record.read_text()) if args.record.exists() else {}
    sizes = {name: value for name, value in vars(args).items() if name != "record"}
    record[f"{args.rows} rows"] = {"machine": core_machine(), **sizes, "cpu_seconds": seconds}
    args.record.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")


def _stages(args: argparse.Namespace, kind: str) -> dict[str, float]:
    torch.manual_seed(0)
    shared: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": args.hidden, "num_hidden_layers": args.blocks, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
    }  # fmt: skip
    module: Any
    if kind == "dense":
        module = Qwen3ForCausalLM(Qwen3Config(**shared, intermediate_size=args.slots * args.width))
    else:
        module = Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                **shared, intermediate_size=64, moe_intermediate_size=args.width, num_experts=args.experts,
                num_experts_per_tok=args.slots, mlp_only_layers=[], decoder_sparse_step=1, norm_topk_prob=True,
            )
        )  # fmt: skip
    config = Config.build({"device": "cpu", "token_batch_size": 1024})
    model, quiet = wrap_model(module, config), Progress(quiet=True)
    rng = np.random.default_rng(0)
    rows = [_example(rng, args.tokens) for _ in range(args.rows)]
    seeds = [_example(rng, args.tokens) for _ in range(args.seeds)]
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.process_time()
        result = work()
        seconds[name] = time.process_time() - begun
        return result

    keys = np.arange(len(rows), dtype=np.uint64)
    factors, _ = timed("fit", lambda: fit_curvature(model, rows, keys, config, quiet))
    joined, _ = timed("seeds", lambda: precondition_seeds(model, factors, seeds, rows[:4], config, quiet))
    sweep = make_influence_pass(model, joined, config, quiet, factors)
    timed("sweep", lambda: sweep.compute(rows))
    seconds["all"] = sum(seconds.values())
    return seconds


def _example(rng: np.random.Generator, tokens: int) -> Example:
    ids = rng.integers(0, VOCAB, tokens).astype(np.int32)
    return Example(ids, np.where(np.arange(tokens) < tokens // 4, -100, ids).astype(np.int32))


if __name__ == "__main__":
    main()
