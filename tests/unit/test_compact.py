"""Events become changes: pure, exact, and nothing a stream says can stop the rest."""

from __future__ import annotations

import pytest
from handmade import T0, Stream
from hypothesis import given
from hypothesis import strategies as st

from trainspool.spool import events as ev
from trainspool_agent.compact import Batch, Dictionary, EventFrame, RunRef, compact
from trainspool_agent.store.changes import RunChanges
from trainspool_agent.store.limits import RUNS_OPEN_MAX

RUN, OTHER = "a" * 32, "b" * 32


def of(stream: Stream, position: int = 0, dictionary: Dictionary | None = None) -> Batch:
    return compact(stream.frames, dictionary or Dictionary(), stream.id, lambda run: position)


def only(batch: Batch) -> RunChanges:
    (changes,) = batch.runs.values()
    return changes


def test_points_are_grouped_by_run_and_key_in_order() -> None:
    stream = Stream()
    run, other = stream.run(RUN), stream.run(OTHER)
    stream.points(run, {"a": 1.0, "b": 2.0}, 5, T0)
    stream.point(other, "a", 3, 6, T0)
    stream.point(run, "a", 4.0, 7, T0 + 1_999_999)
    stream.frame()
    batch = of(stream)
    changes = {ref.run_id: changes.points for ref, changes in batch.runs.items()}
    ms = T0 // 1_000_000
    assert changes == {RUN: {"a": [(ms, 5, 1.0), (ms + 1, 7, 4.0)], "b": [(ms, 5, 2.0)]}, OTHER: {"a": [(ms, 6, 3.0)]}}
    assert (batch.events, batch.begin, batch.end) == (3, 0, stream.frames[0].end)
    assert type(changes[OTHER]["a"][0][2]) is float


SETS = [("a", "b"), ("b", "a"), ("c", "d"), ("d",), ("e", "e"), ("a", "b", "c", "d", "e", "f")]
LOGGED = st.lists(
    st.tuples(st.sampled_from([*"abcdef", *SETS]), st.booleans(), st.sampled_from([0, 0, 0, 1]), st.booleans())
)


@given(LOGGED)
def test_each_key_keeps_its_order_however_it_was_logged(
    logged: list[tuple[str | tuple[str, ...], bool, int, bool]],
) -> None:
    """Alone, in one set or in several, by number or in line, under the owner's run number or a guest's."""
    stream, expected = Stream(), dict[str, list[float]]()
    runs = stream.run(RUN, owner=True), stream.run(RUN, owner=False)
    numbers = {name: stream.key(name) for name in "abcdef"}
    for number, names in enumerate(SETS):
        stream.event(ev.DEFINE_KEYSET, number, [numbers[name] for name in names])
    for at, (what, in_line, run, new_frame) in enumerate(logged):
        values = [at + place / 16 for place in range(len(what))]
        if isinstance(what, str):
            stream.event(ev.POINT, runs[run], numbers[what], T0, at, values[0])
        else:
            keyset = [numbers[name] for name in what] if in_line else SETS.index(what)
            stream.event(ev.POINTS, runs[run], keyset, T0, at, ev.doubles(len(values)).pack(*values))
        for name, value in zip(what, values, strict=True):
            expected.setdefault(name, []).append(value)
        if new_frame:
            stream.frame()
    stream.frame()
    batch = of(stream)
    found = only(batch).points if logged else {}
    assert batch.events == len(logged) and batch.malformed == 0
    assert {key: [value for _, _, value in points] for key, points in found.items()} == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize("values", ["8 letters", 8, None, [0] * 8, b"seven by"[:7], b"16 bytes of them"])
def test_values_that_are_not_eight_bytes_for_each_key_are_malformed(values: object) -> None:
    stream = Stream()
    run, key = stream.run(RUN), stream.key("a")
    stream.points(run, {"a": 1.0})
    stream.event(ev.POINTS, run, [key], T0, 0, values)
    stream.points(run, {"a": 3.0}, 1)
    stream.frame()
    batch = of(stream)
    assert batch.malformed == 1
    assert [value for _, _, value in only(batch).points["a"]] == [1.0, 3.0]


def test_events_of_frames_before_the_position_are_left_out() -> None:
    stream = Stream()
    run = stream.run(RUN)
    stream.point(run, "a", 1.0)
    first = stream.frame()
    stream.point(run, "a", 2.0)
    stream.frame()
    assert [value for _, _, value in only(of(stream, first.end)).points["a"]] == [2.0]
    assert not of(stream, stream.frames[1].end).runs


def test_malformed_events_are_counted_and_the_rest_goes_on() -> None:
    stream = Stream()
    run, key = stream.run(RUN), stream.key("a")
    bad = [
        (ev.POINT, run, 99, T0, 0, 1.0), (ev.POINT, 99, key, T0, 0, 1.0), (ev.POINT, run, key, T0, 1 << 63, 1.0),
        (ev.POINT, run, key, 1.5, 0, 1.0), (ev.POINT, run, key, T0, True, 1.0), (ev.POINT, run, key, T0, 0, "1"),
        (ev.POINT, [run], key, T0, 0, 1.0), (ev.POINT, run), (ev.POINTS, run, [key], T0, 0, b"short"),
        (ev.POINTS, run, {"a": 1}, T0, 0, b""), (ev.PARAMS, run, T0, ["odd"]), (ev.PARAMS, run, T0, ["k", None]),
        (ev.END, run, T0, 1, None), (ev.START, run, T0, None), (ev.TAGS, run, "now", ["k", "v"]), ("text",),
        (ev.DEFINE_RUN, 5, "../up", True, "", None, None), (ev.DEFINE_RUN, 5, "tags", True, "", None, None),
        (ev.DEFINE_KEY, -1, "x"), (ev.DEFINE_KEYSET, 1, [77]), (ev.EPITAPH, T0), (ev.GAP, run, T0, "x", 0),
    ]  # fmt: skip
    for event in bad:
        stream.event(*event)
        stream.point(run, "a", 1.0)
    stream.raw(ev.FILLER * 3)
    stream.frame()
    batch = of(stream)
    assert batch.malformed == len(bad)
    assert len(only(batch).points["a"]) == len(bad)
    assert "at offset" in batch.malformed_sample


def test_bytes_that_are_no_msgpack_cost_the_rest_of_their_frame_only() -> None:
    stream = Stream()
    run = stream.run(RUN)
    stream.point(run, "a", 1.0)
    stream.raw(b"\xc1\xc1\xc1")
    stream.point(run, "a", 2.0)
    stream.frame()
    stream.point(run, "a", 3.0)
    stream.frame()
    batch = of(stream)
    assert [value for _, _, value in only(batch).points["a"]][-1] == 3.0
    assert batch.malformed >= 1


def test_a_cut_last_event_is_counted() -> None:
    stream = Stream()
    stream.point(stream.run(RUN), "a", 1.0)
    stream.raw(ev.pack(ev.POINT, 0, 0, T0, 0, 1.0)[:-2])
    stream.frame()
    assert of(stream).malformed == 1


def test_unknown_kinds_are_counted_by_kind() -> None:
    stream = Stream()
    stream.event(40, 1)
    stream.event(40, 2)
    stream.event(41)
    stream.frame()
    batch = of(stream)
    assert (batch.unknown_kinds, batch.malformed) == ({40: 2, 41: 1}, 0)


def test_trailing_elements_are_ignored() -> None:
    stream = Stream()
    run, key = stream.run(RUN), stream.key("a")
    stream.event(ev.POINT, run, key, T0, 1, 2.0, "later", "additions")
    stream.event(ev.END, run, T0, ev.FINISHED, None, "more")
    stream.frame()
    changes = only(of(stream))
    assert len(changes.points["a"]) == 1 and changes.ends[0].status == ev.FINISHED


def test_an_epitaph_reaches_the_owned_runs_that_have_not_ended() -> None:
    stream = Stream()
    ended, opened, guest = stream.run(RUN), stream.run(OTHER), stream.run("c" * 32, owner=False)
    stream.point(guest, "a", 1.0)
    stream.end(ended)
    stream.frame()
    dictionary = Dictionary()
    of(stream, dictionary=dictionary)
    stream.frames.clear()
    stream.epitaph()
    stream.frame()
    batch = of(stream, dictionary=dictionary)
    assert [ref.run_id for ref in batch.runs] == [OTHER] and opened == 1
    assert batch.epitaph is not None and only(batch).epitaph == batch.epitaph


def test_owner_and_guest_of_one_run_are_one_change() -> None:
    stream = Stream()
    stream.point(stream.run(RUN, owner=False), "a", 1.0)
    stream.point(stream.run(RUN, owner=True), "a", 2.0)
    stream.frame()
    batch = of(stream)
    assert [ref.owner for ref in batch.runs] == [True]
    assert len(only(batch).points["a"]) == 2


def test_definitions_taught_apart_give_events_their_meaning() -> None:
    dictionary = Dictionary()
    dictionary.learn(
        ev.pack(ev.DEFINE_RUN, 0, RUN, True, "/s", "7", None)
        + ev.pack(ev.DEFINE_KEY, 0, "a")
        + ev.pack(ev.DEFINE_KEYSET, 0, [0, 0])
    )
    assert dictionary.runs[0] == RunRef(RUN, "/s", "7", None, True)
    data = ev.pack(ev.POINTS, 0, 0, T0, 0, ev.doubles(2).pack(1.0, 2.0))
    batch = compact([EventFrame(100, 100 + len(data), data)], dictionary, "s", lambda run: 0)
    assert len(only(batch).points["a"]) == 2


def test_a_stream_owns_so_many_open_runs_and_no_more() -> None:
    dictionary = Dictionary()

    def define(number: int, owner: bool = True) -> None:
        dictionary.define([ev.DEFINE_RUN, number, f"{number:032x}", owner, "/s", "7", None])

    for number in range(RUNS_OPEN_MAX):
        define(number)
    with pytest.raises(ValueError, match="runs open"):
        define(RUNS_OPEN_MAX)
    define(0)  # anew
    define(RUNS_OPEN_MAX + 1, owner=False)
    dictionary.end(3)
    define(RUNS_OPEN_MAX)
    assert len(list(dictionary.open_owned())) == RUNS_OPEN_MAX


def test_no_frames_make_an_empty_batch() -> None:
    batch = compact([], Dictionary(), "s", lambda run: 0)
    assert (batch.runs, batch.begin, batch.end) == ({}, 0, 0)
