"""The options of gdig in groups, each defined once with its help: CLI flag, YAML key and Python argument of one name.

A group belongs to the first stage whose result it changes (:data:`STAGE_GROUPS`), which is how a run directory knows
what a changed option invalidates. :class:`gdig.config.config.Config` is the union of the groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

RowFormat = Literal["auto", "translation", "instruction", "completion", "messages", "tokens", "template"]
Method = Literal["gdig", "less", "bids", "g2is", "tagcos", "self-filter", "top", "diverse", "loss", "random"]
Quotas = Literal["equal", "proportional", "sqrt"]
Score = Literal["steady", "mean"]


@dataclass(frozen=True)
class DataOptions:
    """What to read, and how a row becomes a prompt and a target."""

    model: str | None = None
    """Directory of a causal language model in Hugging Face format, or of a PEFT adapter."""
    candidates: tuple[str, ...] = ()
    """Pool to choose from: JSONL, JSON list, Parquet, or a `datasets` folder; several files or globs. Row numbers
    count through the files in the order given (a glob's in sorted order)."""
    seeds: tuple[str, ...] = ()
    """The small set of excellent examples, in any of the same formats."""
    tokenizer: str | None = None
    """Directory of the tokenizer. Default: the model's."""
    row_format: RowFormat = "auto"
    """Shape of a row. auto detects it from the fields of the first row."""
    prompt_template: str | None = None
    """Jinja template of the prompt over a row's fields; overrides the built-in one of the row format."""
    target_template: str | None = None
    """Jinja template of the target (the text that is trained on); overrides the built-in one."""
    max_length: int | None = None
    """Longest example, in tokens; a longer one loses the left of its prompt. Default: the model's window."""


@dataclass(frozen=True)
class ModelOptions:
    """How the model's passes run, and which of its layers count."""

    filter_modules: str | None = None
    """Regular expression searched in the names of the linear modules; those that match are the layers. Default: the
    linears of the MLP blocks, or the LoRA matrices of an adapter."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of weights and activations. auto: bfloat16 on CUDA, float32 on the CPU."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How products of float32 numbers are computed, as torch.set_float32_matmul_precision has it. highest: float32.
    high: TensorFloat32 on CUDA. medium: bfloat16 products with float32 sums on CPUs that have them (AMX), 2 to 4 times
    as fast, with errors of 0.4 % of a term."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Load the base model's weights in 8 bits (LLM.int8) or 4 bits (NF4) through bitsandbytes."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """An example's loss over its target tokens."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""


@dataclass(frozen=True)
class CurvatureOptions:
    """The inverse Hessian (K-FAC family) and the sample it is fitted on."""

    inversion: Literal["ekfac", "kfac", "identity", "cg"] = "ekfac"
    """Approximation of the Hessian: EK-FAC (eigenvalue-corrected), K-FAC, or none. cg: of the Gauss-Newton matrix
    itself, over all layers together, by conjugate gradients from EK-FAC's; for the seeds alone, which takes some
    cg_iterations * cg_rows passes a seed."""
    damping_factor: float = 0.1
    """Damping, in units that damping_mode names."""
    damping_mode: Literal["relative", "absolute", "factored_tikhonov"] = "relative"
    """relative: damping_factor times the layer's mean eigenvalue is added to each; absolute: damping_factor itself is;
    factored_tikhonov: its square root is shared between the two Kronecker factors (K-FAC only)."""
    use_empirical_fisher: bool = False
    """Fit on the data's own labels instead of labels drawn from the model (true Fisher)."""
    kfac_approx: Literal["expand", "reduce"] = "expand"
    """How tokens enter the Kronecker factors. expand: each by itself; reduce: an example's tokens summed first."""
    fit_rows: int = 10_000
    """Rows of the pool that the curvature is fitted on, chosen by a seeded hash."""


@dataclass(frozen=True)
class SeedOptions:
    """The preconditioned seed gradients and their low-rank form."""

    cg_rows: int = 1000
    """Rows of the pool whose Gauss-Newton matrix inversion=cg inverts, chosen as fit_rows are."""
    cg_iterations: int = 5
    """Most conjugate gradient iterations, each one product of that matrix with a vector. Few do best (LOG.md)."""
    cg_tolerance: float = 0.01
    """Stop when a seed's residual has fallen to this share of the first, both measured by EK-FAC's inverse."""
    seed_energy: float = 0.99
    """Share of each preconditioned seed gradient's squared norm to keep, per layer; decides its rank."""
    seed_rank: int = 128
    """Cap on that rank."""
    probe_rows: int = 16
    """Pool rows on which the factored scores are compared with the exact ones (the error is printed)."""


@dataclass(frozen=True)
class SweepOptions:
    """The sketch, and how the sweep's result is stored."""

    projection_dim: int = 512
    """Columns of a sketch."""
    projection_side: int = 32
    """Each layer's gradient is first projected to projection_side x projection_side by two Rademacher matrices."""
    projection_seed: int = 0
    """Seed of the projections."""
    sketch_space: Literal["raw", "fisher"] = "raw"
    """What is projected: the gradient itself, or (fisher) the gradient times the square root of the inverse curvature,
    so that inner products of sketches stand for influence between rows. Costs nothing in the sweep."""
    sketch_dtype: Literal["float16", "bfloat16", "int8", "float32"] = "float16"
    """Number format of the stored sketches (int8: with one float32 scale a row)."""
    rows_per_shard: int = 16_384
    """Rows of the pool in one file of the sweep, the unit of progress and resume."""


@dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints of a training run, for methods less and g2is. Each costs a pass over the pool of its own; one that is
    added later, or left out, leaves the rest of the run as it is."""

    checkpoints: tuple[str, ...] = ()
    """Directories that transformers' Trainer or accelerate saved: a model or adapter, and Adam's state (optimizer.pt,
    optimizer.bin, or moments by name in optimizer.safetensors). less scores by all of them, g2is walks by the last."""
    feature_side: int = 64
    """Each layer's gradient is projected to at most feature_side x feature_side for the cosines; a side that is no
    longer is kept as it is. The seeds' take feature_side^2 numbers a seed and layer in memory."""


@dataclass(frozen=True)
class ClusterOptions:
    """k-means over the sketches."""

    n_clusters: int | None = None
    """Number of clusters. Default: 512, or the budget in rows if that is smaller."""
    unit_normalize: bool = True
    """Cluster by direction: sketches and centroids scaled to unit length (spherical k-means). Off: Euclidean distance
    of the sketches as they are, in which a few very long gradients get most clusters to themselves."""
    train_rows: int | Literal["all"] | None = None
    """Rows that k-means trains on, chosen by a seeded hash. Default: 1,024 a cluster."""
    kmeans_max_iter: int = 25
    """Most Lloyd iterations."""
    kmeans_tol: float = 1e-4
    """Stop when an iteration lowers the inertia by less than this share."""


@dataclass(frozen=True)
class SelectOptions:
    """What to choose from a finished sweep; changing these costs no model pass."""

    method: Method = "gdig"
    """gdig: agreement of the seeds, then even draws from the clusters. less: the highest cosine between Adam's step for
    the row and the seeds' gradients, over the checkpoints. bids: each row for the seed that gains most.
    g2is: walks along the seeds' principal gradients from neighbour to neighbour. tagcos: rows that make up each
    cluster's mean gradient, without the seeds. self-filter: the hardest rows, each of which lowers its neighbours.
    Baselines: top (highest score), diverse (clusters only), loss (lowest loss), random."""
    budget: str = "10%"
    """How much to choose: rows (500), a share of the pool (10%), or tokens (200000t, 1.5Mt)."""
    tau: float = 0.55
    """Least agreement (share of the seeds a row helps); lowered, and said so, only when too few rows reach it. At 1, as
    in the paper, hardly more rows than the budget are left, and the clusters have nothing to choose from."""
    task_field: str | None = None
    """Field of a seed's row that names its task. Methods that balance tasks do so by it; every chosen row tells the
    mean influence on each task."""
    agreement: Literal["seeds", "tasks"] = "seeds"
    """Who votes for a row in method gdig: every seed, or every task (of task_field), which a row helps when its mean
    influence on the task's seeds is positive."""
    draw: Literal["random", "score"] = "random"
    """Order of the rows inside a cluster: a seeded hash, or the highest score first."""
    score: Score = "steady"
    """What a row's influence on the seeds comes to. steady: its mean over the root of its mean square, -1 to 1, which
    orders rows as mean over standard deviation does and does not ask how long their gradients are. mean: the mean."""
    quotas: Quotas = "equal"
    """A cluster's share of the budget: the same for all, or in proportion to its eligible rows or their square root."""
    checkpoint_weights: tuple[float, ...] = ()
    """What each of the checkpoints counts for in method less, in their order. Default: its learning rate, the mean of
    the epoch that ends with it."""
    n_neighbours: int = 10
    """Neighbours of a row, by the cosine of the sketches: where a walk of g2is goes next, and the rows that a chosen
    one of self-filter lowers."""
    neighbour_search: Literal["auto", "exact", "clusters"] = "auto"
    """exact: every row is compared with every other; clusters: with the rows of n_probe clusters near its own, of as
    many as the square root of the rows, and the share of the neighbours that this finds is measured and said; auto:
    exact up to 262,144 rows."""
    n_probe: int = 32
    """Clusters that neighbour_search=clusters looks into for each row: more find more of its neighbours, in as much
    more time."""
    difficulty: str | None = None
    """.npy file [rows of the pool] of floats, higher is harder, for self-filter, such as gdig score-net leaves.
    Default: the loss."""
    features: str | None = None
    """.npy or safetensors file [rows of the pool, any] of floats whose cosines say what is a neighbour to self-filter,
    and from which gdig score-net learns what is hard. Default: the sketches."""
    output: str | None = None
    """Where the chosen rows go, .jsonl or .parquet. Default: selection.jsonl in the run directory."""


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run. These do not change what is computed beyond rounding, and may change between starts."""

    run_path: str | None = None
    """Run directory: everything computed is kept there, and the same command goes on where it stopped. Given without
    model, the run's own options hold, but for those of the choice itself (method, budget, tau, draw, output)."""
    overwrite: bool = False
    """Start over from the first stage whose configuration or input differs; from the beginning when none does."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do with a candidate that cannot be used (missing field, empty text, no target token): stop, or mark it
    invalid, count it, and never choose it. Seeds always stop."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda, cuda:N."""
    device_map: Literal["none", "auto", "balanced", "sequential"] = "none"
    """Spread one model's layers over several GPUs (and the CPU's memory), by the package accelerate: for a model that
    does not fit one GPU."""
    token_batch_size: int | Literal["auto"] = "auto"
    """Tokens, padding included, in one batch of the model. Halved by itself when CUDA memory runs out. auto: 8192 on
    the CPU; on CUDA what a trial says fits, and kept for the rest of the run."""
    gradient_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them: far less memory for a third
    more time. Switched on by itself when one example alone does not fit."""
    torch_compile: bool = False
    """Compile the model's pass with torch.compile, once for all shapes of batches; on CUDA record it as CUDA graphs.
    For small models, whose time goes into launches. The first batch then takes up to a minute, torch needs a C++
    compiler, all layers' activations and gradients of a batch are in memory at once, and scores agree with those
    without it to rounding."""
    workers: int | None = None
    """Processes that tokenise ahead of the model pass. Default: none on the CPU, whose cores the model needs; up to 4 a
    GPU."""
    threads: int | None = None
    """CPU threads of torch and of the Rust core. Default: all."""
    sweep_part: str | None = None
    """Which shards gdig sweep makes, as K/N (1/4 to 4/4): every N-th from the K-th on. For machines without a common
    disk: each sweeps a part in its copy of the fitted run, and gdig merge puts the shards together. Default: all."""
    quiet: bool = False
    """Print errors and nothing else."""


@dataclass(frozen=True)
class TrainOptions:
    """How gdig score-net trains. No stage depends on it."""

    epochs: int = 1
    """Passes over the pool. A model that has seen a row often knows it by heart, however hard it is; pools of less than
    some thousand rows need several all the same."""
    learning_rate: float = 2e-5
    """Of the model, at its highest: it rises over 3 % of the steps and falls to 0 as a cosine does."""
    score_learning_rate: float = 0.01
    """Of the score net, by the same schedule: a step changes the logarithm of a row's weight by at most about so much.
    The order of the difficulties hardly depends on it; how unevenly the model learns from the rows does."""
    batch_size: int = 16
    """Rows in a batch, which are weighed against each other; at least 2."""
    accumulate: int = 1
    """Batches that make up one step of the optimizer, each with weights of its own."""
    save_steps: int = 500
    """Steps from one checkpoint to the next: what an interrupted training may lose. A checkpoint of all weights takes
    12 bytes each, and two are kept until the end."""
    save_model: str | None = None
    """Directory for the trained model, which must not be there. Default: the model is not kept."""


@dataclass(frozen=True)
class RandomOptions:
    """The one source of randomness."""

    random_seed: int = 0
    """Seed of every draw: curvature sample, drawn labels, k-means, selection."""


GROUPS: tuple[type, ...] = (
    DataOptions,
    ModelOptions,
    CurvatureOptions,
    SeedOptions,
    SweepOptions,
    CheckpointOptions,
    ClusterOptions,
    SelectOptions,
    RandomOptions,
    RunOptions,
)

STAGES = ("fit", "sweep", "cluster", "select")
"""Stages in order; each depends on the ones before it."""

STAGE_GROUPS: dict[str, tuple[type, ...]] = {
    "fit": (DataOptions, ModelOptions, CurvatureOptions, SeedOptions, RandomOptions),
    "sweep": (SweepOptions, CheckpointOptions),
    "cluster": (ClusterOptions,),
    "select": (SelectOptions,),
}
"""Options that a stage's result depends on, beside those of the stages before it. RunOptions belong to none."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The choices of the published G-DIG code. Its layers depend on the architecture, so filter_modules is
    # resolved when the model is known (gdig.model.layers).
    "paper": {
        "inversion": "kfac",
        "damping_factor": 0.5,
        "damping_mode": "factored_tikhonov",
        "use_empirical_fisher": True,
        "kfac_approx": "reduce",
        "loss_reduction": "mean",
        "seed_energy": 1.0,
        "seed_rank": 32,
        "max_length": 256,
        "tau": 1.0,
        "unit_normalize": False,
    },
}
