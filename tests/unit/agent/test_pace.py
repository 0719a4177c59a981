"""Pace: quiet boxes are served at once, loaded ones let points gather, within a second."""

from __future__ import annotations

import pytest

from trainspool_agent import pace
from trainspool_agent.pace import INTERVAL_MAX_S, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def run_at(measured: Pace, clock: list[float], share: float) -> None:
    for _ in range(10):
        clock[0] += 0.1
        measured.spent(share / 10)


def test_a_small_load_is_served_at_once(clock: list[float]) -> None:
    measured = Pace()
    for _ in range(20):
        run_at(measured, clock, 0.02)
    assert measured.interval_s == 0


def test_a_large_load_is_stretched_to_a_second_at_most_and_comes_back(clock: list[float]) -> None:
    measured = Pace()
    for _ in range(20):
        run_at(measured, clock, 0.9)
    assert measured.interval_s == INTERVAL_MAX_S and measured.polls
    for _ in range(20):
        run_at(measured, clock, 0.001)
    assert measured.interval_s == 0 and not measured.polls
