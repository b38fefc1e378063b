"""Options of a start: where the run lies, and on what it is computed; the random number; the preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gdig.config.options.basic import Basic


@dataclass(frozen=True)
class PlaceOptions:
    """The run directory."""

    run_path: Basic[str | None] = None
    """Run directory, which holds everything that is computed."""
    quiet: bool = False
    """Print errors and nothing else. Off by default. Switch it on in scripts."""


@dataclass(frozen=True)
class DeviceOptions:
    """What computes."""

    device: Basic[str] = "auto"
    """Device of the model: auto, cpu, cuda or cuda:N. auto takes CUDA where there is a GPU. Name a device to share a
    machine."""
    threads: int | None = None
    """CPU threads of torch and of the Rust core. The default is every core. Lower it beside other work; the result is
    the same."""
    gradient_checkpointing: bool = False
    """Compute the activations of each block again in the backward pass instead of storing them. Needs far less memory
    and a third more time, so gdig switches it on only for an example that does not fit. Switch it on for larger
    batches."""


@dataclass(frozen=True)
class GrowthOptions:
    """What happens to a finished run when files are appended to its candidates."""

    grown_clusters: Literal["keep", "again"] = "keep"
    """Clusters of a pool that has grown. keep: those of the files that the run began with, to which new rows are
    assigned; so earlier selections stay comparable. again: k-means over all rows. Take again when the appended rows are
    of another kind."""


@dataclass(frozen=True)
class RunOptions(GrowthOptions, DeviceOptions, PlaceOptions):
    """Where and how to run. These options change results by rounding at most, and may differ from start to start."""

    run_path: Basic[str | None] = None
    """Run directory, which holds everything that is computed; the same command continues it. Without the option model,
    the run's own options hold, except for those of the selection."""
    overwrite: bool = False
    """Start again from the first stage whose options or inputs differ, or from the beginning when none differs. Off by
    default, because it deletes results. Switch it on when a changed option is meant."""
    bad_rows: Literal["error", "skip"] = "error"
    """What a candidate that cannot be used does: stop the run, or be counted and never selected. error is the default,
    because a missing field is often a wrong row format. A seed that cannot be used always stops the run."""
    device_map: Literal["none", "auto", "balanced", "sequential"] = "none"
    """Spread the layers of one model over several GPUs and the CPU's memory, by the package accelerate. none is fastest
    for a model that fits one GPU. Take auto for a larger model."""
    token_batch_size: int | Literal["auto"] = "auto"
    """Tokens in one batch of the model, padding included. auto plans what 60 % of the free memory holds, up to 512 on
    the CPU, where larger batches are no faster. gdig halves the size when CUDA memory runs out; give a number to plan
    for yourself."""
    torch_compile: bool = False
    """Compile the model's pass with torch.compile for all shapes of batches, and record it as CUDA graphs on CUDA. Off
    by default: the first batch takes up to a minute, and all activations of a batch stay in memory. Switch it on for
    small models, whose time goes into launches; scores change by rounding."""
    workers: int | None = None
    """Processes that tokenize ahead of the model pass. The default is none on the CPU, whose cores the model needs, and
    up to 4 a GPU. Raise it when the GPU waits for rows."""
    sweep_part: str | None = None
    """Shards that this sweep makes, as K/N: every N-th shard from the K-th on. The default is all shards. Machines
    without a common disk each sweep a part in a copy of the fitted run; gdig merge joins the parts."""


@dataclass(frozen=True)
class RandomOptions:
    """The one source of randomness."""

    random_seed: int = 0
    """Random number that decides every draw: fitted rows, drawn labels, k-means, selection. The same number gives the
    same result. Change it to see how much a selection depends on the draws."""


@dataclass(frozen=True)
class PresetOptions:
    """A set of defaults."""

    preset: Basic[Literal["default", "paper"]] = "default"
    """Set of defaults: gdig's own, or those of the published G-DIG code. Options that are given win over the preset.
    Take paper to repeat the paper."""
