"""What ``log_image`` costs the caller, beside MLflow, which makes the PNG in the call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.harness import Place, short, worker
from bench.table import Line

SIDE = 1024
LIMIT_MS = 3.0


def media(place: Place, quick: bool) -> list[Line]:
    """`log_image` of a picture of a megapixel."""
    counts = (10, 10, 2) if quick else (50, 50, 5)
    calls = images_of_ours, plain_writes, images_of_mlflow
    ours, written, theirs = (worker(call, place, count=count)["ms"] for call, count in zip(calls, counts, strict=True))
    return [
        Line(
            f"log_image of {SIDE}×{SIDE}×3, p50",
            f"{short(statistics.median(ours))} ms",
            f"≤ {LIMIT_MS:.0f} ms",
            ((statistics.median(ours), LIMIT_MS),),
            f"a plain write {short(statistics.median(written))}, MLflow {short(statistics.median(theirs))} ms",
            statistics.median(ours) / statistics.median(written),
            why="three megabytes go into the spool by one write, and that takes what it takes: see the baseline",
            note=f"least {short(min(ours))}, worst {short(max(ours))} ms of {len(ours)}; least of the plain writes "
            f"{short(min(written))} ms; the agent makes the PNG",
        )
    ]


def images_of_ours(count: int) -> dict[str, Any]:
    """Worker: ms of each call."""
    import trainspool

    with trainspool.start_run():
        return {"ms": _timed(lambda image, step: trainspool.log_image(image, key="picture", step=step), count)}


def plain_writes(count: int) -> dict[str, Any]:
    """Worker: ms of making a file of the same bytes."""

    def write(image: Any, step: int) -> None:
        with open(f"raw{step}", "wb", buffering=0) as file:
            file.write(image.data)

    return {"ms": _timed(write, count)}


def images_of_mlflow(count: int) -> dict[str, Any]:
    """Worker: the same with MLflow's file store."""
    import mlflow

    with mlflow.start_run():
        return {"ms": _timed(lambda image, step: mlflow.log_image(image, f"{step}.png"), count)}


def _timed(call: Callable[[Any, int], object], count: int) -> list[float]:
    import numpy

    taken = []
    for step in range(count):
        image = numpy.random.default_rng(step).integers(0, 256, (SIDE, SIDE, 3), dtype=numpy.uint8)
        begun = time.perf_counter_ns()
        call(image, step)
        taken.append((time.perf_counter_ns() - begun) / 1e6)
    return taken
