"""One run's points on their way into a batch: a key set's are gathered as rows, and become columns at the end."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from trainspool_agent.store.lines import Point, Row, columns

Names = tuple[str, ...]


class RunPoints:
    """Keeps the order in which each key was logged.

    Rows are gathered only while none of their keys comes by another way in the same batch, alone or in another set.
    Where one does, points are appended one by one from there on.

    Attributes:
        caches: what was made of ``of_key`` and ``of_keys``; emptied when it does not hold any more.
    """

    def __init__(self) -> None:
        self.caches: list[dict[int, Any]] = []
        self._points: dict[str, list[Point]] = {}
        self._rows: dict[Names, list[Row]] = {}
        self._gathered: dict[str, Names] = {}

    def of_key(self, name: str) -> Callable[[Point], None]:
        """Return what takes the points of one key."""
        if name in self._gathered:
            self._spread(self._gathered[name])
        return self._points.setdefault(name, []).append

    def of_keys(self, names: Names) -> Callable[[Row], None]:
        """Return what takes the rows of a key set."""
        rows = self._rows.get(names)
        if rows is not None:
            return rows.append
        if self._points.keys().isdisjoint(names) and len(set(names)) == len(names):
            for name in names:
                self._points[name] = []
                self._gathered[name] = names
            return self._rows.setdefault(names, []).append
        for name in names:
            if name in self._gathered:
                self._spread(self._gathered[name])
        return self._spreader(names)

    def finished(self) -> dict[str, Sequence[Point]]:
        """Return the points of each key, in their order, as lines where they were gathered and rise. Call it last."""
        self.caches.clear()
        found: dict[str, Sequence[Point]] = {**self._points}
        for names, rows in self._rows.items():
            if rows:
                found.update(zip(names, columns(rows, len(names)), strict=True))
        return found

    def _spread(self, names: Names) -> None:
        """One of *names* comes by another way, too: the rows so far become points, and those that follow."""
        rows = self._rows.pop(names)
        for name in names:
            del self._gathered[name]
        for cache in self.caches:
            cache.clear()
        spread = self._spreader(names)
        for row in rows:
            spread(row)

    def _spreader(self, names: Names) -> Callable[[Row], None]:
        unpack = struct.Struct(f">{len(names)}d").unpack
        appends = [self._points.setdefault(name, []).append for name in names]

        def spread(row: Row) -> None:
            ms, step, values = row
            for append, value in zip(appends, unpack(values), strict=True):
                append((ms, step, value))

        return spread
