"""The plain pass as a command: forward and backward over the rows of a pool, every parameter requiring grad.

The rows are encoded and batched as gdig does it, and the model computes its own loss.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM

from benches.sweep_parts.plain_passes import plain_pass, rectangles, trainable
from gdig.config.config import Config
from gdig.progress import Progress
from gdig.run.session import Workspace

TOKENS = 1024
"""Tokens of a batch. More of them gain nothing on a CPU, and take memory."""


def main() -> None:
    """Pass over the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "candidates", "seeds", "run-path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = {name: getattr(arguments, name) for name in ("model", "run_path")}
    options |= {"candidates": (arguments.candidates,), "seeds": (arguments.seeds,)}
    work = Workspace(Config.build(options), Progress(quiet=True))
    encoded = work.encoder.encode(work.candidates, range(len(work.candidates)))
    examples = [example for example in encoded if not isinstance(example, Exception)]
    module = trainable(AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32))
    loss = plain_pass(module, rectangles(examples, TOKENS))
    print(f"{len(examples)} rows, {sum(map(len, examples))} tokens, loss {loss:.4f}")


if __name__ == "__main__":
    main()
