"""One segment file, frame by frame, for people who look at it; changes nothing.

Source: sdk/docs/spool-format.md, "Frame" and "Torn tail or damage?".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trainspool.spool import frame, layout
from trainspool.spool.frame import HEADER_BYTES, Header
from trainspool.spool.segmentview import open_owned

SEGMENT_BYTES_MAX = 256 << 20  # what is read into memory of one file
_SEAL_BODIES = (0, 1)


class Part(NamedTuple):
    """What stands at byte *at*: a frame, or bytes that are none; *problem* is empty if the frame is sound."""

    at: int
    length: int
    header: Header | None
    body: bytes
    problem: str


@dataclass
class SegmentFacts:
    """What one segment holds. Offsets and sizes in bytes."""

    name: str
    offset: int
    end: int
    bytes: int
    frames: int = 0
    events: int = 0
    points: int = 0
    sealed: bool = False
    torn_bytes: int = 0
    damage: list[str] = field(default_factory=list)


class End(NamedTuple):
    """Where a stream's segments end, and the counts before that; found without reading any body."""

    offset: int
    events: int
    points: int
    sealed: bool
    counted: bool = True  # False: nothing but an identity stands there, which has no counts


def read_segment(path: Path) -> bytes:
    """Return a segment's bytes.

    Raises:
        UnsafeSpool: it is no plain file of its folder's owner.
        OSError: it cannot be read, or is larger than any segment.
    """
    fd = open_owned(path, os.stat(path.parent).st_uid)
    with open(fd, "rb") as file:
        if os.fstat(fd).st_size > SEGMENT_BYTES_MAX:
            raise OSError(f"{path} is larger than {SEGMENT_BYTES_MAX >> 20} MiB: no segment of ours")
        return file.read(SEGMENT_BYTES_MAX)


def parts(data: bytes) -> Iterator[Part]:
    """Yield what *data*, a whole segment, consists of, in order."""
    at = 0
    while at < len(data):
        try:
            header = frame.parse_header(data, at)
        except frame.UnknownVersion as error:
            yield Part(at, len(data) - at, None, b"", f"format version {error.args[0]}: update trainspool")
            return
        if header is None:
            length = _to_next_header(data, at)
            torn = at + length == len(data) and length < HEADER_BYTES
            yield Part(at, length, None, b"", "torn tail" if torn else "no valid frame header")
        else:
            body = data[at + HEADER_BYTES : at + HEADER_BYTES + header.body_length]
            length = HEADER_BYTES + len(body)
            sound = frame.body_is_sound(header, body)
            torn = len(body) < header.body_length
            yield Part(at, length, header, body, "torn tail" if torn else "" if sound else "checksum mismatch")
        at += length


def _to_next_header(data: bytes, at: int) -> int:
    found = data.find(frame.MAGIC, at + 1)
    while found >= 0:
        try:
            if frame.parse_header(data, found) is not None:
                return found - at
        except frame.UnknownVersion:
            return found - at
        found = data.find(frame.MAGIC, found + 1)
    return len(data) - at


def segment_facts(path: Path) -> SegmentFacts:
    """Read and check every frame of the segment at *path*. Raises as ``read_segment``."""
    name = layout.parse_segment_name(path.name)
    data = read_segment(path)
    facts = SegmentFacts(path.name, name.offset if name else 0, name.offset if name else 0, len(data))
    for part in parts(data):
        if part.problem == "torn tail":
            facts.torn_bytes = part.length
        elif part.problem:
            facts.damage.append(f"{part.problem} at byte {part.at}")
        elif part.header is not None:
            facts.frames += 1
            facts.events += part.header.events
            facts.points += part.header.points
            facts.sealed = facts.sealed or part.header.kind == frame.SEAL
            facts.end = max(facts.end, part.header.end)
    return facts


def segment_end(path: Path) -> End | None:
    """Return where the events of a segment end, from its headers alone; None if it has none that is whole."""
    fd = open_owned(path, os.stat(path.parent).st_uid)
    try:
        size = os.fstat(fd).st_size
        for body in _SEAL_BODIES:
            seal = _header_at(fd, size - HEADER_BYTES - body)
            if seal is not None and seal.kind == frame.SEAL and seal.body_length == body:
                return End(seal.offset, seal.events_before, seal.points_before, True)
        return _end_of_headers(fd, size)
    finally:
        os.close(fd)


def _end_of_headers(fd: int, size: int) -> End | None:
    end, at = None, 0
    while (header := _header_at(fd, at)) is not None and at + HEADER_BYTES + header.body_length <= size:
        at += HEADER_BYTES + header.body_length
        if header.kind not in (frame.IDENTITY, frame.DICTIONARY):
            counts = header.events_before + header.events, header.points_before + header.points
            end = End(header.end, *counts, header.kind == frame.SEAL)
        elif end is None:
            end = End(header.offset, 0, 0, sealed=False, counted=False)
    return end


def _header_at(fd: int, at: int) -> Header | None:
    if at < 0:
        return None
    try:
        return frame.parse_header(os.pread(fd, HEADER_BYTES, at))
    except frame.UnknownVersion:
        return None
