from __future__ import annotations

import math
import random
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spooled import shown

from trainspool.spool import events as ev

KEY = ev.pack(ev.DEFINE_KEY, 0, "loss")
POINT = ev.pack(ev.POINT, 0, 0, 1_700_000_000_000_000_000, 5, 0.25)
BATCH = ev.pack(ev.POINTS, 0, 0, 1_700_000_000_000_000_000, 5, ev.doubles(3).pack(1.0, math.nan, -math.inf))
PARAMS = ev.pack(ev.PARAMS, 0, 1, ["lr", "0.1"])
COUNTS = {KEY: (0, 0), POINT: (1, 1), BATCH: (1, 3), PARAMS: (1, 0), ev.FILLER: (0, 0)}


def counts(parts: list[bytes]) -> tuple[int, int]:
    return sum(COUNTS[part][0] for part in parts), sum(COUNTS[part][1] for part in parts)


@given(st.integers(-(2**63), 2**63 - 1), st.floats(), st.integers(0, 2**63 - 1))
def test_a_point_comes_back_as_it_was(step: int, value: float, time: int) -> None:
    [event] = ev.decode(ev.pack(ev.POINT, 3, 4, time, step, value))
    assert event[:5] == [ev.POINT, 3, 4, time, step]
    assert struct.pack(">d", event[5]) == struct.pack(">d", value)


def test_a_batch_keeps_nan_and_infinities() -> None:
    [event] = ev.decode(BATCH)
    one, nan, infinity = ev.doubles(3).unpack(event[5])
    assert one == 1.0 and math.isnan(nan) and infinity == -math.inf
    assert ev.points_in(event) == 3


def test_text_with_a_lone_surrogate_comes_back_as_it_was() -> None:
    [event] = ev.decode(ev.pack(ev.PARAMS, 0, 1, ["path", "caf\udce9"]))
    assert event[3] == ["path", "caf\udce9"]


def test_fillers_are_passed_over() -> None:
    assert list(ev.decode(ev.FILLER * 3 + POINT + ev.FILLER + KEY)) == [*ev.decode(POINT), *ev.decode(KEY)]


@pytest.mark.parametrize("value", [7, "text", {}, [], ["0"], [None], [1.0], True], ids=shown)
def test_what_is_no_event_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not an event"):
        list(ev.decode(msgpack.packb(value)))


def test_an_extension_type_is_refused() -> None:
    with pytest.raises(ValueError, match="ext"):
        list(ev.decode(msgpack.packb([ev.POINT, msgpack.ExtType(1, b"x")])))


def test_a_length_beyond_the_data_claims_no_memory() -> None:
    for header in (b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff"):
        with pytest.raises(ValueError, match="exceeds"):
            list(ev.decode(header + b"x" * 64))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises((ValueError, msgpack.exceptions.StackError)):
        list(ev.decode(b"\x91" * 100_000 + b"\xc0"))


def test_every_kind_has_a_name() -> None:
    assert len(ev.KIND_NAMES) == 16 and ev.KIND_NAMES[ev.INPUT] == "input"


@given(st.lists(st.sampled_from(list(COUNTS)), max_size=400), st.integers(1, 2000))
def test_pieces_are_the_whole_and_their_counts_add_up(parts: list[bytes], piece_bytes: int) -> None:
    data = b"".join(parts)
    cut = list(ev.pieces(data, piece_bytes))
    assert b"".join(piece.data for piece in cut) == data
    assert (sum(piece.events for piece in cut), sum(piece.points for piece in cut)) == counts(parts)
    assert [d for piece in cut for d in piece.definitions] == [part for part in parts if part == KEY]


@given(st.lists(st.sampled_from(list(COUNTS)), min_size=1, max_size=400), st.integers(1, 2000))
def test_pieces_are_cut_between_events(parts: list[bytes], piece_bytes: int) -> None:
    for piece in ev.pieces(b"".join(parts), piece_bytes):
        found = list(ev.decode(piece.data))  # each piece decodes by itself
        assert sum(event[0] not in ev.DEFINITIONS for event in found) == piece.events
        assert sum(map(ev.points_in, found)) == piece.points


def test_pieces_do_not_grow_far_beyond_what_was_asked() -> None:
    cut = list(ev.pieces(POINT * 10_000, 8192))
    assert max(len(piece.data) for piece in cut) <= 8192 + 64 * len(POINT)
    assert len(cut) > 20


def test_the_definitions_of_a_piece_are_the_bytes_that_were_appended() -> None:
    data = (
        KEY + ev.pack(ev.DEFINE_KEYSET, 0, [0, 0]) + ev.pack(ev.DEFINE_RUN, 0, "1" * 32, True, "/s", None, "e") + POINT
    )
    [piece] = ev.pieces(data, 1 << 20)
    assert b"".join(piece.definitions) + POINT == data


def test_fillers_alone_are_kept_and_count_nothing() -> None:
    cut = list(ev.pieces(ev.FILLER * 100, 10))
    assert b"".join(piece.data for piece in cut) == ev.FILLER * 100
    assert {(piece.events, piece.points) for piece in cut} == {(0, 0)}


def test_nothing_makes_no_piece() -> None:
    assert list(ev.pieces(b"", 100)) == []


@pytest.mark.parametrize("event", [POINT, BATCH, PARAMS, KEY], ids=["point", "batch", "params", "key"])
def test_an_event_cut_at_any_byte_raises(event: bytes) -> None:
    for cut in range(1, len(event)):
        with pytest.raises(ValueError, match="cut off"):
            list(ev.pieces(POINT + event[:cut], 1 << 20))
        with pytest.raises(ValueError, match="cut off"):
            list(ev.decode(POINT + event[:cut]))


def test_an_array_as_a_key_of_a_map_is_refused() -> None:
    with pytest.raises(ValueError):
        list(ev.decode(b"\x92\x05\x81\x90\x00"))


def test_random_bytes_end_in_an_error_or_in_values_never_in_a_hang() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(300):
        try:
            list(ev.decode(dice.randbytes(200)))
        except (ValueError, TypeError, msgpack.exceptions.UnpackException):
            continue
