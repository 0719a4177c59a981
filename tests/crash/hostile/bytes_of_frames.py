"""Attacks by frames and bytes: headers that lie, bytes that look like headers, msgpack that promises much."""

from __future__ import annotations

import struct
import zlib

import msgpack
from crash.hostile.attack import Corpus
from crash.hostile.scene import Pen, Scene

from trainspool.spool import events as ev
from trainspool.spool import frame

CORPUS = Corpus()
END = 2**64 - 1


def forged_header(
    pen: Pen,
    kind: int = 0,
    offset: int = 0,
    lengths: tuple[int, int] = (0, 0),
    before: tuple[int, int] = (0, 0),
    counts: tuple[int, int] = (0, 0),
    body: bytes = b"",
    version: int = 1,
    stream: bytes | None = None,
) -> bytes:
    head = struct.pack(
        "<4sBBH16sQIIQQIII",
        b"TSF1",
        version,
        kind,
        0,
        stream or pen.raw,
        offset,
        *lengths,
        *before,
        *counts,
        zlib.crc32(body),
    )
    return head + zlib.crc32(head).to_bytes(4, "little") + body


def _header(scene: Scene, fields: dict[str, object]) -> None:
    pen = scene.hostile()
    pen.bytes(forged_header(pen, **{"offset": pen.offset, **fields}))  # type: ignore[arg-type]
    pen.data(pen.point(99), points=1)
    pen.seal()


CORPUS.each(
    "header with",
    _header,
    {
        "lengths without end": {"lengths": (2**32 - 1, 2**32 - 1)},
        "a body of a gigabyte": {"lengths": (0, 2**30)},
        "an offset without end": {"offset": END},
        "counts without end": {"offset": 10**6, "before": (END, END)},
        "an end beyond 64 bits": {"offset": END, "lengths": (0, 4), "body": b"\xc0" * 4},
        "counts without end inside": {"lengths": (0, 1), "counts": (2**32 - 1, 2**32 - 1), "body": b"\xc0"},
        "a kind of its own": {"kind": 200},
        "a version of its own": {"version": 9},
        "another stream's id": {"stream": b"\7" * 16, "lengths": (0, 1), "body": b"\xc0"},
    },
)


@CORPUS.add("losses that add up beyond 64 bits")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    for number in range(1, 20):
        before = (END >> 1) * (number % 2)
        pen.bytes(
            forged_header(pen, offset=pen.offset + 1000 * number, lengths=(0, 1), before=(before, before), body=b"\xc0")
        )


@CORPUS.add("bytes that look like headers all along", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    pen.bytes((b"TSF1\1\0\0\0" + pen.raw) * (24 << 20 >> 5))
    pen.data(pen.point(99), points=1)


@CORPUS.add("magic all along")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    pen.bytes(b"TSF1" * (32 << 18))
    pen.data(pen.point(99), points=1)


def _bad_bodies(scene: Scene, segments: int, count: int) -> None:
    pen = scene.hostile()
    for _ in range(segments):
        pen.path = pen.folder / f"{pen.offset:016x}.00.seg"
        if not pen.path.exists():
            pen.bytes(frame.encode(frame.IDENTITY, pen.raw, pen.offset, events=msgpack.packb(pen.identity)))
        found = []
        for _ in range(count):
            found.append(
                forged_header(
                    pen,
                    offset=pen.offset,
                    lengths=(0, 4),
                    before=(pen.events, pen.points),
                    counts=(1, 1),
                    body=b"\xc0" * 4,
                )[:-1]
                + b"!"
            )
            pen.offset, pen.events, pen.points = pen.offset + 4, pen.events + 1, pen.points + 1
        pen.bytes(b"".join(found))


@CORPUS.add("ten thousand damaged frames in twenty segments")
def _(scene: Scene) -> None:
    _bad_bodies(scene, 20, 500)


@CORPUS.add("ten thousand damaged frames in one segment")
def _(scene: Scene) -> None:
    _bad_bodies(scene, 1, 10_000)


@CORPUS.add("ten thousand gaps")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    pen.bytes(
        b"".join(
            forged_header(pen, offset=pen.offset + 8 * n, lengths=(0, 4), before=(pen.events + n, 0), body=b"\xc0" * 4)
            for n in range(1, 10_001)
        )
    )


@CORPUS.add("a thousand segments without events", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    identity = msgpack.packb(pen.identity)
    for number in range(1000):
        path = pen.folder / f"{pen.offset + number:016x}.00.seg"
        if not path.exists():
            path.write_bytes(frame.encode(frame.IDENTITY, pen.raw, pen.offset + number, events=identity))


def _events(scene: Scene, body: bytes) -> None:
    pen = scene.hostile()
    pen.data(body)
    pen.data(pen.point(99), points=1)
    pen.seal()


CORPUS.each(
    "msgpack with",
    _events,
    {
        "arrays of a million, nested": b"\xdd\x00\x10\x00\x00" * 1000,
        "arrays of a million, nested, in a large frame": (b"\xdd\x00\x10\x00\x00" * 1000).ljust(500_000, b"\xc0"),
        "arrays of four billion": b"\xdd\xff\xff\xff\xff",
        "maps of four billion": b"\x92\x05\xdf\xff\xff\xff\xff",
        "a text of four billion": b"\x92\x05\xdb\xff\xff\xff\xff",
        "bytes of four billion": b"\x92\x05\xc6\xff\xff\xff\xff",
        "an ext": b"\x92\x05\xc7\x04\x01abcd",
        "a timestamp ext": b"\x92\x05\xd6\xff\x00\x00\x00\x00",
        "nesting of a thousand": b"\x91" * 1000 + b"\x01",
        "nesting of a hundred thousand": b"\x91" * 100_000,
        "a map with a list for a key": b"\x92\x05\x81\x91\x01\x01",
        "a byte that is no msgpack": b"\xc1" * 1000,
        "nothing but arrays": b"\x91\x90" * 100_000,
        "nothing but numbers": b"\x01" * 100_000,
        "a map of sixty thousand": b"\x92\x05"
        + b"\xde\xea\x60"
        + b"".join(b"\xce" + n.to_bytes(4, "big") + b"\x00" for n in range(60_000)),
    },
)


def _identity(scene: Scene, fields: dict[str, object]) -> None:
    pen = scene.pen(**fields)
    pen.data(pen.run(), ev.pack(ev.DEFINE_KEY, 0, "k"), pen.start(), pen.point(), count=2, points=1)


CORPUS.each(
    "identity with",
    _identity,
    {
        "bytes for a pid": {"pid": b"\xff\xfe"},
        "a list for a pid": {"pid": [1]},
        "a pid without end": {"pid": 2**63},
        "a negative pid": {"pid": -1},
        "bytes for a rank": {"rank": b"\xff"},
        "bytes for a host": {"host": b"\xff"},
        "escapes for a program": {"program": "\x1b]0;owned\x07\x1b[2J/evil"},
        "a megabyte of program": {"program": "A" * 900_000},
        "a list for a program": {"program": [["x"]]},
        "a ring by NUL": {"ring": "/a\0b.ring"},
        "a map for a boot": {"boot": {"a": 1}},
        "a text for a start": {"started": "1"},
        "nested maps": {"extra": {"a": {"b": {"c": [1, [2, [3]]]}}}},
        "a wall clock of text": {"wall": "now"},
    },
    harmless=True,
)


@CORPUS.add("identity that is a list", harmless=True)
def _(scene: Scene) -> None:
    pen = Pen(scene.spool, str(scene.store))
    scene.pens.append(pen)
    pen.identity = [1, 2, 3]  # type: ignore[assignment]
    pen.begin()
    pen.data(pen.run(), pen.start(), count=1)
