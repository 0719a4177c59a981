"""Before the store is read or changed: wait until it has what this process and its children logged, not for ever."""

from __future__ import annotations

from trainspool.complaints import warn
from trainspool.others import others
from trainspool.stream import stream

WAIT_S_MAX = 10.0

_told_at: list[tuple[int, int]] = []


def settle() -> bool:
    """Wait until the store has what this process logged; whether it has. If not, what is missing is told, once.

    What the processes that it began have logged is waited for, too, for a while: see ``others``.
    """
    if stream.configured().disabled:
        return True
    behind = others.behind()
    is_settled = _settle_own()
    others.wait(behind)
    return is_settled


def _settle_own() -> bool:
    if stream.pump is None:
        return True
    comes = stream.agent.is_coming(stream.configured())
    if stream.wait(WAIT_S_MAX if comes else 0.0):
        return True
    now = (stream.generation, stream.ring.end)
    if _told_at != [now]:
        _told_at[:] = [now]
        if comes:
            warn("the store has not all that this process logged, after %g s; what is there is read", WAIT_S_MAX)
        else:
            warn(
                "no agent carries to the store what this process logged, so what is there is read. "
                "Next: pip install 'trainspool[agent]', or trainspool sync"
            )
    return False
