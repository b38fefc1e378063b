"""What happens after each step of a training: the bar advances, and the training is saved in time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from transformers import TrainerCallback

from gdig.progress import Bar
from gdig.store.resume_file import Pace


class SaveInTime(TrainerCallback):
    """Saves the training at least once an interval, beside the saves after every `save_steps` steps."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._writing: AbstractContextManager[None] = nullcontext()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a save when it is time."""
        control.should_save = control.should_save or self._pace.due()
        if control.should_save:
            self._writing = self._pace.writing()
            self._writing.__enter__()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the measurement of the save."""
        self._writing.__exit__(None, None, None)
        self._writing = nullcontext()


class ShowSteps(TrainerCallback):
    """Advances a bar by each step."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        self._bar.advance(1)
