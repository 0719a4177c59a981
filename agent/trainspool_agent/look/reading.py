"""From a stream or a segment to the facts of its events, filtered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trainspool.errors import SpoolError
from trainspool.spool import events as ev
from trainspool.spool import layout
from trainspool.spool.items import Damage
from trainspool_agent.compact import Dictionary, EventFrame
from trainspool_agent.look import facts as eventfacts
from trainspool_agent.look import walk
from trainspool_agent.look.frames import Event, StreamFrames, Trouble, events_in_segment, events_of
from trainspool_agent.look.spool import SeenStream

Found = dict[str, Any] | Trouble


class Wanted(NamedTuple):
    """Which events: of runs whose id begins with *run_id*, behind offset *after*, of *kinds*.

    No kinds means all but definitions.
    """

    run_id: str | None = None
    after: int = -1
    kinds: frozenset[str] = frozenset()

    def takes(self, event: Event, names: Dictionary) -> bool:
        kind = eventfacts.kind_name(event)
        if event.offset <= self.after or (kind not in self.kinds if self.kinds else kind in eventfacts.DEFINING_KINDS):
            return False
        if self.run_id is None:
            return True
        run = eventfacts.run_of(event, names)
        if event.fields[0] == ev.EPITAPH:  # it ends every run that the stream owns
            return any(one.owner and one.run_id.startswith(self.run_id) for one in names.runs.values())
        return run is not None and run.run_id.startswith(self.run_id)


class Source(Protocol):
    def facts(self, wanted: Wanted) -> Iterator[Found]:
        """Yield what is there, in order; damage and whatever else cannot be shown as ``Trouble``."""


class SegmentSource:
    """One segment file, wherever it lies."""

    def __init__(self, path: Path) -> None:
        self.path, self.names = path, Dictionary()

    def facts(self, wanted: Wanted) -> Iterator[Found]:
        stream = stream_in(self.path)
        for event in events_in_segment(self.path, self.names):
            if isinstance(event, Trouble):
                yield event
            elif wanted.takes(event, self.names):
                yield eventfacts.facts(stream, event, self.names)


class StreamSource:
    """A stream: its segments, and its ring if it is at hand. ``facts`` may be called again for what came since."""

    def __init__(self, name: str, frames: StreamFrames) -> None:
        self.name, self.frames = name, frames

    @classmethod
    def of(cls, seen: SeenStream, begin: int = 0) -> StreamSource:
        return cls(seen.name, seen.frames(begin))

    @classmethod
    def at(cls, folder: Path) -> StreamSource:
        """Return the stream in *folder*, which may have been copied from anywhere under any name."""
        name = folder.name
        if not layout.is_stream_name(name):
            segments = layout.segments(folder)
            if not segments:
                raise SpoolError("no segments and no streams", folder, 0, "everything", "trainspool ls")
            name = stream_in(folder / str(segments[0]))
        return cls(name, StreamFrames(folder, bytes.fromhex(name)))

    def facts(self, wanted: Wanted) -> Iterator[Found]:
        return self._facts(self.frames.read(), wanted)

    def latest(self, wanted: Wanted, count: int) -> list[Found]:
        """Read to the end; return the last *count* of the last *count* frames."""
        parts = deque(self.frames.read(), maxlen=count)
        return list(deque(self._facts(parts, wanted), maxlen=count))

    def _facts(self, parts: Iterable[EventFrame | Damage | Trouble], wanted: Wanted) -> Iterator[Found]:
        names = self.frames.dictionary
        for part in parts:
            if isinstance(part, Trouble):
                yield part
            elif isinstance(part, Damage):
                yield Trouble(part.begin, str(part))
            else:
                for event in events_of(part, names):
                    if isinstance(event, Trouble):
                        yield event
                    elif wanted.takes(event, names):
                        yield eventfacts.facts(self.name, event, names)


def stream_in(path: Path) -> str:
    """Return the id of the stream that a segment belongs to, from its first sound frame.

    Raises:
        SpoolError: it has none.
    """
    for part in walk.parts(walk.read_segment(path)):
        if part.header is not None:
            return part.header.stream.hex()
    raise SpoolError("no frame", path, 0, "everything", "trainspool ls, to see what is there")
