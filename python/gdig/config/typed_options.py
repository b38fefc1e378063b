"""The options by name, as the functions of :mod:`gdig.api` take them, so that editors and type checkers know them.

The groups of :mod:`gdig.config.options` define the options. A test compares the names and types here with them. Texts
and lists may be given as :mod:`gdig.config.convert` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict, Union

from gdig.config.options import Method, OutputFormat, Quotas, RelativeTo, RowFormat, Score
from gdig.config.options.selection import RelevanceName

Text: TypeAlias = Union[str, int, float, "PathLike[str]"]
"""A text, or a number or path that stands for its text."""
Texts: TypeAlias = Text | Sequence[Text]
"""A list of texts, or one text."""
Pool: TypeAlias = Text | Iterable[Any]
"""Files, or rows in memory: a Dataset, a DataFrame, an iterable of dicts."""


class Options(TypedDict, total=False):
    """The options of a run; :class:`gdig.Config` says what each does."""

    model: Text | None
    base_model: Text | None
    candidates: Pool
    seeds: Pool
    tokenizer: Text | None
    row_format: RowFormat
    prompt_column: Text | None
    completion_column: Text | None
    conversation_column: Text | None
    system_column: Text | None
    chat_template: bool
    chat_template_file: Text | None
    prompt_template: Text | None
    target_template: Text | None
    max_length: int | None
    trust_remote_code: bool
    layers: Text | None
    filter_modules: Text | None
    gradients: bool
    precision: Literal["auto", "float32", "bfloat16"]
    matmul_precision: Literal["auto", "highest", "high", "medium"]
    quantization: Literal["none", "8bit", "4bit"]
    loss_reduction: Literal["mean", "sum"]
    inversion: Literal["ekfac", "kfac", "identity", "cg"]
    damping_factor: float
    damping_mode: Literal["relative", "absolute", "factored_tikhonov"]
    use_empirical_fisher: bool
    kfac_approx: Literal["expand", "reduce"]
    fit_tokens: int
    cg_rows: int
    cg_iterations: int
    cg_tolerance: float
    seed_energy: float
    seed_rank: int
    probe_rows: int
    projection_dim: int
    projection_side: int
    projection_seed: int
    sketch_space: Literal["auto", "raw", "fisher"]
    hidden_layers: int
    sketch_dtype: Literal["float16", "bfloat16", "int8", "float32"]
    rows_per_shard: int
    checkpoints: Texts
    feature_side: int
    n_clusters: int | None
    unit_normalize: bool
    train_rows: int | Literal["all"] | None
    kmeans_max_iter: int
    kmeans_tol: float
    method: Method
    budget: Text
    tau: float
    cluster_discount: float
    relative_to: RelativeTo
    task_field: Text | None
    agreement: Literal["seeds", "tasks"]
    draw: Literal["random", "score", "gumbel"]
    relevance: RelevanceName
    score: Score
    over_seeds: Literal["turns", "max", "mean"]
    knn_features: Literal["hidden", "sketch"]
    knn_density: Literal["kernel", "uniform"]
    quotas: Quotas
    checkpoint_weights: Sequence[float]
    n_neighbours: int
    neighbour_search: Literal["auto", "exact", "clusters"]
    n_probe: int
    difficulty: Text | None
    source_field: Text | None
    source_quotas: Text | None
    repeats: Literal["drop", "keep"]
    max_similarity: float
    similarity_of: Literal["hidden", "sketch"]
    exclude: Texts
    exclude_similarity: float
    features: Text | None
    output: Text | None
    format: OutputFormat | None
    plain: bool
    report: bool
    random_seed: int
    run_path: Text | None
    quiet: bool
    device: Text
    threads: int | None
    gradient_checkpointing: bool
    grown_clusters: Literal["keep", "again"]
    overwrite: bool
    bad_rows: Literal["error", "skip"]
    device_map: Literal["none", "auto", "balanced", "sequential"]
    token_batch_size: int | Literal["auto"]
    torch_compile: bool
    workers: int | None
    sweep_part: Text | None
    preset: Literal["default", "paper"]


class ScoreNetOptions(Options, total=False):
    """The options of a run and those of training a score net; see :class:`gdig.config.config.Training`."""

    epochs: int
    learning_rate: float
    score_learning_rate: float
    batch_size: int
    accumulate: int
    save_steps: int
    save_model: Text | None


class CompareOptions(Options, total=False):
    """The options of a run and those of the trainings of a comparison; see :class:`gdig.config.config.Trial`."""

    held_out: Text | None
    train_steps: int
    train_batch_size: int
    learning_rate: float
    lora_rank: int
    trainings: int
