"""Points as the lines of a metric file: `<ms> <value> <step>`, the value as ``repr`` writes it.

``repr(float)`` takes ten times what all else takes that is done with a point; msgspec's JSON finds the same shortest
digits in 30 ns instead of 400. The two write alike what needs no exponent, and that is seen for many values at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from operator import lt
from typing import Any

import msgspec

Point = tuple[int, int, float]  # ms, step, value
Row = tuple[int, int, bytes]  # ms, step, one big-endian float64 for each key of a set
BLOCK_POINTS = 4096  # become text at once: more would leave the processor's cache, and take memory

_encode = msgspec.json.Encoder().encode


class Lines(Sequence[Point]):
    """Points that rise strictly, none of them infinite, with their lines already made."""

    __slots__ = ("_count", "_first", "_last", "data")

    def __init__(self, data: bytes, first: Point, last: Point, count: int) -> None:
        self.data, self._first, self._last, self._count = data, first, last, count

    @classmethod
    def of(cls, points: Sequence[Point]) -> Lines | None:
        """Return *points* as lines, or None if they do not rise or are none."""
        if not points or not _rise(points):
            return None
        text = _encode([(ms, value, step) for ms, step, value in points])
        if _is_repr(text):
            data = text[2:-2].replace(b"],[", b"\n").replace(b",", b" ") + b"\n"
        else:
            data = bytes_of(points)
            # Infinities sort apart from the largest floats but are the same point; nothing else slips by.
            if b"inf" in data:
                return None
        return cls(data, points[0], points[-1], len(points))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Point]:
        for line in self.data.splitlines():
            ms, value, step = line.split(b" ")
            yield int(ms), int(step), float(value)

    def __getitem__(self, at: Any) -> Any:
        if at in (0, -self._count):
            return self._first
        return self._last if at in (-1, self._count - 1) else list(self)[at]


def bytes_of(points: Sequence[Point]) -> bytes:
    """Return the lines of any points."""
    return "".join([f"{ms} {value!r} {step}\n" for ms, step, value in points]).encode("ascii")


def columns(rows: Sequence[Row], width: int) -> list[Sequence[Point]]:
    """Return the *width* columns of *rows*: as lines, or as points if they do not rise or one is infinite."""
    times, steps, packed = zip(*rows, strict=True)
    if not _rise(list(zip(times, steps, strict=True))):
        values = _doubles(packed, width)
        return [list(zip(times, steps, values[key::width], strict=True)) for key in range(width)]
    at_once = max(1, BLOCK_POINTS // max(1, width))
    blocks = [_block(rows[at : at + at_once], width) for at in range(0, len(rows), at_once)]
    ends = [[(ms, step, value) for value in _doubles((row,), width)] for ms, step, row in (rows[0], rows[-1])]
    whole = blocks[0] if len(blocks) == 1 else map(b"".join, zip(*blocks, strict=True))
    every = map(Lines, whole, *ends, repeat(len(rows)))
    return [list(lines) if b"n" in lines.data and b"inf" in lines.data else lines for lines in every]


def _block(rows: Sequence[Row], width: int) -> list[bytes]:
    """Return the lines of each column: all values become text in one go, and have the same text around them."""
    times, steps, packed = zip(*rows, strict=True)
    around = [b" %d\n%d " % pair for pair in zip(steps, times[1:], strict=False)]
    pieces = [b""] * (2 * len(rows) + 1)
    pieces[::2] = b"%d " % times[0], *around, b" %d\n" % steps[-1]
    values = _doubles(packed, width)
    text = _encode(values)
    texts = text[1:-1].split(b",") if _is_repr(text) else None
    found = []
    for key in range(width):
        pieces[1::2] = texts[key::width] if texts else _texts_of(values[key::width])
        found.append(b"".join(pieces))
    return found


def _texts_of(values: Sequence[float]) -> list[bytes]:
    """Return what ``repr`` makes of each value."""
    text = _encode(values)
    texts = text[1:-1].split(b",")
    if _is_repr(text):
        return texts
    return [
        text if 1e-4 <= value < 1e16 or -1e16 < value <= -1e-4 or value == 0 else b"%a" % value
        for text, value in zip(texts, values, strict=True)
    ]


def _doubles(packed: Sequence[bytes], width: int) -> tuple[float, ...]:
    return struct.unpack(f">{len(packed) * width}d", b"".join(packed))


def _is_repr(text: bytes) -> bool:
    """Whether msgspec's *text* of values is sure to be what ``repr`` writes.

    Not where either uses an exponent (`0.00001` for `1e-05`, `1e16` for `1e+16`), nor what is `null`.
    """
    return b"e" not in text and b"n" not in text and b"0.0000" not in text


def _rise(ordered: Sequence[Any]) -> bool:
    return all(map(lt, ordered, islice(ordered, 1, None)))
