"""Inputs for fuzzing: sound bytes to begin with, and what may become of them."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from trainspool.spool import events as ev
from trainspool.spool import frame

DATA = Path(__file__).parents[1] / "data" / "v1"
SEGMENTS = [path.read_bytes() for path in sorted(DATA.glob("streams/*/*/*.seg"))]
RINGS = [gzip.decompress(path.read_bytes()) for path in sorted(DATA.glob("*.ring.gz"))]
STREAM = bytes.fromhex("0123456789abcdef0123456789abcdef")
_EDGES = (
    0,
    1,
    2,
    3,
    5,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -1,
    -(2**63),
)
_TEXTS = (
    "",
    "a",
    "loss",
    "a/b",
    "../x",
    "/etc",
    ".",
    "..",
    "\0",
    "a\n",
    "k" * 300,
    "é",
    "損",
    "\udcff",
    "a" * 32,
    "tags",
    "models",
)


def frames_of(data: bytes) -> list[bytes]:
    """Cut a sound segment into its frames."""
    found, at = [], 0
    while (header := frame.parse_header(data, at)) is not None:
        end = at + frame.HEADER_BYTES + header.body_length
        found.append(data[at:end])
        at = end
    return found


FRAMES = [one for segment in SEGMENTS for one in frames_of(segment)]


def mutated(random: Random, data: bytes, most: int = 6) -> bytes:
    """Return *data* with some flips, cuts, doublings, strange numbers."""
    found = bytearray(data)
    for _ in range(random.randint(1, most)):
        at = random.randrange(len(found) + 1)
        length = min(random.choice((1, 1, 2, 4, 8, 40, 300)), len(found) - at)
        what = random.randrange(6)
        if what == 0 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif what == 1:
            del found[at : at + length]
        elif what == 2:
            found[at:at] = random.randbytes(random.choice((1, 3, 8, 70)))
        elif what == 3:
            found[at:at] = found[at : at + length]
        elif what == 4:
            found[at : at + length] = random.choice((b"\xff", b"\0", b"\xdd", b"\x91", b"\xc1", b"\x80")) * length
        else:
            number = random.choice(_EDGES) % 2**64
            found[at : at + 8] = struct.pack(random.choice("<>") + "Q", number)
    return bytes(found)


def segment(random: Random) -> bytes:
    """Return a segment: frames left out, doubled, reordered, changed inside, with right checksums or wrong ones."""
    frames = list(random.choice(_BY_SEGMENT))
    for _ in range(random.randint(1, 5)):
        at = random.randrange(len(frames))
        what = random.randrange(7)
        if what == 0:
            frames.insert(random.randrange(len(frames) + 1), frames[at])
        elif what == 1 and len(frames) > 1:
            del frames[at]
        elif what == 2:
            other = random.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        elif what == 3:
            frames[at] = mutated(random, frames[at])
        elif what == 4:
            frames[at] = resealed(random, frames[at])
        elif what == 5:
            frames.insert(at, random.choice(FRAMES))
        else:
            frames[at] = frames[at][: random.randrange(len(frames[at]) + 1)]
    return b"".join(frames)


_BY_SEGMENT = [frames_of(data) for data in SEGMENTS]


def resealed(random: Random, data: bytes) -> bytes:
    """Change a frame's header or body, and make the checksums right again, so that its inside is reached."""
    if len(data) < frame.HEADER_BYTES:
        return data
    head, body = bytearray(data[: frame.HEADER_BYTES]), data[frame.HEADER_BYTES :]
    if random.random() < 0.6:
        body = (
            mutated(random, body, 3)
            if random.random() < 0.5
            else b"".join(event(random) for _ in range(random.randint(1, 5)))
        )
        definitions = min(struct.unpack_from("<I", head, 32)[0], len(body)) if random.random() < 0.7 else 0
        struct.pack_into("<II", head, 32, definitions, len(body) - definitions)
    if random.random() < 0.5:
        at, form = random.choice(
            ((24, "Q"), (40, "Q"), (48, "Q"), (56, "I"), (60, "I"), (32, "I"), (36, "I"), (5, "B"), (4, "B"))
        )
        number = random.choice((*_EDGES, struct.unpack_from("<" + form, head, at)[0] + random.randint(-9, 9)))
        struct.pack_into("<" + form, head, at, number % 256 ** struct.calcsize(form))
    struct.pack_into("<I", head, 64, zlib.crc32(body))
    struct.pack_into("<I", head, 68, zlib.crc32(bytes(head[:68])))
    return bytes(head) + body


def value(random: Random, depth: int = 0) -> Any:
    """Return anything msgpack has."""
    what = random.randrange(9 if depth < 3 else 7)
    if what == 0:
        return random.choice(_EDGES)
    if what == 1:
        return random.randint(0, 4)
    if what == 2:
        return random.choice(_TEXTS)
    if what == 3:
        return random.choice((None, True, False))
    if what == 4:
        return random.choice((0.5, float("nan"), float("inf"), -0.0, 1e308))
    if what == 5:
        return random.randbytes(random.choice((0, 1, 7, 8, 16)))
    if what == 6:
        return random.choice(_TEXTS[:4])
    if what == 7:
        return [value(random, depth + 1) for _ in range(random.randint(0, 4))]
    return {
        random.choice(("name", "user", "tags", "resume", "runs", "offset")): value(random, depth + 1) for _ in range(3)
    }


def event(random: Random) -> bytes:
    """Return one event: of the right shape, nearly, or not at all."""
    if random.random() < 0.1:
        return bytes(msgpack.packb(value(random), unicode_errors="surrogateescape"))
    elements = list(random.choice(_SHAPES))
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        elements[random.randrange(len(elements))] = value(random)
    if random.random() < 0.05:
        elements = elements[: random.randrange(len(elements) + 1)]
    return ev.pack(*elements)


_T = 1_700_000_000_000_000_000
_SHAPES: list[tuple[Any, ...]] = [
    (ev.POINT, 0, 0, _T, 5, 0.25),
    (ev.POINTS, 0, 0, _T, 5, bytes(16)),
    (ev.POINTS, 0, [0, 1], _T, 5, bytes(16)),
    (ev.DEFINE_KEY, 0, "loss"),
    (ev.DEFINE_KEY, 1, "../../up"),
    (ev.DEFINE_KEYSET, 0, [0, 1]),
    (ev.DEFINE_RUN, 0, "r" * 32, True, "/s", None, "exp"),
    (ev.DEFINE_RUN, 1, "../../x", True, "/s", None, "exp"),
    (ev.START, 0, _T, {"name": "n", "user": "u", "tags": {"a": "b"}, "resume": False}),
    (ev.END, 0, _T, 3, None),
    (ev.PARAMS, 0, _T, ["a", "1", "../b", "2"]),
    (ev.TAGS, 0, _T, ["a", "1", "b", None]),
    (ev.ARTIFACT, 0, _T, "a/b", "staged", 5, 0o644),
    (ev.GAP, 0, _T, 5, 6),
    (ev.EPITAPH, _T, 5, "killed"),
    (ev.EXPERIMENT, _T, "/s", None, "exp", ["a", "b"]),
    (ev.STAGED_TAG, 0, _T, "note", "staged"),
    (ev.ARTIFACT, 0, _T, "a/b", "staged", 5, 0o644, "linked", _T, b"f" * 16),
    (ev.MEDIA, 0, _T, "a.png", "staged", 12, {"form": "image", "dtype": "|u1", "shape": [2, 2, 3]}),
    (ev.INPUT, 0, _T, {"name": "n", "digest": "d", "source_type": "t", "source": "s", "schema": None}, ["a", "b"]),
    (77, 0, 1),
]
