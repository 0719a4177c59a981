"""Points as the lines of a metric file: `<ms> <value> <step>`, the value as ``repr`` writes it.

``repr(float)`` takes 400 ns, more than all else that is done with a point; msgspec's JSON finds the same shortest
digits in 30. The two write alike what needs no exponent, and that is seen for many values at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import lt
from typing import Any

import msgspec

Point = tuple[int, int, float]  # ms, step, value
Place = tuple[int, int]  # (ms, step)
Row = tuple[int, int, bytes]  # ms, step, one big-endian float64 for each key of a set
BLOCK_POINTS = 4096  # become text at once: more would leave the processor's cache, and take memory

_encode = msgspec.json.Encoder().encode


class Lines(Sequence[Point]):
    """Points that rise strictly, none of them infinite, as the lines that hold them. Looking at one parses it.

    Attributes:
        low, high: (ms, step) of the first and the last.
    """

    __slots__ = ("_count", "data", "high", "low")

    def __init__(self, data: bytes, low: Place, high: Place, count: int) -> None:
        self.data, self.low, self.high, self._count = data, low, high, count

    @classmethod
    def of(cls, points: Sequence[Point]) -> Lines | None:
        """Return *points* as lines, or None if they do not rise or are none."""
        if not points or not _rise(points):
            return None
        if len(points) == 1:
            ms, step, value = points[0]
            data = b"%d %a %d\n" % (ms, value, step)
        else:
            text = _encode([(ms, value, step) for ms, step, value in points])
            data = _lines_in(text) if _is_repr(text) else bytes_of(points)
        # Infinities sort apart from the largest floats but are the same point; nothing else slips by.
        if b"n" in data and b"inf" in data:
            return None
        return cls(data, points[0][:2], points[-1][:2], len(points))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Point]:
        return map(_point_in, self.data.splitlines())

    def __getitem__(self, at: Any) -> Any:
        if at == -1:
            return _point_in(self.data[self.data.rfind(b"\n", 0, -1) + 1 : -1])
        return next(iter(self)) if at == 0 else list(self)[at]

    def cut(self, size: int) -> tuple[Lines, Lines | None]:
        """Return the lines in the first *size* bytes, which end with one, and those behind, None without any."""
        if size >= len(self.data):
            return self, None
        data, rest = self.data[:size], self.data[size:]
        count = data.count(b"\n")
        behind = Lines(rest, self.low, self.high, self._count - count)
        behind.low = behind[0][:2]
        before = Lines(data, self.low, self.high, count)
        before.high = before[-1][:2]
        return before, behind


def _point_in(line: bytes) -> Point:
    ms, value, step = line.split(b" ")
    return int(ms), int(step), float(value)


def _lines_in(text: bytes) -> bytes:
    """`[[1,2.0,3],[4,5.0,6]]` → lines."""
    return text[2:-2].replace(b"],[", b"\n").replace(b",", b" ") + b"\n"


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
    whole = blocks[0] if len(blocks) == 1 else map(b"".join, zip(*blocks, strict=True))
    low, high, count = rows[0][:2], rows[-1][:2], len(rows)
    every = (Lines(data, low, high, count) for data in whole)
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
