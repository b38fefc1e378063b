"""The methods of choosing from one finished sweep. One file a method; `METHODS` names them."""

from __future__ import annotations

from collections.abc import Sequence

from gdig.config.config import Config
from gdig.errors import NeedsError
from gdig.selection.checkpoint_weights import no_checkpoints
from gdig.selection.method import FinishedSweep, MethodSpec
from gdig.selection.methods import facility, g2is, self_filter
from gdig.selection.methods.agreement import agreement
from gdig.selection.methods.bids import bids
from gdig.selection.methods.bm25 import bm25
from gdig.selection.methods.diverse import diverse
from gdig.selection.methods.dsir import dsir
from gdig.selection.methods.gdig import gdig, rule_for
from gdig.selection.methods.gist import gist
from gdig.selection.methods.knn import knn, no_sketches
from gdig.selection.methods.less import less
from gdig.selection.methods.loss import loss
from gdig.selection.methods.random import random
from gdig.selection.methods.rds import rds
from gdig.selection.methods.round_robin import NO_GRADIENTS, round_robin
from gdig.selection.methods.tagcos import tagcos
from gdig.selection.methods.top import top
from gdig.selection.methods.turns import turns
from gdig.selection.pick import fewest_rows
from gdig.selection.relevance import no_metric, sketches_are_of_the_metric

METHODS: dict[str, MethodSpec] = {
    "gdig": MethodSpec(gdig, ordered=True, clusters=True, decide=rule_for),
    "turns": MethodSpec(turns, ordered=True, nested=True, clusters=True),
    "agreement": MethodSpec(agreement, clusters=True),
    "less": MethodSpec(less, ordered=True, nested=True, checkpoints=True),
    "round-robin": MethodSpec(round_robin, ordered=True, nested=True),
    "bids": MethodSpec(bids, ordered=True),
    "gist": MethodSpec(gist, ordered=True),
    "g2is": MethodSpec(g2is.g2is, ordered=True, neighbours=g2is.asked),
    "tagcos": MethodSpec(tagcos, ordered=True, clusters=True, gradients=False),
    "facility": MethodSpec(facility.facility, ordered=True, nested=True, neighbours=facility.asked, gradients=False),
    "self-filter": MethodSpec(
        self_filter.self_filter, ordered=True, nested=True, neighbours=self_filter.asked, gradients=False
    ),
    "rds": MethodSpec(rds, ordered=True, nested=True, gradients=False),
    "knn": MethodSpec(knn, ordered=True, nested=True, gradients=False),
    "dsir": MethodSpec(dsir, ordered=True, nested=True, gradients=False, tokens=True),
    "bm25": MethodSpec(bm25, ordered=True, nested=True, gradients=False, tokens=True),
    "top": MethodSpec(top, ordered=True, nested=True),
    "diverse": MethodSpec(diverse, clusters=True, gradients=False),
    "loss": MethodSpec(loss, ordered=True, nested=True, gradients=False),
    "random": MethodSpec(random, gradients=False),
}
"""By the name that the option `method` knows them by (gdig.config.options.Method)."""


def needs_gradients(name: str, config: Config) -> bool:
    """Whether a method needs a sweep with gradients. By hidden states or words, round-robin needs none."""
    return METHODS[name].gradients and not (name == "round-robin" and config.relevance in NO_GRADIENTS)


def needs_tokens(name: str, config: Config) -> bool:
    """Whether a method reads the token files."""
    return METHODS[name].tokens or (name == "round-robin" and config.relevance == "bm25")


def needs_checkpoints(name: str, config: Config) -> bool:
    """Whether a method reads the sweeps of training checkpoints."""
    return METHODS[name].checkpoints or (name == "round-robin" and config.relevance == "less")


def allowed_methods(sweep: FinishedSweep, config: Config) -> list[str]:
    """Return the methods whose needs a sweep meets (`unmet_need`), with as many rows as a row has neighbours.

    Args:
        sweep: of the rows that may be chosen.
        config: options of the run.
    """
    rows = fewest_rows(sweep, config)
    searched = config.with_options(features=None)  # with features, self-filter takes its neighbours from these
    return [
        name
        for name, method in METHODS.items()
        if unmet_need(name, config, bool(sweep.checkpoints)) is None
        and (config.n_neighbours < rows or not method.neighbours(searched))
    ]


def unmet_need(name: str, config: Config, has_checkpoints: bool) -> NeedsError | None:
    """Return the error of a method whose needs a run does not meet; None where it meets them.

    Args:
        name: of the method.
        config: options of the run.
        has_checkpoints: whether training checkpoints are swept, or will be.
    """
    by_seeds = name == "round-robin"
    if needs_gradients(name, config) and not config.gradients:
        others = ", ".join(other for other, method in METHODS.items() if not method.gradients)
        return NeedsError(
            f"method={name!r}: expected one of {others}, or round-robin with relevance=hidden or bm25, "
            "because this run has no gradients (gradients=False); "
            "give one of these, or sweep with gradients into another run_path"
        )
    if needs_checkpoints(name, config) and not has_checkpoints:
        return no_checkpoints("relevance" if by_seeds else "method")
    if by_seeds and config.relevance == "cosine" and not sketches_are_of_the_metric(config.to_dict()):
        return no_metric()
    if name == "knn" and config.knn_features == "sketch" and not config.gradients:
        return no_sketches()
    return None


def require_needs(methods: Sequence[str], config: Config, has_checkpoints: bool) -> None:
    """Raise what `unmet_need` says of the first of the methods whose needs the run does not meet."""
    for name in methods:
        if (error := unmet_need(name, config, has_checkpoints)) is not None:
            raise error
