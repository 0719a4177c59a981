"""How far artifacts are on their way into a store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from trainspool_agent.store.state import Expected
from trainspool_agent.store.transfer import Transfer

RATE_WINDOW_S = 5.0


class Done(NamedTuple):
    """What came to its place."""

    artifacts: int = 0
    bytes: int = 0


class Progress(NamedTuple):
    """How far it is since nothing was on its way last; *rate* in bytes a second, of the last seconds.

    Attributes:
        waiting: artifacts that are not in their place.
        path: of the one that is being copied, or of the next one.
    """

    waiting: int
    bytes: int
    done_bytes: int
    rate: float
    path: str

    @property
    def remaining_s(self) -> float | None:
        return (self.bytes - self.done_bytes) / self.rate if self.rate else None


class Meter:
    """Counts what came, and tells how far the rest is."""

    def __init__(self) -> None:
        self.published = self._idle_at = Done()
        self._moved: deque[tuple[float, int]] = deque()  # when, and what was there by then

    def came(self, size: int) -> None:
        """An artifact of that size is in its place."""
        self.published = Done(self.published.artifacts + 1, self.published.bytes + size)

    def progress(self, waiting: Sequence[Expected], copying: Transfer | None) -> Progress | None:
        """Return how far it is, None if nothing is waiting. Ask every second or so: the rate is of what was seen."""
        if not waiting:
            self._idle_at = self.published
            self._moved.clear()
            return None
        before = self.published.bytes - self._idle_at.bytes
        done = before + (copying.done_bytes if copying else 0)
        path = copying.artifact.path if copying else waiting[0].artifact.path
        return Progress(len(waiting), before + sum(one.artifact.size for one in waiting), done, self._rate(done), path)

    def _rate(self, done_bytes: int) -> float:
        now = time.monotonic()
        self._moved.append((now, done_bytes))
        while len(self._moved) > 2 and now - self._moved[0][0] > RATE_WINDOW_S:
            self._moved.popleft()
        begun, before = self._moved[0]
        return max(0, done_bytes - before) / (now - begun) if now > begun else 0.0
