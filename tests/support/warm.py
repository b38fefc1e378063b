"""What every command of gdig imports and prepares in a process of its own, done once in the server it is forked from.

Nothing here computes with torch, so the server has no threads.
"""

from __future__ import annotations

import contextlib
import importlib

from gdig.cli.commands import COMMANDS
from gdig.cli.flags import parse

_MODULES = (
    "gdig.api", "gdig.cli.main", "gdig.data.in_memory", "gdig.data.sample", "gdig.data.template_file",
    "gdig.data.tokens", "gdig.model.load", "gdig.showing", "datasets", "pyarrow.parquet", "torch.distributed.run",
    "transformers.models.auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3_moe.modeling_qwen3_moe",
)  # fmt: skip
for _name in _MODULES:
    importlib.import_module(_name)

# tyro imports most of itself when it parses.
parse("select", COMMANDS["select"], [], {})

# transformers 5 compiles the names of every family's weights, and keeps them.
with contextlib.suppress(ImportError):
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
