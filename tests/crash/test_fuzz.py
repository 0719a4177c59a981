"""Bytes by chance, and by malice: every reader of the spool meets what nobody wrote.

A target takes a random number generator, makes one input, reads it, and checks what must hold whatever the input is:
only the documented exceptions, sizes bounded by the input, no byte whose checksum was wrong, nothing illegal let
through. A finding is repeated with FUZZ_SEED and the number that is printed with it.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash.fuzz_targets import TARGETS, Target

SHORT_INPUTS, SHORT_S = 400, 2.5  # of each target: whichever comes first
LONG_INPUTS = 1_000_000
SLOW_INPUT_S = 5.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz", dir="/dev/shm") as name:
        yield Path(name)


def fuzz(target: Target, seed: int, begin: int, end: int, folder: Path, until: float = float("inf")) -> int:
    """Run inputs number *begin* to *end* of *target*; return how many there was time for."""
    for number in range(begin, end):
        begun = time.monotonic()
        if begun > until:
            return number - begin
        try:
            target(random.Random(f"{seed} {target.__name__} {number}"), folder)
        except BaseException:
            print(f"FUZZ_SEED={seed} FUZZ_NUMBER={number} pytest 'tests/crash/test_fuzz.py' -k {target.__name__}")
            raise
        took = time.monotonic() - begun
        assert took < SLOW_INPUT_S, f"input {number} of {target.__name__} took {took:.1f} s (seed {seed})"
    return end - begin


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_what_nobody_wrote_is_read_safely(target: Target, seed: int, folder: Path) -> None:
    seed, number = int(os.environ.get("FUZZ_SEED", seed)), int(os.environ.get("FUZZ_NUMBER", 0))
    last = number + 1 if "FUZZ_NUMBER" in os.environ else SHORT_INPUTS
    assert fuzz(target, seed, number, last, folder, time.monotonic() + SHORT_S) > 0


@pytest.mark.long
def test_a_million_inputs(seed: int, folder: Path) -> None:
    """Each target gets inputs by its speed, so that none of them takes all the time."""
    counts = _shares(TARGETS, seed, folder)
    begun = time.monotonic()
    for target, count in counts.items():
        at = time.monotonic()
        fuzz(target, seed, 0, count, folder)
        rate = count / (time.monotonic() - at)
        print(f"{target.__name__}: {count:,} inputs, {rate:,.0f}/s, seed {seed}", flush=True)
    total, seconds = sum(counts.values()), time.monotonic() - begun
    print(f"{total:,} inputs in {seconds:.0f} s, {total / seconds:,.0f}/s, seed {seed}")
    assert total >= LONG_INPUTS


def _shares(targets: list[Target], seed: int, folder: Path) -> dict[Callable[..., None], int]:
    rates = {}
    for target in targets:
        begun = time.monotonic()
        count = fuzz(target, seed + 1, 0, 2000, folder, begun + 1.0)
        rates[target] = count / (time.monotonic() - begun)
    whole = sum(rates.values())
    return {target: int(LONG_INPUTS * rate / whole) + 1 for target, rate in rates.items()}
