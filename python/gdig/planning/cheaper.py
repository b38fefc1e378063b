"""Changes of the options that would make a run cheaper, and what it would take then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from gdig.config.layer_choice import LayerChoice, default_layers, parse_layers
from gdig.model.adapter import is_adapter
from gdig.model.causal_model import Model
from gdig.model.directory import named_directory
from gdig.planning.pass_trial import block_number
from gdig.planning.planner import Planner
from gdig.planning.run_trial import empty_factors
from gdig.planning.stages import Expected, StagePlan

_WORTH = 0.2
"""Share of the time that a change has to save to be named."""
_FIT_TOKENS = (100_000, 50_000, 25_000)
SEEDS = 64
"""Seeds that rank a pool well."""
_UPPER = 0.25
"""Share of the depth that is named as the cheaper choice of layers."""


def cheaper_choices(expected: Expected, planner: Planner, stages: list[StagePlan]) -> Iterator[tuple[str, float]]:
    """Changes that would save a fifth of the time or more, with the seconds of the run after the change."""
    done = {stage.name: stage.done for stage in stages}
    total = sum(stage.left_s for stage in stages)
    config, model = expected.config, expected.model

    def seconds_left(other: Expected) -> float:
        return sum(replace(stage, done=done.get(stage.name, 0.0)).left_s for stage in other.stages())

    def worth(flag: str, other: Expected) -> Iterator[tuple[str, float]]:
        seconds = seconds_left(other)
        if seconds <= (1 - _WORTH) * total:
            yield flag, seconds

    if not config.gradients:
        return
    for tokens in _FIT_TOKENS:
        if tokens < planner.pool.fit_tokens(config):
            fewer = replace(expected, config=config.with_options(fit_tokens=tokens))
            changes = list(worth(f"--fit-tokens {tokens}", fewer))
            yield from changes
            if changes:
                break
    if expected.n_seeds > SEEDS:
        tokens = expected.seed_tokens * SEEDS // expected.n_seeds
        few = replace(planner, seed_examples=planner.seed_examples[:SEEDS])
        fewer = replace(expected, n_seeds=SEEDS, seed_tokens=tokens, seed_partitions=few.seed_partitions(model))
        yield from worth(f"{SEEDS} seeds", fewer)
    choice = parse_layers(config.layers) if config.layers else default_layers(is_adapter(named_directory(config)))
    if config.filter_modules is None and choice.upper > _UPPER:
        upper = _upper_layers(model, choice)
        # What a graph keeps from a layer on is counted for all layers; the upper ones are the last.
        counted = replace(planner.counted, graph=planner.counted.graph[-len(upper.layers) :])
        planner = replace(planner, counted=counted)
        fewer = replace(
            expected,
            model=upper,
            sweep=planner.sweep(upper, empty_factors(upper, expected.rates.kinds, expected.n_seeds)),
            memory=planner.fit(upper),
            seed_partitions=planner.seed_partitions(upper),
        )
        kind = "" if choice.kind == "all" else f"{choice.kind}:"
        yield from worth(f"--layers {kind}upper:{_UPPER:g}", fewer)


def _upper_layers(model: Model, choice: LayerChoice) -> Model:
    """The model with the layers of the upper blocks alone."""
    numbers = block_number(model.layers)
    blocks = round((numbers[-1] + 1) / float(choice.upper))
    first = numbers[-1] + 1 - math.ceil(_UPPER * blocks)
    layers = [layer for layer, number in zip(model.layers, numbers, strict=True) if number >= first]
    return replace(model, layers=layers, compiled=None)
