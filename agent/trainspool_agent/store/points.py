"""Metric points as they lie in a file: what makes two of them one, and the blocks in which they are looked for.

A point is the same as another if ms, step and value are, with -0.0 = 0.0, ±inf = ±max float, all NaNs equal: one such
pair aborts MLflow's migration.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from trainspool_agent.store.limits import DECODED_BLOCKS_MAX
from trainspool_agent.store.lines import Place

Identity = tuple[int, int, "float | None"]
LINE = re.compile(rb"^(-?\d+) ([-+.\w]+) (-?\d+)$", re.MULTILINE)
BEFORE_ALL: Place = (-(1 << 80), 0)


def identity(ms: int, step: int, value: float) -> Identity:
    """Return what makes two points one: equal and hashed alike for the same point."""
    if math.isnan(value):
        return ms, step, None
    if math.isinf(value):
        value = math.copysign(sys.float_info.max, value)
    return ms, step, value


class Block:
    """A stretch of whole lines and the range of their (ms, step)."""

    __slots__ = ("begin", "end", "high", "low")

    def __init__(self, begin: int, end: int, low: Place, high: Place) -> None:
        self.begin, self.end, self.low, self.high = begin, end, low, high


class DecodedBlocks:
    """The decoded blocks looked into last, of all files of a store."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[Block, tuple[int, set[Identity]]] = OrderedDict()

    def get(self, fd: int, block: Block) -> set[Identity]:
        """Return the points in *block*; what was appended to it since the last look is all that is read."""
        upto, points = self._blocks.pop(block, (block.begin, set()))
        if upto < block.end:
            points.update(identities(os.pread(fd, block.end - upto, upto)))
        self._blocks[block] = block.end, points
        while len(self._blocks) > DECODED_BLOCKS_MAX:
            self._blocks.popitem(last=False)
        return points


def identities(data: bytes) -> Iterator[Identity]:
    """Yield the points of whole lines; lines that no MLflow writes are passed over."""
    lines = LINE.findall(data)
    if len(lines) != data.count(b"\n"):
        yield from _odd_identities(data)
        return
    for ms, value, step in lines:
        try:
            yield identity(int(ms), int(step), float(value))
        except ValueError:
            continue


def _odd_identities(data: bytes) -> Iterator[Identity]:
    for line in data.split(b"\n"):
        fields = line.split()
        if len(fields) in (2, 3, 5):
            try:
                yield identity(int(fields[0]), int(fields[2]) if len(fields) > 2 else 0, float(fields[1]))
            except ValueError:
                continue


def range_of(places: Iterable[Place]) -> tuple[Place, Place]:
    """Return the smallest and largest place; of none, a range that holds nothing."""
    known = list(places)
    return (min(known), max(known)) if known else ((1 << 80, 0), BEFORE_ALL)
