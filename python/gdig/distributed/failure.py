"""What each rank raises when one of them fails: the first failure is reported once, and ends all ranks."""

from __future__ import annotations

import json
from typing import Any

from gdig.distributed.heartbeat import Heartbeat, LostRankError
from gdig.distributed.keys import FAILURE
from gdig.errors import GdigError, OtherRankError

_PATIENCE_S = 5.0
"""After a lost connection, the time in which the rank at its other end is found to be lost."""


class Terminated(BaseException):
    """The launcher has asked this process to end (SIGTERM)."""


def report_failure(
    error: BaseException, store: Any, heartbeat: Heartbeat, *, rank: int, speaks_for_node: bool
) -> BaseException:
    """Tell the other ranks that this rank has failed, and return the exception that this rank raises.

    Args:
        error: what this rank met.
        store: a torch.distributed.Store that all ranks share.
        heartbeat: finds lost ranks.
        rank: this rank.
        speaks_for_node: whether this rank prints a message when the store is gone. One rank of each machine does.

    Returns:
        `error`, with the rank's number in its message, when this failure is the first. A LostRankError when the cause
        is a lost rank. OtherRankError, which prints nothing, when another rank has reported a failure.
    """
    if isinstance(error, OtherRankError):
        return error
    status = {KeyboardInterrupt: 130, Terminated: 143}.get(type(error), 2)
    cause = error
    try:
        if not isinstance(error, (GdigError, KeyboardInterrupt, SystemExit)) and not store.check([FAILURE]):
            # A lost rank shows as a broken connection, or in that the launcher ends the other ranks.
            lost = heartbeat.lost_rank(0 if isinstance(error, Terminated) else _PATIENCE_S)
            cause, status = (lost, 2) if lost is not None else (error, status)
        # The first rank to set the key is the one that failed first.
        first = json.loads(store.compare_set(FAILURE, "", json.dumps({"rank": rank, "status": status})))
        if first["rank"] != rank:
            return OtherRankError(first["status"])
    except Exception:  # the store is gone, with the launcher of rank 0 that kept it
        if not speaks_for_node:
            return OtherRankError(status)
        if rank != 0 and not isinstance(cause, (GdigError, KeyboardInterrupt)):
            host = heartbeat.processes[0].host
            return LostRankError(
                f"rank 0 is lost: the launcher on {host}, which keeps the ranks' store, does not answer; "
                "the same command continues from here"
            )
    if isinstance(cause, Terminated):
        return OtherRankError(status)
    if isinstance(cause, GdigError) and rank != 0 and not isinstance(cause, LostRankError):
        cause.args = (f"rank {rank}: {cause}",)
    return cause
