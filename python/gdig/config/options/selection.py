"""Options of the clusters and of the selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdig.config.options.basic import Basic

Method = Literal[
    "gdig", "turns", "agreement", "less", "round-robin", "bids", "gist", "g2is", "tagcos", "facility", "self-filter",
    "rds", "knn", "dsir", "bm25", "top", "diverse", "loss", "random",
]  # fmt: skip
Quotas = Literal["equal", "proportional", "sqrt"]
Score = Literal["steady", "mean"]
RelevanceName = Literal["influence", "cosine", "less", "hidden", "bm25"]
RelativeTo = Literal["zero", "pool"]
OutputFormat = Literal["messages", "alpaca", "sharegpt", "tokens"]
OUTPUT_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
"""How the name of an output may end, in small or capital letters."""


@dataclass(frozen=True)
class ClusterOptions:
    """k-means over the sketches."""

    n_clusters: Basic[int | None] = None
    """Number of clusters. The default is the 512 of the paper, or the budget in rows where that is smaller. Raise it
    for more variety in a large selection."""
    unit_normalize: bool = True
    """Cluster by direction: sketches and centroids have unit length. On by default: otherwise a few very long gradients
    take most of the clusters. Switch it off to follow the published code."""
    train_rows: int | Literal["all"] | None = None
    """Rows that k-means trains on, drawn by a hash. The default is 1,024 rows a cluster, so that the time does
    not grow with the pool. Give all to train on every row."""
    kmeans_max_iter: int = 25
    """Most Lloyd iterations. The default bounds the time of the fit. Raise it when kmeans_tol is not reached."""
    kmeans_tol: float = 1e-4
    """Share of the inertia by which an iteration must lower it, or the fit stops. The default stops when labels hardly
    change. Raise it to save time on a very large pool."""


@dataclass(frozen=True)
class FeatureOptions:
    """Features of the rows from outside gdig."""

    features: str | None = None
    """.npy or safetensors file of floats [rows of the pool, any], for self-filter and gdig score-net. Rows with a high
    cosine are neighbours, and the score net learns from the features what is hard. The default is the sketches."""


@dataclass(frozen=True)
class MethodOptions:
    """Which method selects."""

    method: Basic[Method] = "gdig"
    """How rows are selected: gdig, turns, agreement, less, round-robin, bids, gist, g2is, tagcos, facility,
    self-filter, rds, knn, dsir, bm25, top, diverse, loss or random. docs/methods.md describes each method. gdig takes
    agreement where the model was tuned on a pool of the seeds' kind, and turns elsewhere; it says which and why. turns
    lets the seeds take turns at rows that help them more than an average row does, spread over the clusters. agreement
    is the published choice: rows that most seeds agree on, drawn evenly from the clusters. less takes the highest
    cosine between Adam's step for a row and the seeds' gradients. round-robin lets the seeds take turns; each takes the
    row most relevant to it. bids takes each row for the seed that gains most. gist takes rows whose gradients point
    along a task's in the space that the seeds span. g2is walks along the seeds' principal gradients from neighbour to
    neighbour. tagcos takes rows that make up each cluster's mean gradient, without the seeds. facility takes rows near
    which the whole pool lies, without the seeds. self-filter takes the hardest rows; each lowers its neighbours. rds
    takes rows whose hidden states are nearest to a seed's, knn draws from the nearest rows of each seed. dsir and bm25
    compare tokens with those of the seeds. The baselines are top (highest score), diverse (clusters only), loss (lowest
    loss) and random."""


@dataclass(frozen=True)
class RuleOptions:
    """How much a method selects, and by which rules."""

    budget: Basic[str] = "10%"
    """How much to select: rows (500), a share of the pool (10%), or tokens (200000t, 1.5Mt). The default suits a first
    look. Take the amount of data that you will train on."""
    tau: Basic[float] = 0.55
    """Least agreement of a row in the method agreement, which gdig may take: the share of the seeds that the row helps.
    At 1, as in the paper, hardly more rows than the budget remain, and the clusters have nothing to choose from. The
    method lowers the threshold, and says so, when too few rows reach it."""
    cluster_discount: float = 0.25
    """What a row loses in the method turns, which gdig may take, for each doubling of its place in its cluster. The
    unit is a standard deviation of the influence. The default spreads a selection at hardly a cost in relevance. Raise
    it for more variety, up to about 1; 0 chooses without clusters."""
    relative_to: RelativeTo = "zero"
    """What a row's influence on a seed is measured from in votes and scores: zero, or the mean influence of the pool on
    that seed. Take pool when the model was not trained on the pool: then almost any row helps, and what tells rows
    apart is whether they help more than the average row."""
    task_field: Basic[str | None] = None
    """Field of a seed's row that names the seed's task. Without it, all seeds are of one task. Name the field to
    balance tasks and to see each row's mean influence on each task."""
    agreement: Literal["seeds", "tasks"] = "seeds"
    """Who votes for a row in the method agreement: each seed, or each task of task_field. A row helps a task when its
    mean influence on the task's seeds is positive. Take tasks when some tasks have many more seeds than others."""
    draw: Literal["random", "score", "gumbel"] = "random"
    """Order of the rows inside a cluster: by a hash, the highest score first, or gumbel, the highest score with noise.
    random keeps variety inside a cluster. Take score when the budget is a few rows a cluster, and gumbel for a choice
    between the two. The method top draws by gumbel too."""
    relevance: RelevanceName = "influence"
    """What the seeds choose by in the method round-robin: the influence; cosine, the influence over the lengths of both
    gradients, which needs sketch_space=fisher; less, the cosines at the training checkpoints; hidden, those of hidden
    states, as rds; or bm25. Take cosine when short or odd rows with long gradients are chosen."""
    score: Score = "steady"
    """How the influences on the seeds become the score of a row. steady is the mean divided by the root mean square,
    from -1 to 1, so that long gradients do not win by length. mean is the plain mean. Take mean when the size of an
    influence counts."""
    over_seeds: Literal["turns", "max", "mean"] = "turns"
    """How relevances to single seeds become an order, in the methods rds and bm25. turns: seeds take turns, and each
    takes the free row that is most relevant to it. max and mean: rows by their greatest or mean relevance. turns serves
    every seed; with task_field the tasks take turns."""
    knn_features: Literal["hidden", "sketch"] = "hidden"
    """What the method knn compares: the sketches of hidden states, which every sweep has, or those of gradients. Take
    sketch to spread by what rows train."""
    knn_density: Literal["kernel", "uniform"] = "kernel"
    """How the method knn spreads a seed's mass over its nearest rows. With kernel (TSDS), near copies share the mass of
    one row. With uniform (KNN-uniform), each row counts as one, and no pairs of rows are compared. Take uniform for
    a large pool without copies, where the pairs cost time."""
    quotas: Quotas = "equal"
    """A cluster's share of the budget: equal for all, or in proportion to its eligible rows or to their square root.
    equal gives the most variety. Take proportional to keep the shape of the pool."""
    checkpoint_weights: tuple[float, ...] = ()
    """Weight of each checkpoint in the method less, in the order of checkpoints. The default is the checkpoint's
    learning rate, averaged over the epoch that ends with the checkpoint. Give weights when that rate is 0 or
    unknown."""
    n_neighbours: int = 10
    """Neighbours of a row by the cosine of the sketches, for the methods g2is, facility and self-filter. A walk of g2is
    goes on to one of them. facility covers a row by those of them that it takes, and a row that self-filter takes
    lowers them. Raise it when walks end early or the selection repeats itself."""
    neighbour_search: Literal["auto", "exact", "clusters"] = "auto"
    """How neighbours are searched: exact compares all pairs of rows, clusters looks into n_probe clusters near each
    row. auto is exact up to 262,144 rows, because the time grows with the square of the rows. clusters measures and
    prints the share of the neighbours that it finds."""
    n_probe: int = 32
    """Clusters that neighbour_search=clusters looks into for each row. The default finds about 90 % of the neighbours
    (LOG.md). Raise it, for more time, when the printed share is low."""
    difficulty: str | None = None
    """.npy file of floats [rows of the pool], higher is harder, for the method self-filter. The default is the loss,
    which costs nothing. gdig score-net trains and writes such a file."""


@dataclass(frozen=True)
class SourceOptions:
    """Where the rows come from, and how much each source gives."""

    source_field: str | None = None
    """Field of a row that names its source: a text or a whole number. By default, the source of a row is its file; a
    row without the field is of its file too. Name the field when one file holds rows of several origins."""
    source_quotas: str | None = None
    """Share of the budget that each source gives: equal, proportional to its rows, or a YAML file of weights by source.
    By default, the method chooses from all sources together. With quotas, it chooses from each source by itself; what a
    source cannot give goes to the others."""


@dataclass(frozen=True)
class RedundancyOptions:
    """What is not chosen, because the selection or an evaluation has it already."""

    repeats: Literal["drop", "keep"] = "drop"
    """Rows with the tokens and labels of an earlier row. drop is the default: they are never chosen. Take keep when
    copies are meant to count more often."""
    max_similarity: float = 1.0
    """Greatest cosine of a chosen row with a row chosen before it; a nearer row is passed over, and the method's next
    one is taken. The default of 1 passes over none. Take 0.9 for a selection without near-copies (DEITA)."""
    similarity_of: Literal["hidden", "sketch"] = "hidden"
    """What max_similarity compares: hidden states, less their mean over the pool, or the sketches of gradients. hidden
    tells whether texts say the same, sketch whether they train the same."""
    exclude: tuple[str, ...] = ()
    """Evaluation sets: files, folders, globs or datasets on the Hugging Face hub, as candidates are. A row of the pool
    is never chosen if it shares 13 words in a row with one of their rows, or is nearly equal. Words of a template do
    not count. excluded.jsonl lists the rows that are left out. Give every set that the trained model is judged by."""
    exclude_similarity: float = 0.9
    """Cosine of the hidden states with a row of an evaluation set above which a row is excluded. The default finds
    about half of the copies of which one word in ten was changed (docs/redundancy.md). Raise it when too many rows are
    excluded; 1 compares words alone, and needs no pass of the model."""


@dataclass(frozen=True)
class OutputOptions:
    """What is written of the selected rows."""

    output: Basic[str | None] = None
    """File of the selected rows, .jsonl, .jsonl.gz or .parquet. The default is selection.jsonl in the run directory.
    Name a file to have several selections of one run."""
    format: Basic[OutputFormat | None] = None
    """Format of the rows that are written: messages, alpaca, sharegpt or tokens, whatever the pool's. The entry for
    LLaMA-Factory is added to dataset_info.json beside the file. By default, rows are written whole, as they are. Name
    the format that the training program reads; tokens are input_ids and labels, exactly as gdig measured the row."""
    plain: Basic[bool] = False
    """Write rows without the field gdig, which tells why each was selected. Off by default. Switch it on when the
    training program refuses a field that it does not know."""


@dataclass(frozen=True)
class ChoiceOptions(FeatureOptions, RedundancyOptions, SourceOptions, RuleOptions):
    """What to select from a finished sweep, by any method."""


@dataclass(frozen=True)
class SelectOptions(OutputOptions, ChoiceOptions, MethodOptions):
    """What to select from a finished sweep. Changing these options costs no model pass."""

    report: bool = True
    """Write report.html into the run directory after the choice: one page that shows what was chosen, and why. It takes
    a second or two for ten thousand rows. Switch it off where nobody will look at it; gdig report makes it later."""
