"""A run shows its latest attempt, whatever order its sessions are told in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from trainspool.spool.events import FAILED, FINISHED, KILLED, RUNNING
from trainspool_agent.store.attempts import Outcome, Session, Sessions, outcome
from trainspool_agent.store.changes import End, Start
from trainspool_agent.store.limits import SESSIONS_MAX

MS = 1_000_000


def session(
    start: int, end: int | None, status: int = FINISHED, reason: str | None = None, stream: str = "s"
) -> Session:
    return Session(
        stream, start, start * MS, None if end is None else end * MS, RUNNING if end is None else status, reason
    )


def test_no_session_says_nothing() -> None:
    assert outcome([]) is None


def test_one_open_session_is_running() -> None:
    assert outcome([session(1, 5), session(3, None)]) == Outcome(RUNNING, 1, None, None)


def test_failed_beats_killed_beats_finished_within_an_attempt() -> None:
    ranks = [session(1, 9), session(2, 8, KILLED, "signal"), session(3, 7, FAILED, "boom")]
    assert outcome(ranks[:1]) == Outcome(FINISHED, 1, 9, None)
    assert outcome(ranks[:2]) == Outcome(KILLED, 1, 9, "signal")
    assert outcome(ranks) == Outcome(FAILED, 1, 9, "boom")


def test_a_new_attempt_leaves_the_old_failure_behind() -> None:
    assert outcome([session(1, 5, FAILED, "boom"), session(6, 9)]) == Outcome(FINISHED, 1, 9, None)


def test_the_first_to_fail_says_why() -> None:
    assert outcome([session(1, 9, FAILED, "late"), session(2, 5, FAILED, "early")]) == Outcome(FAILED, 1, 9, "early")


_sessions = st.lists(
    st.tuples(st.integers(0, 30), st.none() | st.integers(0, 30), st.sampled_from((FINISHED, FAILED, KILLED))),
    max_size=8,
)


@given(_sessions, st.randoms(use_true_random=False))
def test_the_order_of_sessions_does_not_matter(made: list[tuple[int, int | None, int]], rnd: random.Random) -> None:
    sessions = [
        Session(f"s{number}", 1, start * MS, None if length is None else (start + length) * MS, status, str(number))
        for number, (start, length, status) in enumerate(made)
    ]
    shuffled = sessions[:]
    rnd.shuffle(shuffled)
    assert outcome(shuffled) == outcome(sessions)


def test_an_end_belongs_to_the_latest_start_before_it_and_an_epitaph_to_what_is_open() -> None:
    sessions = Sessions()
    sessions.started("s", Start(1 * MS, 10, None, None, {}, False))
    sessions.ended("s", End(2 * MS, 20, FAILED, "x"))
    sessions.started("s", Start(3 * MS, 30, None, None, {}, True))
    sessions.epitaph("other", End(4 * MS, 90, KILLED, "y"))
    assert outcome(sessions) == Outcome(RUNNING, 1, None, None)
    sessions.epitaph("s", End(5 * MS, 40, KILLED, "z"))
    assert outcome(sessions) == Outcome(KILLED, 1, 5, "z")
    for _ in range(2):  # told again, nothing changes
        sessions.started("s", Start(1 * MS, 10, None, None, {}, False))
        sessions.ended("s", End(2 * MS, 20, FAILED, "x"))
    assert outcome(sessions) == Outcome(KILLED, 1, 5, "z")


def test_a_run_started_twice_by_one_process_ends_with_its_second_end() -> None:
    sessions = Sessions()
    for _ in range(2):  # and the same again changes nothing
        sessions.started("s", Start(10, 5, None, None, {}, False))
        sessions.started("s", Start(11, 6, None, None, {}, True))
        sessions.ended("s", End(12, 7, FINISHED, None))
        sessions.ended("s", End(13, 8, FAILED, "why"))
    assert [(one.offset, one.status, one.end_offset) for one in sessions] == [(5, FAILED, 8), (6, FINISHED, 7)]
    sessions.ended("s", End(14, 9, FINISHED, None))
    assert [one.status for one in sessions] == [FAILED, FINISHED]


def test_sessions_are_bounded_and_the_start_and_the_latest_attempt_stay() -> None:
    sessions = Sessions()
    for number in range(SESSIONS_MAX + 50):
        sessions.started("s", Start(number * 10 * MS, 2 * number + 1, None, None, {}, True))
        sessions.ended("s", End((number * 10 + 5) * MS, 2 * number + 2, FINISHED, None))
        if number == 20:
            break
    assert outcome(sessions) == Outcome(FINISHED, 0, 205, None)
