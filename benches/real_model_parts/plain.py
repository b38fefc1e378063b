"""The plain pass as a command: forward and backward over the rows of a pool, every parameter requiring grad.

    python -m benches.real_model_parts.plain OPTIONS.json

The rows are encoded and batched as gdig does it, and the model computes its own loss.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

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
    work = Workspace(Config.build(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), Progress(quiet=True))
    torch.set_num_threads(work.config.threads or 1)
    examples = work.read_examples(work.candidates)
    module = trainable(AutoModelForCausalLM.from_pretrained(work.config.model, dtype=torch.float32))
    loss = plain_pass(module, rectangles(examples, TOKENS))
    print(f"{len(examples)} rows, {sum(map(len, examples))} tokens, loss {loss:.4f}")


if __name__ == "__main__":
    main()
