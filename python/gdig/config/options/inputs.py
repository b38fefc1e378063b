"""Options of the inputs: the model, the pool, the seeds, and how the model's passes run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdig.config.options.basic import Basic

RowFormat = Literal[
    "auto", "translation", "instruction", "completion", "question", "text", "messages", "sharegpt", "tokens", "template"
]


@dataclass(frozen=True)
class DataOptions:
    """What to read, and how a row becomes a prompt and a target."""

    model: Basic[str | None] = None
    """Directory of a causal language model or a PEFT adapter, or its name on the Hugging Face hub. A new run needs a
    model; a run that is continued has its own."""
    base_model: str | None = None
    """Directory of the model that an adapter was trained on, or its name on the Hugging Face hub. The default is the
    base model that the adapter names. Give the option when it lies elsewhere."""
    candidates: Basic[tuple[str, ...]] = ()
    """The pool: files, folders, globs, or datasets on the Hugging Face hub (org/name[:config][/split]). A file
    is JSONL, JSON, CSV, TSV, Parquet or Arrow, also with .gz or .zst. Rows are numbered through the files in the order
    given. The files of a glob or a folder come in sorted order."""
    seeds: Basic[tuple[str, ...]] = ()
    """The small set of excellent examples, in any format of the pool. 64 seeds or more rank a pool well; gdig warns
    below 16."""
    tokenizer: str | None = None
    """Directory of the tokenizer, or its name on the Hugging Face hub. The default is the model's directory. Give the
    option when the tokenizer lies elsewhere."""
    row_format: RowFormat = "auto"
    """Shape of a row: translation, instruction, completion, question, text, messages, sharegpt or tokens. auto detects
    the shape of each file from the fields of its first rows. Name the shape when rows have the fields of several
    shapes."""
    prompt_column: str | None = None
    """Field of a row that is the prompt: text, or a list of turns. A path such as translation.en names a field inside a
    field. By default, the row format says which field it is. Give the option together with completion_column."""
    completion_column: str | None = None
    """Field of a row that is trained on after the prompt: text, or a list of turns. Without prompt_column, the whole
    text is trained on. By default, the row format says which field it is. Give the option when the fields fit no row
    format. A file without the field is read by its own format."""
    conversation_column: str | None = None
    """Field of a row that holds the turns of a conversation. The default is messages, conversations or conversation.
    Give the option when the field has another name."""
    system_column: str | None = None
    """Field of a row with the text of the system. The default is system or system_prompt. Give the option when the
    field has another name."""
    chat_template: bool = True
    """Render rows by the tokenizer's chat template where it has one: prompt and completion become turns of user and
    assistant, as LLaMA-Factory and TRL make them. Rows with a text alone stay as they are. Switch it off when you train
    on plain prompts."""
    chat_template_file: str | None = None
    """File with a Jinja chat template, in place of the tokenizer's. By default, the tokenizer's template is used. Give
    the file that your training uses, where the tokenizer has no template or another one."""
    prompt_template: str | None = None
    """Jinja template that makes the prompt from the fields of a row. By default, the row format has its own template.
    Give both templates when the fields fit no row format."""
    target_template: str | None = None
    """Jinja template that makes the target, which is the text that is trained on. By default, the row format has its
    own template. Give the option together with prompt_template."""
    max_length: int | None = None
    """Longest example in tokens; a longer example loses the left end of its prompt. The default is the model's window.
    Lower it when memory is short."""


@dataclass(frozen=True)
class TrustOptions:
    """Whether code that comes with the model may run."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off by default, because the code can do anything. Switch it on for an
    author whom you trust."""


@dataclass(frozen=True)
class ModelOptions(TrustOptions):
    """How the model's passes run, and which of its layers count."""

    layers: str | None = None
    """Linear layers that count: mlp, attention or all of the blocks; upper:0.25 for the upper quarter of the blocks; or
    both, as in mlp:upper:0.25. The default is mlp:upper:0.25, with at least 4 blocks; for an adapter, all LoRA
    matrices. Nothing runs backward below the lowest layer. Choose mlp to give every block a say; it takes about three
    times as long."""
    filter_modules: str | None = None
    """Regular expression that is searched in the names of the linear modules; the modules that match are the layers.
    The default is the choice of the option layers; with both options, both have to choose a layer. Give it for a choice
    that layers cannot express."""
    gradients: bool = True
    """Make gradients: the influence on the seeds, and the sketches of gradients. Without them a run has no fit, and its
    sweep is a forward pass, which takes about a third of the time. It serves the methods that compare hidden states or
    tokens (rds, knn, dsir, bm25), loss, random, and those that need no seeds."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of weights and activations. auto takes bfloat16 on CUDA and float32 on the CPU, where each is fast.
    Take float32 on CUDA to compare runs of both devices."""
    matmul_precision: Literal["auto", "highest", "high", "medium"] = "auto"
    """How products of float32 numbers are computed, in the words of torch.set_float32_matmul_precision. highest is
    exact float32; high is TensorFloat32 on CUDA. medium is bfloat16 with float32 sums on CPUs that multiply it: 2 to 4
    times as fast, with errors of 0.4 % a term. Take it when time matters more than votes near the threshold. auto is
    highest, but for scores and EK-FAC's rotations of large layers on a CPU that multiplies bfloat16. There it takes
    bfloat16 where low rank and damping hide the rounding. Take highest to compare scores of several chips."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Load the base model's weights in 8 bits (LLM.int8) or 4 bits (NF4), by the package bitsandbytes. none keeps the
    weights exact. Quantize a model that does not fit the GPU."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """An example's loss is the mean or the sum over its target tokens. The mean keeps long examples from counting more.
    Take the same reduction as your training."""
