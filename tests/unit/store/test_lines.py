"""The text of points: what ``repr`` makes of their values, whichever way it is made."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainspool_agent.store import lines as lines_module
from trainspool_agent.store.lines import Lines, Point, Row, bytes_of, columns

EDGES = [
    0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1e-5, 9.999e-05, 9.999999999999999e-05, 1e-4, 1.00001, 10.00001, 100.0,
    9999999999999998.0, 1e16, 1.0000000000000002e16, 1e17, 1e22, 123456789012345680.0, 1.7976931348623157e308,
    float(1 << 53), math.nan, math.inf, -math.inf,
]  # fmt: skip
BITS = st.integers(0, (1 << 64) - 1).map(lambda bits: struct.unpack("d", struct.pack("Q", bits))[0])
VALUES = st.one_of(BITS, st.floats(), st.sampled_from(EDGES), st.integers(-(1 << 60), 1 << 60).map(float))
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)


def text_of(points: Sequence[Point]) -> bytes:
    return "".join(f"{ms} {value!r} {step}\n" for ms, step, value in points).encode()


def rows_of(points: list[tuple[int, int, list[float]]]) -> list[Row]:
    return [(ms, step, struct.pack(f">{len(values)}d", *values)) for ms, step, values in points]


@given(st.dictionaries(st.tuples(NUMBERS, NUMBERS), VALUES, min_size=1))
def test_lines_of_points_are_what_repr_makes_of_them(found: dict[tuple[int, int], float]) -> None:
    points = [(*place, found[place]) for place in sorted(found)]
    lines = Lines.of(points)
    if any(map(math.isinf, found.values())):
        assert lines is None
    else:
        assert lines is not None and lines.data == text_of(points)
        assert (str(lines[0]), str(lines[-1]), len(lines)) == (str(points[0]), str(points[-1]), len(points))
        assert str(list(lines)) == str(points)
    assert bytes_of(points) == text_of(points)


@given(st.integers(1, 5), st.integers(1, 20), st.data())
def test_columns_are_what_repr_makes_of_them(width: int, block: int, data: st.DataObject) -> None:
    wide = st.lists(VALUES, min_size=width, max_size=width)
    rows = data.draw(st.lists(st.tuples(NUMBERS, NUMBERS, wide), min_size=1, max_size=20))
    if data.draw(st.booleans()):
        rows.sort(key=lambda row: row[:2])
    rises = all(before[:2] < after[:2] for before, after in pairwise(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "BLOCK_POINTS", block)
        found = columns(rows_of(rows), width)
    assert len(found) == width
    for key, column in enumerate(found):
        points = [(ms, step, values[key]) for ms, step, values in rows]
        infinite = any(math.isinf(point[2]) for point in points)
        assert isinstance(column, Lines) == (rises and not infinite)
        assert str(list(column)) == str(points)
        if isinstance(column, Lines):
            assert column.data == text_of(points)
            assert (str(column[0]), str(column[-1]), len(column)) == (str(points[0]), str(points[-1]), len(points))


@pytest.mark.parametrize("value", [*EDGES, *(-edge for edge in EDGES)])
def test_an_odd_value_among_plain_ones_is_what_repr_makes_of_it(value: float) -> None:
    rows = [(1, step, [0.5, value if step == 1 else 0.25]) for step in range(3)]
    plain, odd = columns(rows_of(rows), 2)
    assert isinstance(plain, Lines) and plain.data == b"1 0.5 0\n1 0.5 1\n1 0.5 2\n"
    assert text_of(list(odd)) == f"1 0.25 0\n1 {value!r} 1\n1 0.25 2\n".encode()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_lines_are_cut_where_one_ends(count: int) -> None:
    points = [(1, 2, 0.1), (1, 3, 0.25), (2, -5, -1e300)]
    lines = Lines.of(points)
    assert lines is not None
    before, behind = lines.cut(len(text_of(points[:count])))
    assert list(before) == points[:count] and (before.low, before.high) == (points[0][:2], points[count - 1][:2])
    assert list(behind or ()) == points[count:]
    assert behind is None or (behind.low, behind.high) == (points[count][:2], points[2][:2])


def test_lines_are_the_points_they_were_made_of() -> None:
    points = [(1, 2, 0.1), (1, 3, float("nan")), (2, -5, -1e300), (2, -5, 5.0)]
    lines = Lines.of(points)
    assert lines is not None and str(list(lines)) == str(points)
    assert (len(lines), lines[0], lines[-1], lines[2]) == (4, points[0], points[3], points[2])
    assert Lines.of([*points, (2, -5, 5.0)]) is None and Lines.of([(1, 1, float("inf"))]) is None
