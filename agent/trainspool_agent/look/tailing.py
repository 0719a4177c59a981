"""Follow streams live: the latest of what is there, then what comes, from streams yet to be born too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from trainspool.spool import layout
from trainspool_agent.look import findrun
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.reading import Found, StreamSource, Wanted
from trainspool_agent.look.spool import ENDED, SeenStream

POLL_S = 0.1
RESCAN_S = 0.5


class Tail:
    """Streams being followed. Not thread safe.

    Args:
        spools: where streams are looked for.
        wanted: which events.
        only: these streams alone; none: every stream that is not over, or is born from now on.
        also: these too, though they may be over.
    """

    def __init__(
        self, spools: list[Path], wanted: Wanted, only: frozenset[str] = frozenset(), also: frozenset[str] = frozenset()
    ) -> None:
        self.run_names: dict[str, str] = {}
        self._spools, self._wanted, self._only, self._also = spools, wanted, only, also
        self._sources: dict[str, StreamSource] = {}
        self._known: set[str] | None = None
        self._rescan_at = 0.0

    def last(self, count: int) -> list[Found]:
        """Return the latest *count* of what is there, by time; from then on only what is new comes."""
        self._rescan()
        found = [one for source in self._sources.values() for one in source.latest(self._wanted, count)]
        return sorted(found, key=_time_of)[-count:] if count else []

    def follow(self) -> Iterator[list[Found]]:
        """Yield what is new, at every turn, for ever; a turn without news yields an empty list."""
        while True:
            if time.monotonic() >= self._rescan_at:
                self._rescan()
            yield [one for source in list(self._sources.values()) for one in source.facts(self._wanted)]
            time.sleep(POLL_S)

    def _rescan(self) -> None:
        self._rescan_at = time.monotonic() + RESCAN_S
        names: set[str] = set()
        for seen in [seen for spool in self._spools for seen in inspect_spool.seen_streams(spool)]:
            source = self._sources.get(seen.name)
            if source is not None:
                source.frames.rings = seen.rings  # one may have been made anew
                if seen.life == ENDED and source.frames.position >= seen.end:
                    source.frames.close()
                    del self._sources[seen.name]
            elif self._is_news(seen):
                self._begin(seen)
            names.add(seen.name)
        self._known = names

    def _is_news(self, seen: SeenStream) -> bool:
        if self._known is not None and seen.name in self._known:
            return False
        if self._only:
            return seen.name in self._only
        # One that was born and ended between two looks has news too.
        return self._known is not None or seen.life != ENDED or seen.name in self._also

    def _begin(self, seen: SeenStream) -> None:
        """A stream that was there before is followed from its last segment on: older events are nobody's latest."""
        starts = [name.offset for name in layout.segments(seen.place.folder)]
        self._sources[seen.name] = StreamSource.of(seen, max(starts, default=0))
        for run in findrun.runs_in(seen):
            if run.name:
                self.run_names[run.run_id] = run.name


def _time_of(found: Found) -> int:
    when = found.get("time") if isinstance(found, dict) else None
    return when if isinstance(when, int) else 0
