"""A stream's segments, listed anew only when their folder may have changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from trainspool.spool import layout
from trainspool.spool.layout import SegmentName

MTIME_MARGIN_NS = 100_000_000  # a folder may change twice within one tick of the file system's clock
LISTING_AGE_NS = 5_000_000_000  # and the clock of a file server is not ours


class Listing:
    """The last listing of *folder*: it serves again while the folder has not changed since well before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed_ns, self._changed_ns = 0, -1
        self._names: list[SegmentName] = []

    def names(self) -> list[SegmentName]:
        """Return the segments in order, the same list while nothing has changed; empty if there is no folder."""
        try:
            changed_ns = os.stat(self.folder).st_mtime_ns
        except FileNotFoundError:
            return []
        now_ns = time.time_ns()
        fresh = self._listed_ns - changed_ns > MTIME_MARGIN_NS and 0 <= now_ns - self._listed_ns < LISTING_AGE_NS
        if not fresh or self._changed_ns != changed_ns:
            self._names = layout.segments(self.folder)
            self._listed_ns, self._changed_ns = now_ns, changed_ns
        return self._names
