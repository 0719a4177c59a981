"""Write tests/data/v1: two small streams of format version 1, and what a reader must find in them.

    python tests/data/make_v1.py [FOLDER]

Everything is fixed (ids, times, values), so a second run writes the same bytes. The folder is kept for ever: a later
version of the format adds a script and a folder, and leaves these as they are.

``ORDERLY`` has three segments: every kind of event, NaN and infinities, repeated definitions, fillers, a trailing
element that a reader of version 1 ignores, a frame that stands in two segments (as after a failed sync), a heartbeat,
the seal of a process that leaves in order, and in the last one the epitaph, by the next holder of the lock.

``KILLED`` began long ago (retention took its first segments): one segment with a torn tail, and a ring of two chunks
that holds the rest; the ring's ``head`` is older than the segment's end.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from trainspool.spool import events as ev
from trainspool.spool import frame, layout

HOST = "vector-host"
ORDERLY = "0123456789abcdef0123456789abcdef"
KILLED = "feedfacecafebeeffeedfacecafebeef"
RUN = "11111111111111111111111111111111"
GUEST_RUN = "22222222222222222222222222222222"
T0 = 1_700_000_000_000_000_000
MS = 1_000_000
CHUNK_BYTES = 65536
RING_HEADER_BYTES = 65536


class Body:
    """Events of one frame, counted, and the definitions among them."""

    def __init__(self, *parts: tuple[Any, ...] | bytes) -> None:
        self.events = self.points = 0
        self.definitions = b""
        self.packed: list[bytes] = []
        for part in parts:
            data = part if isinstance(part, bytes) else ev.pack(*part)
            self.packed.append(data)
            if isinstance(part, tuple):
                self._count(part, data)

    def _count(self, event: tuple[Any, ...], data: bytes) -> None:
        if event[0] in ev.DEFINITIONS:
            self.definitions += data
        else:
            self.events += 1
            self.points += ev.points_in(list(event))

    @property
    def data(self) -> bytes:
        return b"".join(self.packed)


class Vector:
    """One stream as its writer would write it: frames by position, and the expected lines beside them."""

    def __init__(self, stream: str, offset: int = 0, events: int = 0, points: int = 0) -> None:
        self.stream, self.offset, self.events, self.points = stream, offset, events, points
        self.expected: list[dict[str, Any]] = []

    def mark(self, kind: int, events: bytes = b"") -> bytes:
        """Return a frame that occupies no stream offsets: identity, dictionary, seal, heartbeat."""
        return frame.encode(
            kind,
            bytes.fromhex(self.stream),
            self.offset,
            events=events,
            events_before=self.events,
            points_before=self.points,
        )

    def data(self, body: Body, definitions: bytes = b"") -> bytes:
        """Return the next data frame and advance."""
        encoded = frame.encode(
            frame.DATA, bytes.fromhex(self.stream), self.offset, definitions=definitions, events=body.data,
            events_before=self.events, points_before=self.points, event_count=body.events, point_count=body.points,
        )  # fmt: skip
        self.expect(body)
        return encoded

    def expect(self, body: Body) -> None:
        for data in body.packed:
            for event in ev.decode(data):
                self.expected.append({"stream": self.stream, "offset": self.offset, "event": plain(event)})
            self.offset += len(data)
        self.events += body.events
        self.points += body.points

    def identity(self, ring: str | None) -> bytes:
        return msgpack_map(
            format=1, stream=self.stream, host=HOST, boot="00000000-0000-4000-8000-000000000001", pid=4242,
            pidns=4026531836, started=123456, uid=1000, rank=None, wall=T0, mono=5_000 * MS,
            spool="/home/someone/.local/state/trainspool/spool", ring=ring, sdk="0.1.0", program="train.py",
        )  # fmt: skip


def msgpack_map(**entries: Any) -> bytes:
    return ev.pack(entries)[1:]  # pack() makes an array of one; its header is one byte


def values(*numbers: float) -> bytes:
    return ev.doubles(len(numbers)).pack(*numbers)


def plain(value: Any) -> Any:
    """Return *value* as JSON can hold it: packed values as a list, NaN and infinities as text."""
    if isinstance(value, bytes):
        return [plain(number) for (number,) in struct.iter_unpack(">d", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


DEFINE_KEYSET = (ev.DEFINE_KEYSET, 0, [0, 1, 2])
DEFINE_LOSS = (ev.DEFINE_KEY, 0, "loss")
DEFINE_ACCURACY = (ev.DEFINE_KEY, 1, "val/准确率")
DEFINE_RATE = (ev.DEFINE_KEY, 2, "lr")
DEFINE_RUN = (ev.DEFINE_RUN, 0, RUN, True, "/home/someone/mlruns", None, "我的首个ML项目")
DEFINE_GUEST = (ev.DEFINE_RUN, 1, GUEST_RUN, False, "/home/someone/mlruns", "7", None)


def orderly() -> tuple[Vector, dict[layout.SegmentName, bytes]]:
    v = Vector(ORDERLY)
    identity = v.identity(ring=None)
    begin = Body(
        (ev.EXPERIMENT, T0, "/home/someone/mlruns", None, "我的首个ML项目", ["team", "vision"]),
        DEFINE_RUN,
        (ev.START, 0, T0 + 1, {"name": "first", "user": "someone", "tags": {"stage": "try"}, "resume": False}),
        (ev.PARAMS, 0, T0 + 2, ["lr", "0.1", "layers", "[64, 64]"]),
        (ev.TAGS, 0, T0 + 3, ["note", "keep", "old", None]),
        DEFINE_LOSS,
        (ev.POINT, 0, 0, T0 + 4, 0, 2.5),
    )
    numbers = Body(
        DEFINE_ACCURACY,
        DEFINE_RATE,
        DEFINE_KEYSET,
        (ev.POINTS, 0, 0, T0 + 10 * MS, 1, values(1.25, 0.5, 0.1)),
        (ev.POINTS, 0, [2, 0], T0 + 11 * MS, -3, values(math.inf, math.nan)),
        (ev.POINT, 0, 0, T0 + 9 * MS, 2**63 - 1, math.nan),
        (ev.POINT, 0, 0, T0 + 12 * MS, -(2**63), -math.inf),
        ev.FILLER * 5,
        (ev.POINT, 0, 0, T0 + 12 * MS, 2, 7, "a trailing element, to be ignored"),
    )
    guest = Body(DEFINE_GUEST, (ev.POINT, 1, 0, T0 + 20 * MS, 3, -0.0))
    first = v.mark(frame.IDENTITY, identity) + v.data(begin) + v.data(numbers, begin.definitions)
    second_name = layout.SegmentName(v.offset, 0)
    second = v.mark(frame.IDENTITY, identity) + v.mark(frame.DICTIONARY, begin.definitions + numbers.definitions)
    twice = v.data(guest, numbers.definitions)
    end = Body(
        (ev.ARTIFACT, 0, T0 + 30 * MS, "model/weights.bin", "a1b2.weights", 1_048_576, 0o644),
        (ev.STAGED_TAG, 0, T0 + 31 * MS, "mlflow.note.content", "c3d4.tag"),
        (ev.ARTIFACT, 0, T0 + 31 * MS, "last.pt", "e5f6-last.pt", 3, 0o644, "linked", T0, bytes(range(16))),
        (ev.MEDIA, 0, T0 + 31 * MS, "cat.png", "b7c8", 12, {"form": "image", "dtype": "|u1", "shape": [2, 2, 3]}),
        (
            ev.INPUT,
            0,
            T0 + 31 * MS,
            {
                "name": "digits",
                "digest": "5e1f",
                "source_type": "local",
                "source": "{}",
                "schema": None,
                "profile": None,
            },
            ["mlflow.data.context", "train"],
        ),
        (ev.GAP, 0, T0 + 32 * MS, 12, 3),
        (ev.END, 0, T0 + 33 * MS, ev.FINISHED, None),
    )
    second += twice + v.mark(frame.HEARTBEAT) + v.data(end, guest.definitions) + v.mark(frame.SEAL, ev.pack(True)[1:])
    third_name = layout.SegmentName(v.offset, 0)
    still_in_use = numbers.definitions + guest.definitions + ev.pack(*DEFINE_LOSS)  # the run that ended is not
    third = v.mark(frame.IDENTITY, identity) + v.mark(frame.DICTIONARY, still_in_use)
    third += v.data(Body((ev.EPITAPH, T0 + 33 * MS, ev.FINISHED, None))) + v.mark(frame.SEAL)
    return v, {layout.SegmentName(0, 0): first + twice, second_name: second, third_name: third}


def killed() -> tuple[Vector, dict[layout.SegmentName, bytes], bytes]:
    born = 2 * CHUNK_BYTES - 300
    ring_path = f"/dev/shm/trainspool-1000/{KILLED}.ring"
    v = Vector(KILLED, offset=born, events=1000, points=900)
    identity = v.identity(ring=ring_path)
    dictionary = ev.pack(*DEFINE_RUN) + ev.pack(*DEFINE_LOSS)
    in_segment = Body(*((ev.POINT, 0, 0, T0 + n * MS, n, 1 / n) for n in (1, 2)))
    torn = Body(*((ev.POINT, 0, 0, T0 + n * MS, n, 1 / n) for n in (3, 4, 5)))
    segment = v.mark(frame.IDENTITY, identity) + v.mark(frame.DICTIONARY, dictionary) + v.data(in_segment)
    segment += v.data(torn)[:-20]  # killed in the middle of a write; the ring still has these
    room = 2 * CHUNK_BYTES - v.offset
    fills = Body(ev.FILLER * room)
    v.expect(fills)
    next_chunk = Body(
        DEFINE_ACCURACY,
        (ev.POINT, 0, 1, T0 + 6 * MS, 6, 0.75),
        (ev.GAP, 0, T0 + 7 * MS, 7, 2),
        (ev.POINT, 0, 0, T0 + 8 * MS, 8, 0.125),
    )
    v.expect(next_chunk)
    tail_of_old_chunk = in_segment.data + torn.data + fills.data
    old_chunk = tail_of_old_chunk.rjust(CHUNK_BYTES, ev.FILLER)
    uncommitted = ev.pack(ev.POINT, 0, 0, T0 + 9 * MS, 9, 9.0)[:-3]
    new_chunk = (next_chunk.data + uncommitted).ljust(CHUNK_BYTES, b"\0")
    header = ring_header(
        identity, head=born, chunks=[(2 * CHUNK_BYTES, len(next_chunk.data)), (CHUNK_BYTES, CHUNK_BYTES)]
    )
    return v, {layout.SegmentName(born, 1): segment}, header + new_chunk + old_chunk


def ring_header(identity: bytes, head: int, chunks: list[tuple[int, int]]) -> bytes:
    header = bytearray(RING_HEADER_BYTES)
    struct.pack_into(
        "<8sII16sIII", header, 0, b"TSRING1\0", 1, CHUNK_BYTES, bytes.fromhex(KILLED),
        len(chunks), len(identity), zlib.crc32(identity),
    )  # fmt: skip
    struct.pack_into("<QQ", header, 64, head, 0)
    for i, chunk in enumerate(chunks):
        struct.pack_into("<QQ", header, 128 + 16 * i, *chunk)
    header[4096 : 4096 + len(identity)] = identity
    struct.pack_into("<32sQQ", header, 8192, RUN.encode(), 7, 2)
    return bytes(header)


def write(folder: Path) -> None:
    """Write both streams, the ring and the expected lines into *folder*."""
    ended, ended_segments = orderly()
    dead, dead_segments, ring = killed()
    for vector, segments in ((ended, ended_segments), (dead, dead_segments)):
        home = layout.stream_folder(folder, HOST, vector.stream)
        home.mkdir(parents=True, exist_ok=True)
        for name, data in segments.items():
            (home / str(name)).write_bytes(data)
    (folder / f"{KILLED}.ring.gz").write_bytes(gzip.compress(ring, mtime=0))
    lines = [*ended.expected, *dead.expected]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "expected.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "v1")
