"""The commands of the command line: what each says of itself, and the options that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from gdig.config import options as o


@dataclass(frozen=True)
class StartOptions:
    """Where options come from that no flag gives: --config, then (without --model) the run in --run-path, then
    --preset."""

    config: str | None = None
    """YAML file of options: names as the flags', with underscores (run_path: runs/a). Flags win over it."""


@dataclass(frozen=True)
class PreviewOptions:
    """What to show."""

    rows: int = 5
    """Candidates to show, from the first on."""


@dataclass(frozen=True)
class MergeOptions:
    """Runs whose sweeps are put together in the directory --run-path: one of them, or a new one."""

    runs: tuple[str, ...] = ()
    """Copies of one fitted run, each swept in part (--sweep-part)."""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare."""

    run: str | None = None
    """Directory of a run; the same as --run-path."""
    methods: tuple[str, ...] = ()
    """Methods to compare, as --method names them. Default: all."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class ScoreNetOptions:
    """Whose pool."""

    run: str | None = None
    """Directory of a swept run; the same as --run-path."""


@dataclass(frozen=True)
class Command:
    """A command: what it says of itself, and the options it takes."""

    summary: str
    example: str
    groups: tuple[type, ...]
    """Option groups; of a group in `only`, the options named there."""
    only: dict[type, tuple[str, ...]] = field(default_factory=dict)

    @property
    def option_groups(self) -> tuple[tuple[type, tuple[str, ...]], ...]:
        """The groups with the names of the options taken from each."""
        return tuple((g, self.only.get(g, tuple(f.name for f in fields(g)))) for g in self.groups)


def _groups_up_to(stage: str) -> tuple[type, ...]:
    needed = {g for s in o.STAGES[: o.STAGES.index(stage) + 1] for g in o.STAGE_GROUPS[s]}
    return (*(g for g in o.GROUPS if g in needed), o.RunOptions)


DATA = "--model models/base --candidates 'pool/*.jsonl' --seeds seeds.jsonl"
COMMANDS = {
    "select": Command(
        "Choose rows of the pool; runs whatever is missing before.",
        f"gdig select {DATA} --budget 500 --run-path runs/a --output selection.jsonl\n"
        "gdig select --run-path runs/a --method top --output top.parquet   # the same sweep, another choice",
        _groups_up_to("select"),
    ),
    "fit": Command(
        "Fit the curvature and precondition the seeds' gradients.",
        f"gdig fit {DATA} --run-path runs/a --fit-rows 5000",
        _groups_up_to("fit"),
    ),
    "sweep": Command(
        "Pass over the pool once: influence on every seed, sketch, loss.",
        f"gdig sweep {DATA} --run-path runs/a --rows-per-shard 16384",
        _groups_up_to("sweep"),
    ),
    "cluster": Command(
        "Group the sketches by k-means.",
        "gdig cluster --run-path runs/a --n-clusters 256   # goes on with the options of the run in runs/a",
        _groups_up_to("cluster"),
    ),
    "compare": Command(
        "Choose by several methods from one sweep, and show the choices side by side.",
        "gdig compare runs/a --budget 500\n"
        "gdig compare runs/a --budget 5% --methods gdig top loss --json > methods.json",
        (CompareOptions, *_groups_up_to("select")),
    ),
    "score-net": Command(
        "Train a copy of the model beside a score net that learns which rows are hard, for self-filter.",
        "gdig score-net runs/a --epochs 3\n"
        "gdig select --run-path runs/a --method self-filter --difficulty runs/a/features/difficulty.npy",
        (ScoreNetOptions, o.TrainOptions, o.SelectOptions, o.RunOptions),
        {
            o.SelectOptions: ("features",),
            o.RunOptions: ("run_path", "device", "gradient_checkpointing", "threads", "quiet"),
        },
    ),
    "preview": Command(
        "Show rows as the model will see them, the masked part marked.",
        f"gdig preview {DATA} --rows 3",
        (PreviewOptions, o.DataOptions, o.ModelOptions, o.RunOptions),
        {o.ModelOptions: ("trust_remote_code",), o.RunOptions: ("run_path", "quiet")},
    ),
    "verify": Command(
        "Read every file of a run and check its sums.",
        "gdig verify --run-path runs/a",
        (o.RunOptions,),
        {o.RunOptions: ("run_path", "quiet")},
    ),
    "merge": Command(
        "Put the shards of a sweep together that several machines have made.",
        "gdig sweep --run-path a --sweep-part 1/2     # on one machine, in a copy of the fitted run\n"
        "gdig sweep --run-path b --sweep-part 2/2     # on another\n"
        "gdig merge a b --run-path whole && gdig select --run-path whole --budget 500",
        (MergeOptions, o.RunOptions),
        {o.RunOptions: ("run_path", "quiet")},
    ),
}
