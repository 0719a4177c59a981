"""Metric files as MLflow's migration reads them: which lines it takes, and which are one point for a database.

Source: mlflow-store.md 1.6 and 2; MLflow's ``store/fs2db/_tracking.py``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

LARGEST = 1.7976931348623157e308
INTEGER_MAX = 1 << 63


class Lines(NamedTuple):
    """What a metric file holds: how many points, and the number of the first line that one before it holds as well."""

    points: int
    repeats: int
    first_repeat: int


class BadLine(ValueError):
    """A line that MLflow cannot take; which, and why."""


def look(data: bytes, *, of_a_model: bool = False) -> Lines:
    """Read all lines of a metric file.

    Raises:
        BadLine: one is none; the whole migration would stop there.
    """
    seen: dict[Hashable, float] = {}
    repeats, first = 0, 0
    for number, line in enumerate(_text(data).splitlines(), 1):
        point, value = _parsed(line, number, of_a_model=of_a_model)
        if point not in seen:
            seen[point] = value
        elif seen[point] != value:
            raise BadLine(f"line {number} is of the time and step of another, and has another value")
        else:
            repeats, first = repeats + 1, first or number
    return Lines(len(seen), repeats, first)


def without_repeats(data: bytes, *, of_a_model: bool = False) -> bytes:
    """Return the lines of a metric file, each point once: as it came first."""
    kept: dict[Hashable, str] = {}
    for number, line in enumerate(_text(data).splitlines(), 1):
        kept.setdefault(_parsed(line, number, of_a_model=of_a_model)[0], line)
    return "".join(f"{line}\n" for line in kept.values()).encode()


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadLine(f"line {data.count(10, 0, error.start) + 1} is not UTF-8") from error


def _parsed(line: str, number: int, *, of_a_model: bool) -> tuple[Hashable, float]:
    """Return what a database takes for the point, and its value; a run's points may differ in that alone."""
    parts = line.strip().split(" ")
    if len(parts) not in ((4, 6) if of_a_model else (2, 3, 4, 5, 6)):
        raise BadLine(f"line {number} is no `time value step`: {line[:60]!r}")
    try:
        ms, value, step = int(parts[0]), float(parts[1]), int(parts[2]) if len(parts) > 2 else 0
    except ValueError as error:
        raise BadLine(f"line {number} is no `time value step`: {line[:60]!r}") from error
    if not (-INTEGER_MAX <= ms < INTEGER_MAX and -INTEGER_MAX <= step < INTEGER_MAX):
        raise BadLine(f"line {number} has a time or step that no database takes: {line[:60]!r}")
    is_nan = math.isnan(value)
    stored = 0.0 if is_nan else max(-LARGEST, min(LARGEST, value))
    return ((ms, step, parts[3]), stored) if of_a_model else ((ms, step, stored, is_nan), stored)
