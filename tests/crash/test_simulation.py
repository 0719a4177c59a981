"""Streams, agents and a store in one process, by schedules drawn from seeds: nothing lost, nothing twice.

A seed that went wrong is printed with the command that repeats it, and with the fewest of its steps that go wrong too.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from box import SHARED_MEMORY
from crash.simulation.found import FOUND
from crash.simulation.schedule import Fault, carry_out, draw, parsed, shrink
from crash.simulation.world import simulated

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

SECONDS = 25.0
LONG_SCHEDULES = 5000


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trainspool-simulation-", dir=SHARED_MEMORY) as name:
        yield Path(name) / "world"


def simulate(seeds: Iterable[int], folder: Path) -> None:
    """Carry out the schedules of *seeds*; the first that goes wrong fails, made small."""
    begun, count, steps = time.perf_counter(), 0, 0
    logging.getLogger("trainspool").setLevel(logging.CRITICAL + 1)
    try:
        with simulated():
            for seed in seeds:
                schedule = draw(seed)
                count, steps = count + 1, steps + len(schedule)
                try:
                    carry_out(seed, schedule, folder)
                except Fault as fault:
                    fewest = shrink(seed, schedule, folder)
                    print(", ".join(f"{step.name} {step.seed}" for step in fewest))
                    print(f"again: SIMULATION_SEEDS={seed} pytest tests/crash/test_simulation.py -k named")
                    raise AssertionError(str(fault)) from fault
                if not count % 50:
                    gc.collect()
    finally:
        logging.getLogger("trainspool").setLevel(logging.NOTSET)
    seconds = time.perf_counter() - begun
    print(f"{count} schedules, {steps} steps in {seconds:.0f} s: {count / seconds:.0f} a second")


def for_seconds(rng: random.Random, seconds: float) -> Iterator[int]:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        yield rng.randrange(1 << 31)


@pytest.mark.parametrize(("seed", "hosts", "steps"), [one[1:] for one in FOUND], ids=[one[0] for one in FOUND])
def test_found_once(folder: Path, seed: int, hosts: int, steps: str) -> None:
    with simulated():
        carry_out(seed, parsed(steps), folder, hosts)


def test_seeds_that_are_named(folder: Path) -> None:
    simulate(map(int, os.environ.get("SIMULATION_SEEDS", "1 2 3").split()), folder)


def test_any_schedule_leaves_what_was_said(folder: Path, seed: int) -> None:
    simulate(for_seconds(random.Random(seed), SECONDS), folder)


@pytest.mark.long
def test_five_thousand_schedules(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    simulate((rng.randrange(1 << 31) for _ in range(LONG_SCHEDULES)), folder)
