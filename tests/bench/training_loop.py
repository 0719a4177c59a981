"""What logging costs a training loop: 20 metrics every 2 ms, against the same loop without logging.

In one process, segments with and without logging take turns, so that a drift of the machine meets both alike; the
figure is the median over the pairs. The pump's idle turns would be on both sides: they are measured apart.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench import baselines
from bench.harness import Place, worker
from bench.table import Line

STEP_S = 0.002
STEPS = 100
METRICS = 20
WALL_PER_CENT, CPU_PER_CENT = 0.5, 1.0


def _python_work(size: int) -> Callable[[], Any]:
    def work() -> int:
        number = 0
        for index in range(size):
            number += index & 3
        return number

    return work


def _matrix_work(size: int) -> Callable[[], Any]:
    import numpy

    matrix = numpy.full((64, 64), 0.01)

    def work() -> None:
        for _ in range(size):
            matrix.dot(matrix)

    return work


WORK = {"Python": _python_work, "NumPy": _matrix_work}


def loop(kind: str, pairs: int, single: bool) -> dict[str, Any]:
    """Worker: the overhead of logging in per cent of wall and CPU time, a pair of segments each."""
    import trainspool

    work = _sized(WORK[kind])
    with trainspool.start_run():
        log = _log_single if single else trainspool.log_metrics
        _segment(work, log)
        wall, cpu = [], []
        for _ in range(pairs):
            times = {}
            for logging in random.sample((None, log), 2):
                times[logging is None] = _segment(work, logging)
            (with_wall, with_cpu), (bare_wall, bare_cpu) = times[False], times[True]
            wall.append((with_wall / bare_wall - 1) * 100)
            cpu.append((with_cpu / bare_cpu - 1) * 100)
        same = [(_segment(work, None)[0] / _segment(work, None)[0] - 1) * 100 for _ in range(pairs // 2)]
        begun = time.process_time()
        time.sleep(2)
        idle = (time.process_time() - begun) / 2 * 100
        parts = _parts(work, log)
        return {"wall": wall, "cpu": cpu, "same": same, "idle": idle, **parts, "dropped": baselines.drops()}


def _parts(work: Callable[[], Any], log: Callable[..., Any]) -> dict[str, float]:
    """Return, in per cent of the loop's time, what the calls take, and what the process's other threads take of CPU.

    Steadier than the difference of two loops on a busy machine, and blind to what logging does to caches.
    """
    calls = 0

    def timed(metrics: dict[str, float], step: int) -> None:
        nonlocal calls
        begun = time.perf_counter_ns()
        log(metrics, step)
        calls += time.perf_counter_ns() - begun

    wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    for _ in range(10):
        _segment(work, timed)
    wall, cpu, own = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own
    return {"calls": calls / 1e7 / wall, "pump": (cpu - own) / wall * 100}


def _log_single(metrics: dict[str, float], step: int) -> None:
    from trainspool import log_metric

    for key, value in metrics.items():
        log_metric(key, value, step)


def _sized(make: Callable[[int], Callable[[], Any]]) -> Callable[[], Any]:
    """Return work that takes about STEP_S."""
    size = 100
    while True:
        work = make(size)
        begun = time.perf_counter()
        for _ in range(20):
            work()
        taken = (time.perf_counter() - begun) / 20
        if taken >= STEP_S * 0.9:
            return make(round(size * STEP_S / taken))
        size *= 2


def _segment(work: Callable[[], Any], log: Callable[..., Any] | None) -> tuple[float, float]:
    """Return wall and CPU seconds of STEPS steps, the process's other threads included."""
    metrics = {f"layer{number}/grad_norm": number * 0.37 for number in range(METRICS)}
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(STEPS):
        work()
        if log is not None:
            log(metrics, step)
    return time.perf_counter() - wall, time.process_time() - cpu


def training_loop(place: Place, quick: bool) -> list[Line]:
    """20 metrics every 2 ms."""
    pairs = 10 if quick else 60
    kinds = [("Python", False), ("NumPy", False), ("Python", True)]
    return [_line(worker(loop, place, kind=kind, pairs=pairs, single=single), kind, single) for kind, single in kinds]


def _line(found: dict[str, Any], kind: str, single: bool) -> Line:
    wall, cpu = statistics.median(found["wall"]), statistics.median(found["cpu"]) + found["idle"]
    same = _quartiles(found["same"])
    calls, pump = f"{found['calls']:.2f}", f"{found['pump']:.2f}"
    parts = f"the calls take {calls} % of the loop's time, the pump and its helper {pump} % of CPU"
    how = "20 log_metric" if single else "log_metrics"
    return Line(
        f"training loop of {kind}, {how} every 2 ms, wall / CPU",
        f"{wall:+.2f} / {cpu:+.2f} %",
        "reported" if single else "≤ +0.5 / +1 %",
        () if single else ((wall, WALL_PER_CENT), (cpu, CPU_PER_CENT)),
        f"the same loop without logging, against itself {same} %",
        why="see the note: where the loop without logging differs from itself by more than the budget, the machine was "
        "too busy to tell; the parts timed apart are what is known",
        note=f"quartiles of wall {_quartiles(found['wall'])}, of CPU {_quartiles(found['cpu'])} %; the idle pump's "
        f"{found['idle']:.2f} % of CPU is added; timed apart: {parts}; {found['dropped']} points dropped",
    )


def _quartiles(numbers: list[float]) -> str:
    first, _, third = statistics.quantiles(numbers)
    return f"{first:+.2f} to {third:+.2f}"
