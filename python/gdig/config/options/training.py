"""Options of gdig score-net."""

from __future__ import annotations

from dataclasses import dataclass

from gdig.config.options.basic import Basic


@dataclass(frozen=True)
class TrainOptions:
    """How gdig score-net trains. No stage depends on these options."""

    epochs: Basic[int] = 1
    """Passes over the pool. One pass is the default, because a model that saw a row often knows it, however hard the
    row is. Pools below some thousand rows need several passes."""
    learning_rate: float = 2e-5
    """Highest learning rate of the model. The rate rises over 3 % of the steps and then falls to 0 as a cosine. Take
    the rate of your own training."""
    score_learning_rate: float = 0.01
    """Highest learning rate of the score net, on the same schedule. A step changes the logarithm of a row's weight by
    about this much at most. The rate hardly changes the order of the difficulties; it decides how unevenly the model
    learns from the rows."""
    batch_size: Basic[int] = 16
    """Rows in a batch, at least 2, because the score net weighs the rows of a batch against each other. Larger batches
    weigh more finely. Lower it when memory is short."""
    accumulate: int = 1
    """Batches in one step of the optimizer; each batch has its own weights. The default takes a step a batch. Raise it
    when memory allows small batches only."""
    save_steps: int = 500
    """Steps between two saved states. A state is also saved once a minute, or every two minutes where saving takes
    long. So an interrupted training loses one or two minutes. A state of all weights takes 12 bytes a weight, and two
    stay until the end. Raise it when the disk is slow."""
    save_model: Basic[str | None] = None
    """Directory for the trained model, which must not exist yet. By default the model is not saved. Give the option to
    use the model itself."""
