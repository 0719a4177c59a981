"""Params and tags: the same events in any order make the same store."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from trainspool_agent.store.limits import PARAM_VERSIONS_MAX
from trainspool_agent.store.versions import Order, Versions, in_order, with_value

_events = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from("stu"), st.integers(0, 5), st.sampled_from("vwxyz")), max_size=30
)


def folded(events: list[tuple[int, str, int, str]]) -> Versions:
    versions: Versions = {}
    for time, stream, offset, value in events:
        versions, _ = with_value(versions, value, Order(time, stream, offset))
    return versions


@given(_events, st.randoms(use_true_random=False))
def test_param_versions_do_not_depend_on_the_order_of_events(
    events: list[tuple[int, str, int, str]], rnd: random.Random
) -> None:
    shuffled = events[:]
    rnd.shuffle(shuffled)
    assert folded(shuffled) == folded(events)


@given(st.permutations(range(PARAM_VERSIONS_MAX * 2)))
def test_the_first_versions_are_kept_whatever_the_order(times: list[int]) -> None:
    versions: Versions = {}
    for time in times:
        versions, _ = with_value(versions, str(time), Order(time, "s", 0))
    assert in_order(versions) == [str(time) for time in range(PARAM_VERSIONS_MAX)]


def test_an_equal_value_is_no_new_version() -> None:
    assert in_order(folded([(1, "s", 0, "a"), (2, "s", 0, "b"), (3, "s", 0, "a")])) == ["a", "b"]
