"""Until the store has what this process logged: what a read waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from trainspool import autostart
from trainspool.others import others
from trainspool.stream import stream

READ_WAIT_S = 60.0
OTHERS_WAIT_S = 2.0  # for a run that another process has begun: the agent carries it within a fraction of this
_POLL_S = 0.01

Found = TypeVar("Found")


def settle() -> None:
    """Return once the store has everything this process logged before; what its children logged, too, in WAIT_S.

    Raises:
        MlflowException: it has not, and no agent is coming, or none comes in time. What was logged is in the spool.
    """
    behind = others.behind()
    _settle_own()
    others.wait(behind)


def _settle_own() -> None:
    if stream.wait(0):
        return
    if not stream.agent.is_coming(stream.configured()):
        raise _late("no agent runs here and none is started", "trainspool daemon, or trainspool sync")
    if not stream.wait(READ_WAIT_S):
        raise _late(
            f"the agent has not carried it within {READ_WAIT_S:g} s", f"trainspool status, and {autostart.log_path()}"
        )


def in_time(look: Callable[[], Found | None]) -> Found | None:
    """Return what *look* finds, now or as soon as the agent has carried what another process wrote."""
    deadline = time.monotonic() + OTHERS_WAIT_S
    while (found := look()) is None and time.monotonic() < deadline and autostart.is_running():
        time.sleep(_POLL_S)
    return found


def _late(what: str, next_step: str) -> MlflowException:
    return MlflowException(
        f"what this process logged is not in the store yet: {what}. Kept: everything, in the spool. Next: {next_step}",
        TEMPORARILY_UNAVAILABLE,
    )
