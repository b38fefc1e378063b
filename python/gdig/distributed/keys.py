"""Keys of the store that the launcher keeps, and how a rank waits for a key.

The store is torch.distributed's. Its own `wait` needs a time limit, blocks the connection for the heartbeat, and
handles no signal. So a rank asks for the key again and again, and sleeps in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from gdig.errors import OtherRankError, RunError

PAUSE_S = 0.25
"""Longest sleep between two questions to the store."""
FAILURE = "failure"
"""The first failure: JSON with the rank and the exit status of all ranks."""


def process_key(rank: int) -> str:
    """Host and process id of a rank, as JSON."""
    return f"process/{rank}"


def beat_key(rank: int) -> str:
    """A number that changes while a rank is alive."""
    return f"beat/{rank}"


def activity_key(rank: int) -> str:
    """What a rank does, as text."""
    return f"activity/{rank}"


def end_key(rank: int) -> str:
    """Exists when a rank has ended well."""
    return f"end/{rank}"


def wait_for_key(
    store: Any, key: str, deadline: float | None = None, late: str = "", poll: Callable[[], object] | None = None
) -> None:
    """Return when `key` exists.

    Args:
        store: a torch.distributed.Store.
        key: the key.
        deadline: time.monotonic() at which the wait ends with an error; None: never.
        late: the text of that error.
        poll: called between two questions to the store.

    Raises:
        OtherRankError: when a rank has failed.
        RunError: after the deadline.
    """
    pause = 0.001
    while not store.check([key]):
        if store.check([FAILURE]):
            raise OtherRankError(json.loads(store.get(FAILURE))["status"])
        if poll is not None:
            poll()
        if deadline is not None and time.monotonic() > deadline:
            raise RunError(late)
        time.sleep(pause)
        pause = min(PAUSE_S, 1.5 * pause)
