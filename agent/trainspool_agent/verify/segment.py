"""One segment by itself: frames, offsets, counts, definitions, events.

Source: sdk/docs/spool-format.md, sections 1, 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from trainspool.spool import events as ev
from trainspool.spool import frame, layout
from trainspool.spool.frame import Header
from trainspool.spool.segment import ENDED_IN_ORDER
from trainspool_agent.compact import Dictionary, EventFrame, RunRef, compact
from trainspool_agent.look import walk
from trainspool_agent.look.walk import Part
from trainspool_agent.verify.findings import Finding

EVENT_HALF_BYTES_MAX = 512 << 10  # of a data frame: its events, and its definitions
UPGRADE = "pip install --upgrade 'trainspool[agent]'"
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


@dataclass
class CheckedSegment:
    """What one segment holds and what is wrong with it. *end*: the stream offset behind its last sound frame."""

    path: Path
    stream: str = ""
    end: int = 0
    bytes: int = 0
    frames: int = 0
    events: int = 0
    points: int = 0
    findings: list[Finding] = field(default_factory=list)
    runs: set[RunRef] = field(default_factory=set)


def check_segment(path: Path, stream: bytes | None) -> CheckedSegment:
    """Check every frame of the segment at *path*; *stream*: whose it should be, None for whoever's it is.

    Raises:
        UnsafeSpool, OSError: it cannot be read.
    """
    data = walk.read_segment(path)
    name = layout.parse_segment_name(path.name)
    checked = CheckedSegment(path, bytes=len(data), end=name.offset if name else 0)
    checking = _Checking(checked, stream, name.offset if name else None)
    for part in walk.parts(data):
        checking.part(part)
    checked.runs = set(checking.dictionary.runs.values())
    return checked


class _Checking:
    """One pass over one segment."""

    def __init__(self, checked: CheckedSegment, stream: bytes | None, begin: int | None) -> None:
        self._checked, self._stream, self._begin = checked, stream, begin
        self._alone = stream is None
        self.dictionary = Dictionary()
        self._parts = 0
        self._sealed = self._gap = False  # *gap*: bad bytes stood before this frame, so what it follows is unknown
        self._before: tuple[int, int, int] | None = None  # offset, events, points behind the last data frame

    def part(self, part: Part) -> None:
        self._parts += 1
        if part.problem:
            self._bad(part)
            return
        assert part.header is not None
        self._checked.frames += 1
        for problem in self._frame(part.header, part.body):
            self._say(part.at, problem)
        if self._parts == 1 and part.header.kind != frame.IDENTITY:
            self._say(part.at, "a segment that does not begin with its identity")
        self._gap = False

    def _say(self, at: int, what: str, *, is_damage: bool = True, **more: bool | str) -> None:
        self._checked.findings.append(Finding(str(self._checked.path), at, what, is_damage, **more))  # type: ignore[arg-type]

    def _bad(self, part: Part) -> None:
        if part.problem == "torn tail":
            self._checked.findings.append(Finding(str(self._checked.path), part.at, "", False, torn=True))
        elif part.problem.startswith("format version"):
            what = f"a frame of {part.problem.partition(':')[0]}, this trainspool reads version {frame.VERSION}"
            self._say(part.at, what, is_damage=False, next_step=UPGRADE)
        else:
            kind = f" of a frame of kind {frame.KIND_NAMES[part.header.kind]}" if part.header else ""
            size = "" if part.header else f" for {part.length} bytes"
            self._say(part.at, f"{part.problem}{kind}{size}", next_step="trainspool verify --repair")
        self._gap = True

    def _frame(self, header: Header, body: bytes) -> Iterator[str]:
        checked = self._checked
        self._stream = self._stream or header.stream
        checked.stream = checked.stream or header.stream.hex()
        if header.stream != self._stream:
            yield f"a frame of another stream, {header.stream.hex()}"
            return
        if self._sealed:
            yield "a frame behind the seal"
        if self._begin is not None and header.offset < self._begin:
            yield f"a frame of offset {header.offset} in a segment that begins at {self._begin}"
        if header.kind == frame.DATA:
            yield from self._data(header, body)
        elif header.kind == frame.IDENTITY:
            yield from _identity(body, header)
        elif header.kind == frame.DICTIONARY:
            yield from self._learn(body)
        elif header.kind == frame.SEAL:
            self._sealed = True
            if body not in (b"", ENDED_IN_ORDER):
                yield "a seal with a body that means nothing"
        elif body:
            yield "a heartbeat with a body"
        if header.kind in (frame.SEAL, frame.HEARTBEAT):
            yield from self._follows(header)

    def _data(self, header: Header, body: bytes) -> Iterator[str]:
        checked = self._checked
        definitions, data = body[: header.definitions_length], body[header.definitions_length :]
        if max(len(definitions), len(data)) > EVENT_HALF_BYTES_MAX:
            yield f"a frame beyond the limit of {EVENT_HALF_BYTES_MAX} bytes"
        yield from self._follows(header)
        yield from self._learn(definitions)
        yield from self._events(header, data)
        checked.events += header.events
        checked.points += header.points
        checked.end = max(checked.end, header.end)
        self._before = header.end, header.events_before + header.events, header.points_before + header.points

    def _follows(self, header: Header) -> Iterator[str]:
        """Offsets and counts go on from the frame before, or from what a damaged frame between them held."""
        if self._before is None or self._gap:
            return
        end, events, points = self._before
        if header.offset > end and not self._alone:
            return  # a gap: what it costs, and whether it is known, is for the stream's reader to say
        if header.offset != end:
            yield f"a frame of offset {header.offset} behind one that ends at {end}"
        elif (header.events_before, header.points_before) != (events, points):
            counts = f"{header.events_before} events and {header.points_before} points"
            yield f"a frame that counts {counts} before it, where {events} and {points} are"

    def _learn(self, definitions: bytes) -> Iterator[str]:
        """Learn them, keys before the key sets made of them: in a dictionary they may come in any order."""
        try:
            for event in sorted(ev.decode(definitions), key=lambda event: event[0]):
                if event[0] in ev.DEFINITIONS:
                    self.dictionary.define(event)
        except _MALFORMED as error:
            yield f"malformed definitions: {type(error).__name__}: {error}"

    def _events(self, header: Header, data: bytes) -> Iterator[str]:
        frames = [EventFrame(header.offset, header.end, data)]
        found = compact(frames, self.dictionary, header.stream.hex(), _from_start)
        if found.malformed:
            yield f"{found.malformed} malformed events: {found.malformed_sample}"
            return
        if found.unknown_kinds:
            self._say_unknown(header, sorted(found.unknown_kinds))
        points = sum(changes.point_count for changes in found.runs.values())
        if (found.events, points) != (header.events, header.points):
            stated = f"{header.events} events and {header.points} points"
            yield f"a frame that counts {stated} in it, and holds {found.events} and {points}"

    def _say_unknown(self, header: Header, kinds: list[int]) -> None:
        what = f"events of kinds {kinds} at offset {header.offset} or behind are of a newer trainspool"
        self._checked.findings.append(Finding(str(self._checked.path), 0, what, False, next_step=UPGRADE))


def _identity(body: bytes, header: Header) -> Iterator[str]:
    try:
        found = next(iter(ev.unpacker(body)), None)
    except _MALFORMED as error:
        found = error
    if not isinstance(found, dict):
        yield "an identity that is no map"
    elif found.get("stream", header.stream.hex()) != header.stream.hex():
        yield f"an identity of another stream, {found.get('stream')!s:.40}"


def _from_start(_: RunRef) -> int:
    return 0
