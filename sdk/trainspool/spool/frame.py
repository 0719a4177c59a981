"""bytes ↔ frame; pure, no I/O.

Source: sdk/docs/spool-format.md, "Frame".
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

MAGIC = b"TSF1"
VERSION = 1
DATA, IDENTITY, DICTIONARY, SEAL, HEARTBEAT = range(5)
KIND_NAMES = ("data", "identity", "dictionary", "seal", "heartbeat")

_HEADER = struct.Struct("<4sBBH16sQIIQQIIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_GIL_KEPT_BYTES = 5 << 10  # CPython's zlib.crc32 releases the GIL for more than this
COUNT_END = 1 << 63  # offsets and counts stay below it, so that they can be added up and written down
BODY_BYTES_MAX = (1 << 20) + (1 << 16)


class Header(NamedTuple):
    """A frame's header; counts are exact, so what a damaged frame held is known."""

    kind: int
    stream: bytes
    offset: int
    definitions_length: int
    events_length: int
    events_before: int
    points_before: int
    events: int
    points: int
    body_crc: int

    @property
    def body_length(self) -> int:
        return self.definitions_length + self.events_length

    @property
    def end(self) -> int:
        """The stream offset behind this frame's events."""
        return self.offset + self.events_length if self.kind == DATA else self.offset


class UnknownVersion(ValueError):
    """A sound header of another format version; the argument is that version."""


def encode(
    kind: int,
    stream: bytes,
    offset: int,
    *,
    definitions: bytes = b"",
    events: bytes = b"",
    events_before: int = 0,
    points_before: int = 0,
    event_count: int = 0,
    point_count: int = 0,
) -> bytes:
    """Return one frame, header and body, ready to be written at once."""
    body_crc = _crc(events, _crc(definitions))
    header = _HEADER.pack(
        MAGIC, VERSION, kind, 0, stream, offset, len(definitions), len(events),
        events_before, points_before, event_count, point_count, body_crc, 0,
    )[:-4]  # fmt: skip
    return b"".join((header, _CRC.pack(zlib.crc32(header)), definitions, events))


def _crc(data: bytes, crc: int = 0) -> int:
    """CRC-32 in slices so small that zlib keeps the GIL: taking it back costs up to 5 ms beside a busy thread."""
    view = memoryview(data)
    for at in range(0, len(data), _GIL_KEPT_BYTES):
        crc = zlib.crc32(view[at : at + _GIL_KEPT_BYTES], crc)
    return crc


def parse_header(data: bytes | memoryview, at: int = 0) -> Header | None:
    """Return the frame header at *at*, or None if these bytes are no valid header.

    Raises:
        UnknownVersion: the header is sound, its version is not ours.
    """
    if len(data) - at < HEADER_BYTES:
        return None
    magic, version, kind, _, *fields, header_crc = _HEADER.unpack_from(data, at)
    if magic != MAGIC or zlib.crc32(data[at : at + HEADER_BYTES - 4]) != header_crc:
        return None
    if version != VERSION:
        raise UnknownVersion(version)
    header = Header(kind, *fields)
    if kind > HEARTBEAT or header.body_length > BODY_BYTES_MAX:
        return None
    reached = header.end, header.events_before + header.events, header.points_before + header.points
    return header if max(reached) < COUNT_END else None


def body_is_sound(header: Header, body: bytes | memoryview) -> bool:
    """Whether *body*, of the header's length, is as it was written."""
    return zlib.crc32(body) == header.body_crc
