"""How often a stream may have a turn: at once on a quiet box, more rarely where many streams would take a core.

Each turn opens, appends to and stats as many files as the run has metrics, however few points came. So under load it is
cheaper to let points gather; a second of lag then is the price for staying a small part of one core.
"""

from __future__ import annotations

import time

SHARE_WANTED = 0.05  # of a core, for turns that keep up with living streams
INTERVAL_MAX_S = 1.0
INTERVAL_MIN_S = 0.05
POLL_FROM_S, POLL_TO_S = 0.5, 0.25  # intervals at which looking at all files becomes, and stays, cheaper than watches
_WINDOW_S = 1.0


class Pace:
    """Measures what turns cost and stretches the interval between a stream's turns. For one event loop."""

    def __init__(self) -> None:
        self.interval_s = 0.0
        self.polls = False
        """Turns are so far apart that being told of every write in between costs more than looking once."""
        self._spent_s, self._since = 0.0, time.monotonic()

    def spent(self, seconds: float) -> None:
        """Take note that a turn that kept up with its stream took *seconds*."""
        self._spent_s += seconds
        now = time.monotonic()
        window_s = now - self._since
        if window_s >= _WINDOW_S:
            self._adjust(self._spent_s / window_s)
            self._spent_s, self._since = 0.0, now

    def _adjust(self, share: float) -> None:
        """Aim at the wanted share; half-way each time, as what a turn costs changes with what it carries."""
        now_s = max(self.interval_s, INTERVAL_MIN_S)
        wanted_s = now_s * share / SHARE_WANTED
        interval_s = min((now_s + wanted_s) / 2, INTERVAL_MAX_S)
        self.interval_s = interval_s if interval_s > INTERVAL_MIN_S else 0.0
        self.polls = self.interval_s >= (POLL_TO_S if self.polls else POLL_FROM_S)
