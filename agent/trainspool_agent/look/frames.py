"""A stream's events as they stand now: its segments and, behind these, what its ring holds; changes nothing.

For people who look (`cat`, `tail`, `status RUN`); the agent itself reads segments alone.

Source: sdk/docs/spool-format.md, sections 3 to 5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from trainspool.errors import SpoolError
from trainspool.spool import events as ev
from trainspool.spool import frame, layout
from trainspool.spool.items import Damage, Frame, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfile import RingView, read_ring
from trainspool_agent.compact import Dictionary, EventFrame
from trainspool_agent.look import walk

RING_TRIES = 5
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


class Event(NamedTuple):
    """One event; *offset* is where its first byte stands in the stream."""

    offset: int
    fields: list[Any]


class Trouble(NamedTuple):
    """Something that cannot be shown, and why."""

    offset: int
    text: str


class StreamFrames:
    """Yields frames in order; call ``read`` again for what came since. Not thread safe.

    Args:
        folder: the stream's folder; need not exist yet.
        stream: the stream's id, 16 bytes.
        rings: where its ring may be.
        begin: events before this offset are left out, but for what they define.
    """

    def __init__(self, folder: Path, stream: bytes, rings: Iterable[Path] = (), begin: int = 0) -> None:
        self.dictionary = Dictionary()
        self.position = begin
        self._folder, self._stream, self.rings = folder, stream, list(rings)
        # From a segment's beginning, so that what its frames define is known. Retention may have taken the first ones.
        names = layout.segments(folder)
        starts = [name.offset for name in names if name.offset <= begin] or [name.offset for name in names[:1]]
        self._reader = StreamReader(folder, stream, max(starts, default=0), writer_alive=lambda: bool(self.rings))

    def read(self) -> Iterator[EventFrame | Damage | Trouble]:
        """Yield what is there beyond ``position``; the dictionary then knows all that it needs."""
        try:
            yield from self._segments()
            yield from self._ring()
        except (SpoolError, OSError) as error:
            yield Trouble(self.position, str(error))

    def close(self) -> None:
        self._reader.close()

    def _segments(self) -> Iterator[EventFrame | Damage]:
        while items := self._reader.read():
            for item in items:
                if isinstance(item, Opened):
                    self._learn(item.dictionary)
                elif isinstance(item, Frame):
                    self._learn(item.definitions)
                    yield from self._beyond(item.offset, item.end, item.events)
                elif item.end >= self.position:
                    yield item

    def _ring(self) -> Iterator[EventFrame | Damage | Trouble]:
        """The ring's rest. What it drains and overwrites while we read is taken from the segments instead."""
        for attempt in range(RING_TRIES):
            view = self._open_ring()
            if view is None:
                return
            with contextlib.closing(view):
                begin = max(self._reader.offset, self.position)
                data = b"".join(view.committed(begin))
                if view.head <= begin:
                    yield from self._beyond(begin, begin + len(data), data)
                    return
                if attempt == RING_TRIES - 1:
                    yield Trouble(begin, f"events at offsets {begin}-{view.head} are in no segment of {self._folder}")
                    self.position = view.head
            yield from self._segments()

    def _open_ring(self) -> RingView | None:
        for path in self.rings:
            with contextlib.suppress(OSError, SpoolError, *_MALFORMED):
                view = read_ring(path)
                if view.stream == self._stream:
                    return view
                view.close()
        return None

    def _beyond(self, begin: int, end: int, data: bytes) -> Iterator[EventFrame]:
        """The part behind ``position`` of a frame; in full unless its beginning was read from the ring before."""
        if end <= self.position:
            self._learn(data)
            return
        if begin < self.position:
            self._learn(data[: self.position - begin])
            begin, data = self.position, data[self.position - begin :]
        self.position = end
        yield EventFrame(begin, end, data)

    def _learn(self, definitions: bytes) -> None:
        with contextlib.suppress(*_MALFORMED):
            self.dictionary.learn(definitions)


def events_of(frame_: EventFrame, dictionary: Dictionary) -> Iterator[Event | Trouble]:
    """Yield the events of one frame; *dictionary* learns what they define as they come."""
    reader, begin = ev.unpacker(frame_.events), 0
    try:
        for fields in reader:
            if fields is not None:
                if type(fields) is not list or not fields or type(fields[0]) is not int:
                    yield Trouble(frame_.offset + begin, f"not an event: {ev.shown(fields)}")
                elif fields[0] in ev.DEFINITIONS:
                    yield from _define(frame_.offset + begin, fields, dictionary)
                else:
                    yield Event(frame_.offset + begin, fields)
            begin = reader.tell()
    except _MALFORMED as error:
        yield Trouble(frame_.offset + begin, f"not an event: {error}")


def _define(offset: int, fields: list[Any], dictionary: Dictionary) -> Iterator[Event | Trouble]:
    try:
        dictionary.define(fields)
        yield Event(offset, fields)
    except _MALFORMED as error:
        yield Trouble(offset, f"malformed definition: {error}")


def events_in_segment(path: Path, dictionary: Dictionary) -> Iterator[Event | Trouble]:
    """Yield the events of one segment file, wherever it lies. Raises as ``walk.read_segment``."""
    for part in walk.parts(walk.read_segment(path)):
        header = part.header
        if part.problem or header is None:
            lost = f", {header.events} events with {header.points} points lost" if header else ""
            yield Trouble(header.offset if header else -1, f"{part.problem} at byte {part.at} of {path}{lost}")
            continue
        if header.kind == frame.DATA:
            definitions, events = part.body[: header.definitions_length], part.body[header.definitions_length :]
            with contextlib.suppress(*_MALFORMED):
                dictionary.learn(definitions)
            yield from events_of(EventFrame(header.offset, header.end, events), dictionary)
        elif header.kind == frame.DICTIONARY:
            with contextlib.suppress(*_MALFORMED):
                dictionary.learn(part.body)
