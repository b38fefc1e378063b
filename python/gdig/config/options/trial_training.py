"""Options of the short trainings of gdig compare."""

from __future__ import annotations

from dataclasses import dataclass

from gdig.config.options.basic import Basic


@dataclass(frozen=True)
class TrialOptions:
    """How gdig compare --train trains. No stage depends on these options."""

    held_out: Basic[str | None] = None
    """File of rows that judge the trainings. They are of the kind that the model shall be good at. They must be neither
    in the pool nor among the seeds: a loss on the seeds flatters every method that reads them."""
    train_steps: int = 100
    """Steps of the optimizer, the same for every method, however many rows it selected. Rows come again when they are
    used up. Raise it until the losses settle."""
    train_batch_size: int = 8
    """Rows in a step. Lower it when memory is short."""
    learning_rate: float = 2e-4
    """Highest learning rate. It falls to 0 as a line. Take about 2e-5 where all weights are trained (lora_rank=0)."""
    lora_rank: int = 16
    """Rank of the LoRA adapter on all linear layers that is trained, with lora_alpha of twice the rank. 0 trains all
    weights. A model that is an adapter already trains its own weights instead."""
    trainings: int = 1
    """Trainings of each method, which differ in the order of the rows and the start of the adapter. Raise it to see how
    much of a difference is chance."""
