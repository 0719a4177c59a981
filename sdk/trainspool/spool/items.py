"""What a reader finds in a stream: frames, what must be known before them, damage; and what is in a frame's body."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from trainspool.errors import ChecksumMismatch, MalformedFrame, SpoolError
from trainspool.spool import events
from trainspool.spool.frame import Header

_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


class Frame(NamedTuple):
    """What one data frame adds to what was read before; a frame known in part is cut to its new part."""

    offset: int
    end: int
    definitions: bytes
    events: bytes
    event_count: int
    point_count: int


class Opened(NamedTuple):
    """What a reader must know before the frames that follow; comes several times per segment, repeats are harmless."""

    identity: dict[str, Any]
    dictionary: bytes
    path: Path


@dataclass(frozen=True)
class Damage:
    """A part of a stream that cannot be read: where, how much, why. Reading goes on behind it."""

    path: Path
    at: int
    """Byte in the file where a frame should have begun."""
    begin: int
    """Stream offsets [begin, end) are lost; equal if what is damaged held no events."""
    end: int
    events: int
    points: int
    reason: str
    exact: bool = True
    """False: nothing behind the damage says how much it was."""

    def error(self) -> SpoolError:
        kind = ChecksumMismatch if "checksum" in self.reason else MalformedFrame
        count = f"{self.events} events with {self.points} points" if self.exact else "an unknown number of events"
        lost = f"{self.reason} (stream offsets {self.begin}-{self.end}, {count} lost)"
        kept, next_step = "everything before and behind it", f"trainspool verify {self.path.parent}"
        return kind(lost, self.path, self.at, kept, next_step)

    def __str__(self) -> str:
        return str(self.error())


Item = Frame | Opened | Damage


def definitions_in(data: bytes | memoryview) -> bytes:
    """Return the definitions among the events of *data*, packed again."""
    found: list[bytes] = []
    with contextlib.suppress(*_MALFORMED):  # those before what is malformed
        found += (events.pack(*event) for event in events.decode(data) if event[0] in events.DEFINITIONS)
    return b"".join(found)


def identity_in(body: memoryview) -> dict[str, Any]:
    """Return what an identity frame says; empty if it says nothing that can be read."""
    try:
        found = next(iter(events.unpacker(body)), None)
    except _MALFORMED:
        return {}
    return found if isinstance(found, dict) else {}


def counts_within(header: Header, known: memoryview) -> tuple[int, int]:
    """Events and points before the end of *known*, the part of a frame that was read before."""
    count = points = 0
    with contextlib.suppress(*_MALFORMED):  # a cursor may say anything, the middle of an event too
        for event in events.decode(known):
            if event[0] not in events.DEFINITIONS:
                count, points = count + 1, points + events.points_in(event)
    return header.events_before + count, header.points_before + points
