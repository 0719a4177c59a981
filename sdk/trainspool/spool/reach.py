"""Which offsets a segment holds, by its headers: walked once, asked often.

Where much is damaged, every damage asks the segments around it whether they hold the same frames; walking them anew
each time would let a small hostile stream keep its reader busy for ever.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from pathlib import Path

from trainspool.spool import frame
from trainspool.spool.frame import Header

FRAMES_MAX = 100_000  # an hour of pump turns is a third of it
CANDIDATES_MAX = 8  # frames at or before an offset that are looked at: sound segments need one


class Reach:
    """One segment's data frames, in the order of their offsets."""

    def __init__(self) -> None:
        self.size = -1
        """The file's size when it was walked."""
        self.at = 0
        """Behind the last header: where to go on when the file has grown."""
        self.end = 0
        """The largest offset that any header reaches."""
        self._offsets, self._ends, self._places = array("Q"), array("Q"), array("Q")

    def note(self, header: Header, at: int) -> None:
        self.at, self.end = at + frame.HEADER_BYTES + header.body_length, max(self.end, header.end)
        in_order = not self._offsets or self._offsets[-1] <= header.offset
        if header.kind == frame.DATA and in_order and len(self._offsets) < FRAMES_MAX:
            self._offsets.append(header.offset)
            self._ends.append(header.end)
            self._places.append(at)

    def is_of(self, path: Path) -> bool:
        """Whether the file is as large as when it was walked."""
        try:
            return os.stat(path).st_size == self.size
        except OSError:
            return False

    def places_of(self, offset: int) -> list[int]:
        """Return where frames stand that hold stream offset *offset*, the first one first."""
        last = bisect_right(self._offsets, offset)
        return [self._places[n] for n in range(max(0, last - CANDIDATES_MAX), last) if offset < self._ends[n]]
