"""A reader written from sdk/docs/spool-format.md alone: it imports nothing of trainspool, and reads tests/data/v1.

Where it passes and the product's own reader fails, or the other way round, the document and the code have parted.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

DATA = Path(__file__).parents[2] / "data" / "v1"
HOST = DATA / "streams" / "vector-host"
ORDERLY = "0123456789abcdef0123456789abcdef"
KILLED = "feedfacecafebeeffeedfacecafebeef"
HEADER = struct.Struct("<4sBBH16sQIIQQIIII")
DATA_KIND, IDENTITY_KIND, DICTIONARY_KIND, SEAL_KIND = range(4)
DEFINITIONS = (2, 3, 4)


class Frame(NamedTuple):
    kind: int
    offset: int
    definitions_length: int
    events_length: int
    events_before: int
    points_before: int
    events: int
    points: int
    body_crc: int


class OtherVersion(Exception):
    """A sound header of another version: stop here."""


def header_at(data: bytes, at: int, stream: bytes) -> Frame | None:
    if len(data) - at < HEADER.size:
        return None
    magic, version, kind, _, of_stream, *rest, header_crc = HEADER.unpack_from(data, at)
    if magic != b"TSF1" or of_stream != stream or zlib.crc32(data[at : at + 68]) != header_crc:
        return None
    if version != 1:
        raise OtherVersion(version)
    return Frame(kind, *rest)


def could_be_a_torn_header(data: bytes, at: int, stream: bytes) -> bool:
    rest = data[at:]
    return len(rest) < HEADER.size and b"TSF1\x01".startswith(rest[:5]) and stream.startswith(rest[8:24])


def values_of(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield each msgpack value of *data* that is no filler, with the byte at which it begins."""
    reader = msgpack.Unpacker(max_buffer_size=max(len(data), 1), strict_map_key=False, max_ext_len=0)
    reader.feed(data)
    begin = 0
    for value in reader:
        if value is not None:
            yield begin, value
        begin = reader.tell()
    assert begin == len(data), "a frame holds whole events"


def points_in(event: list[Any]) -> int:
    return 1 if event[0] == 0 else len(event[5]) // 8 if event[0] == 1 else 0


class Reader:
    """What is known of one stream after reading its segments in order, and then perhaps its ring."""

    def __init__(self, stream: str) -> None:
        self.stream = bytes.fromhex(stream)
        self.position: int | None = None
        self.found: list[tuple[int, list[Any]]] = []
        self.events = self.points = 0  # accounted for: found or lost
        self.lost_events = self.lost_points = 0
        self.names: dict[int, dict[int, Any]] = {kind: {} for kind in DEFINITIONS}
        self.sealed = self.in_order = False
        self.identity: dict[str, Any] = {}

    def read(self, segments: dict[str, bytes]) -> Reader:
        """Read *segments*, file name to content, in the document's order: by offset, then attempt."""
        names = sorted(segments)
        begins = [int(name[:16], 16) for name in names]
        if begins[0] == 0:  # read from its birth: nothing came before, whatever the first header says
            self.position = 0
        for i, name in enumerate(names):
            following = begins[i + 1] if i + 1 < len(begins) else None
            self._read_segment(segments[name], following)
        return self

    def _read_segment(self, data: bytes, following: int | None) -> None:
        at = 0
        while at < len(data):
            header = header_at(data, at, self.stream)
            if header is None:
                if could_be_a_torn_header(data, at, self.stream) or self._repeated_in(following):
                    return
                at = self._next_header(data, at + 1)
                continue
            body = data[at + 72 : at + 72 + header.definitions_length + header.events_length]
            if len(body) < header.definitions_length + header.events_length:
                return  # torn tail
            sound = zlib.crc32(body) == header.body_crc
            if not sound and self._repeated_in(following):
                return
            self._take(header, body if sound else None)
            at += 72 + header.definitions_length + header.events_length

    def _repeated_in(self, following: int | None) -> bool:
        """Whether the next segment begins at or before the position reached: it may hold the damaged frames."""
        return following is not None and following <= (self.position or 0)

    def _next_header(self, data: bytes, at: int) -> int:
        while (at := data.find(b"TSF1", at)) >= 0:
            if header_at(data, at, self.stream):
                return at
            at += 1
        return len(data)

    def _take(self, header: Frame, body: bytes | None) -> None:
        if self.position is None:
            self.position, self.events, self.points = header.offset, header.events_before, header.points_before
        known = header.kind == DATA_KIND and header.offset < self.position
        if header.offset > self.position:
            self._count_a_hole(header)
        if body is None:
            self._count_as_lost(header, known)
        elif header.kind == IDENTITY_KIND:
            self.identity = next(value for _, value in values_of(body))
        elif header.kind == SEAL_KIND:
            self.sealed, self.in_order = True, self.in_order or body == b"\xc3"
        else:
            self._define(body[: header.definitions_length] if header.kind == DATA_KIND else body)
            if header.kind == DATA_KIND and not known:
                self._take_events(header.offset, body[header.definitions_length :])

    def _count_a_hole(self, header: Frame) -> None:
        """Frames that were skipped: what is lost is the difference of the `before` counts."""
        self.lost_events += header.events_before - self.events
        self.lost_points += header.points_before - self.points
        self.events, self.points, self.position = header.events_before, header.points_before, header.offset

    def _count_as_lost(self, header: Frame, known: bool) -> None:
        if header.kind != DATA_KIND or known:
            return
        self.lost_events += header.events
        self.lost_points += header.points
        self.events += header.events
        self.points += header.points
        self.position = header.offset + header.events_length

    def _define(self, body: bytes) -> None:
        for _, (kind, number, *meaning) in values_of(body):
            self.names[kind][number] = meaning

    def _take_events(self, offset: int, data: bytes) -> None:
        for at, event in values_of(data):
            self.found.append((offset + at, event))
            if event[0] in DEFINITIONS:
                self.names[event[0]][event[1]] = event[2:]
            else:
                self.events += 1
                self.points += points_in(event)
        self.position = offset + len(data)

    def read_ring(self, ring: bytes) -> Reader:
        """Read after death: from max(head, end of the last valid frame), chunks in order of base while contiguous."""
        magic, version, chunk_bytes, stream, chunks, length, crc = struct.unpack_from("<8sII16sIII", ring)
        assert (magic, version, stream) == (b"TSRING1\0", 1, self.stream)
        assert zlib.crc32(ring[4096 : 4096 + length]) == crc
        (head,) = struct.unpack_from("<Q", ring, 64)
        position = max(head, self.position or 0)
        marks = [(*struct.unpack_from("<QQ", ring, 128 + 16 * i), i) for i in range(chunks)]
        for base, tail, i in sorted(marks):
            if base <= position < base + chunk_bytes:
                content = 65536 + i * chunk_bytes
                self._take_events(position, ring[content + position - base : content + tail])
                position = base + tail  # the next chunk continues only if this one was committed to its end
        return self


def segments_of(stream: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (HOST / stream).glob("*.seg")}


def ring_of(stream: str) -> bytes:
    return gzip.decompress((DATA / f"{stream}.ring.gz").read_bytes())


def expected(stream: str) -> list[tuple[int, Any]]:
    lines = map(json.loads, (DATA / "expected.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["offset"], line["event"]) for line in lines if line["stream"] == stream]


def as_json(found: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return [(offset, plain(event)) for offset, event in found]


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return [plain(number) for (number,) in struct.iter_unpack(">d", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return [plain(item) for item in value] if isinstance(value, list) else value


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def frames_in(data: bytes, stream: str) -> list[tuple[int, Frame]]:
    found, at = [], 0
    while at < len(data) and (header := header_at(data, at, bytes.fromhex(stream))):
        found.append((at, header))
        at += 72 + header.definitions_length + header.events_length
    return found


def test_every_event_is_read_once_and_in_order() -> None:
    reader = Reader(ORDERLY).read(segments_of(ORDERLY))
    assert as_json(reader.found) == expected(ORDERLY)
    assert reader.sealed and reader.in_order and reader.found[-1][1][0] == 11
    assert (reader.lost_events, reader.lost_points) == (0, 0)


def test_the_counts_in_the_headers_are_the_counts_of_the_events() -> None:
    reader = Reader(ORDERLY).read(segments_of(ORDERLY))
    events = [event for _, event in reader.found if event[0] not in DEFINITIONS]
    last = frames_in(max(segments_of(ORDERLY).items())[1], ORDERLY)[-1][1]
    assert (last.events_before, last.points_before) == (len(events), sum(map(points_in, events)))


def test_every_kind_of_event_is_in_the_vector() -> None:
    assert {event[0] for _, event in expected(ORDERLY)} == set(range(16))


def test_numbers_have_their_names() -> None:
    names = Reader(ORDERLY).read(segments_of(ORDERLY)).names
    assert [names[2][key][0] for key in names[3][0][0]] == ["loss", "val/准确率", "lr"]
    assert names[4][0][0] == "1" * 32 and names[4][1][1] is False


def test_the_ring_goes_on_where_the_torn_tail_stops() -> None:
    reader = Reader(KILLED).read(segments_of(KILLED))
    assert 0 < len(reader.found) < len(expected(KILLED))
    reader.read_ring(ring_of(KILLED))
    assert as_json(reader.found) == expected(KILLED)
    assert not reader.sealed


def test_a_ring_alone_is_read_from_its_head() -> None:
    reader = Reader(KILLED).read_ring(ring_of(KILLED))
    assert as_json(reader.found) == expected(KILLED)


def test_the_identity_says_who_wrote() -> None:
    identity = Reader(ORDERLY).read(segments_of(ORDERLY)).identity
    assert (identity["format"], identity["stream"], identity["host"]) == (1, ORDERLY, "vector-host")


@pytest.mark.parametrize("name", sorted(segments_of(ORDERLY)))
def test_a_cut_at_any_byte_loses_no_whole_frame(name: str) -> None:
    segments = segments_of(ORDERLY)
    whole, is_last = segments[name], name == max(segments)
    for cut in range(len(whole)):
        frames = [(at, f) for at, f in frames_in(whole[:cut], ORDERLY) if f.kind == DATA_KIND]
        reader = Reader(ORDERLY).read({**segments, name: whole[:cut]})
        kept = [end for at, f in frames if (end := at + 72 + f.definitions_length + f.events_length) <= cut]
        assert reader.lost_events == 0 or not is_last
        assert reader.lost_events + sum(e[0] not in DEFINITIONS for _, e in reader.found) == reader.events
        found = as_json(reader.found)
        assert set(map(str, found)) <= set(map(str, expected(ORDERLY)))
        assert not is_last or len(found) >= len(kept)


def test_a_cut_that_a_later_segment_repeats_costs_nothing() -> None:
    segments = segments_of(ORDERLY)
    first = segments["0000000000000000.00.seg"]
    repeated_at = frames_in(first, ORDERLY)[-1][0]
    for cut in range(repeated_at, len(first)):
        reader = Reader(ORDERLY).read({**segments, "0000000000000000.00.seg": first[:cut]})
        assert as_json(reader.found) == expected(ORDERLY)


@pytest.mark.parametrize("name", sorted(segments_of(ORDERLY)))
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_costs_at_most_its_frame_and_is_counted_exactly(name: str, bit: int) -> None:
    segments = segments_of(ORDERLY)
    everything = Reader(ORDERLY).read(segments)
    worst = max(header.events for _, header in frames_in(segments[name], ORDERLY))
    for at in range(len(segments[name])):
        reader = Reader(ORDERLY).read({**segments, name: flipped(segments[name], at, bit)})
        kept = [event for _, event in reader.found if event[0] not in DEFINITIONS]
        assert reader.lost_events <= worst
        assert len(kept) + reader.lost_events == everything.events
        assert sum(map(points_in, kept)) + reader.lost_points == everything.points


def test_a_damaged_frame_takes_no_definitions_with_it() -> None:
    segments = segments_of(ORDERLY)
    first = segments["0000000000000000.00.seg"]
    at, header = frames_in(first, ORDERLY)[2]
    spoiled = flipped(first, at + 72 + header.definitions_length)
    reader = Reader(ORDERLY).read({**segments, "0000000000000000.00.seg": spoiled})
    assert (reader.lost_events, reader.lost_points) == (header.events, header.points)
    assert reader.names == Reader(ORDERLY).read(segments).names


def test_a_damaged_copy_is_made_good_by_the_later_segment() -> None:
    segments = segments_of(ORDERLY)
    first = segments["0000000000000000.00.seg"]
    for at in range(frames_in(first, ORDERLY)[-1][0], len(first)):
        reader = Reader(ORDERLY).read({**segments, "0000000000000000.00.seg": flipped(first, at)})
        assert as_json(reader.found) == expected(ORDERLY)


def test_a_frame_of_another_version_stops_the_reader() -> None:
    segments = segments_of(ORDERLY)
    header = bytearray(segments["0000000000000000.00.seg"][:72])
    header[4] = 2
    header[68:] = struct.pack("<I", zlib.crc32(header[:68]))
    with pytest.raises(OtherVersion, match="2"):
        Reader(ORDERLY).read({"0000000000000000.00.seg": bytes(header)})


def test_an_unknown_kind_is_kept_and_counted() -> None:
    event = msgpack.packb([99, 0, "from the future"])
    head = HEADER.pack(b"TSF1", 1, 0, 0, bytes.fromhex(ORDERLY), 0, 0, len(event), 0, 0, 1, 0, zlib.crc32(event), 0)[
        :68
    ]
    reader = Reader(ORDERLY).read({"0000000000000000.00.seg": head + struct.pack("<I", zlib.crc32(head)) + event})
    assert reader.found == [(0, [99, 0, "from the future"])] and reader.events == 1
