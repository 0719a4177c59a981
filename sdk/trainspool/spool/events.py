"""The kinds of event, their msgpack form, and what a run of them counts.

Source: sdk/docs/spool-format.md, "Events".
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

FORMAT_VERSION = 1

POINT = 0
POINTS = 1
DEFINE_KEY = 2
DEFINE_KEYSET = 3
DEFINE_RUN = 4
START = 5
END = 6
PARAMS = 7
TAGS = 8
ARTIFACT = 9
GAP = 10
EPITAPH = 11
EXPERIMENT = 12
STAGED_TAG = 13
MEDIA = 14
INPUT = 15

DEFINITIONS = frozenset((DEFINE_KEY, DEFINE_KEYSET, DEFINE_RUN))
NAMING_STAGED = frozenset((ARTIFACT, STAGED_TAG, MEDIA))  # their fifth element is a file in the staging folder
KIND_NAMES = (
    "point", "points", "define key", "define keyset", "define run", "start", "end", "params", "tags", "artifact",
    "gap", "epitaph", "experiment", "staged tag", "media", "input",
)  # fmt: skip

RUNNING, SCHEDULED, FINISHED, FAILED, KILLED = 1, 2, 3, 4, 5
STATUS_NAMES = {RUNNING: "RUNNING", SCHEDULED: "SCHEDULED", FINISHED: "FINISHED", FAILED: "FAILED", KILLED: "KILLED"}
STATUS_NUMBERS = {name: number for number, name in STATUS_NAMES.items()}

FILLER = b"\xc0"
EVENT_BYTES_MAX = 1 << 20
_LIMITS: dict[str, Any] = {
    "raw": False,
    "strict_map_key": False,
    "unicode_errors": "surrogateescape",
    "max_str_len": EVENT_BYTES_MAX,
    "max_bin_len": EVENT_BYTES_MAX,
    "max_array_len": EVENT_BYTES_MAX,
    "max_map_len": 1 << 16,
    "max_ext_len": 0,
}


def pack(*elements: Any) -> bytes:
    """Return one event as msgpack; strings with lone surrogates are kept as they are.

    Raises:
        TypeError: an element is no msgpack type.
    """
    packed: bytes = msgpack.packb(elements, unicode_errors="surrogateescape")
    return packed


@lru_cache(maxsize=4096)
def doubles(count: int) -> struct.Struct:
    """Return the struct of *count* big-endian float64: the form of ``values`` in a points event."""
    return struct.Struct(f">{count}d")


def unpacker(data: bytes | memoryview) -> Any:
    """Return a bounded msgpack reader over *data*; iterate it for events, ``None`` for fillers."""
    reader = msgpack.Unpacker(max_buffer_size=len(data) + 1, use_list=True, **_LIMITS)
    reader.feed(data)
    return reader


def shown(value: Any) -> str:
    """Return some of what *value*, from a stream, looks like: a repr of its own would follow it however deep it is."""
    return reprlib.repr(value)[:80]


def check_complete(reader: Any) -> None:
    """Raise ValueError if what *reader* has left is the beginning of an event whose rest is missing."""
    reader.feed(FILLER)  # it comes back as None only if it does not complete something else
    try:
        is_complete = next(reader, 0) is None
    except TypeError:  # a map that it completes, with an array for a key
        is_complete = False
    if not is_complete:
        raise ValueError("the last event is cut off")


def decode(data: bytes | memoryview) -> Iterator[list[Any]]:
    """Yield the events of *data* in order, fillers left out.

    Raises:
        ValueError: an element that is neither an array of the format's shape nor a filler, or the last one is cut off.
        msgpack.exceptions.UnpackException: not msgpack, or beyond the limits.
    """
    reader = unpacker(data)
    while True:
        try:
            event = next(reader)
        except StopIteration:
            check_complete(reader)
            return
        except TypeError as error:  # a map with an array for a key
            raise ValueError(f"not an event: {error}") from error
        if event is None:
            continue
        if type(event) is not list or not event or type(event[0]) is not int:
            raise ValueError(f"not an event: {shown(event)}")
        yield event


class Piece(NamedTuple):
    """A run of whole events: what one frame carries."""

    data: bytes
    events: int
    points: int
    definitions: list[bytes]
    ended: list[int]  # ids of runs with an end event in it


def points_in(event: list[Any]) -> int:
    """Return how many metric points *event* holds."""
    if event[0] == POINT:
        return 1
    return len(event[5]) // 8 if event[0] == POINTS else 0


def pieces(data: bytes, piece_bytes: int) -> Iterator[Piece]:
    """Cut *data*, whole events, into runs of about *piece_bytes* and count each.

    Raises:
        ValueError, TypeError, LookupError: *data* does not consist of whole events.
        msgpack.exceptions.UnpackException: it is not msgpack, or beyond the limits.
    """
    reader = unpacker(data)
    begin = events = points = 0
    definitions: list[bytes] = []
    ended: list[int] = []
    for event in reader:
        if event is None:
            continue
        kind = event[0]
        if kind == POINT:
            events += 1
            points += 1
        elif kind in DEFINITIONS:
            definitions.append(pack(*event))
        else:
            events += 1
            points += points_in(event)
            if kind == END:
                ended.append(event[1])
        if kind != POINT or not events & 63:  # asking costs as much as a point; the others may be large
            end = reader.tell()
            if end - begin >= piece_bytes:
                yield Piece(data[begin:end], events, points, definitions, ended)
                begin, events, points, definitions, ended = end, 0, 0, [], []
    check_complete(reader)
    if begin < len(data):
        yield Piece(data[begin:], events, points, definitions, ended)
