"""Log calls beside other Python threads, and from several threads at once."""

from __future__ import annotations

import threading
from array import array
from typing import Any

from bench import baselines
from bench.harness import Place, Spread, measured, short, spread, time_calls, worker
from bench.log_calls import FULL_RING, OURS, has_drops, result
from bench.table import Line

THREADS = 4
BUSY_LIMITS = (4.0, 15.0)
TOGETHER_LIMITS = (2.0, 10.0)
TURNS = (
    "with one busy thread a call gets half of the GIL, with two a third, less while the pump takes its part, and the "
    "mean grows by as much; where the machine's cores are taken by others, waking the thread up costs more on top"
)


def beside_busy(target: str, busy: int, calls: int) -> dict[str, Any]:
    """Worker: calls of one target while *busy* threads do nothing but Python."""
    for _ in range(busy):
        threading.Thread(target=_spin, daemon=True).start()
    with baselines.TARGETS[target]() as call:
        found = measured(call, calls)
        return {"spread": found, "dropped": baselines.drops() if target == OURS else 0}


def together(target: str, calls: int) -> dict[str, Any]:
    """Worker: the calls of several threads that log at once, as one spread."""
    start = threading.Barrier(THREADS)
    taken: list[array[int]] = []

    def log(call: Any) -> None:
        time_calls(call, 1000)
        start.wait()
        taken.append(time_calls(call, calls))

    with baselines.TARGETS[target]() as call:
        threads = [threading.Thread(target=log, args=(call,)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = spread(sum(taken, array("q")))
        return {"spread": found, "dropped": baselines.drops() if target == OURS else 0}


def _spin() -> None:
    number = 0
    while True:
        number = number + 1 & 0xFFFF


def busy_threads(place: Place, quick: bool) -> list[Line]:
    """`log_metric` beside one and two busy threads."""
    calls = 50_000 if quick else 300_000
    return [_beside(place, busy, calls) for busy in (1, 2)]


def _beside(place: Place, busy: int, calls: int) -> Line:
    few = {"msgpack + os.write": calls // 60}  # up to 2 ms each: it gives the GIL away at every call
    targets = ("empty call", OURS, "msgpack + os.write")
    found = [result(worker(beside_busy, place, target=name, busy=busy, calls=few.get(name, calls))) for name in targets]
    (base, _), (ours, note), (write, _) = found
    return Line(
        f"log_metric beside {busy} busy thread{'s' if busy > 1 else ''}, mean / p99",
        _mean_p99(ours),
        "≤ 4 / 15 µs",
        (*zip((ours.mean, ours.p99), BUSY_LIMITS, strict=True), (has_drops(note), 0)),
        f"msgpack + os.write {_mean_p99(write)}",
        ours.mean / write.mean,
        why=TURNS,
        note=f"{note}; the empty call in the same place: {_mean_p99(base)}",
    )


def four_threads(place: Place, quick: bool) -> list[Line]:
    """Four threads logging at once."""
    calls = 20_000 if quick else 200_000
    (base, _), (ours, note), (write, _) = (
        result(worker(together, place, target=name, calls=calls // (50 if "write" in name else 1)))
        for name in ("empty call", OURS, "msgpack + os.write")
    )
    return [
        Line(
            "four threads logging at once, p50 / p99",
            f"{short(ours.p50)} / {short(ours.p99)} µs",
            "≤ 2 / 10 µs",
            (*zip((ours.p50, ours.p99), TOGETHER_LIMITS, strict=True), (has_drops(note), 0)),
            f"msgpack + os.write {short(write.p50)} / {short(write.p99)} µs",
            ours.p50 / write.p50,
            why=FULL_RING,
            note=f"{note}; the empty call in four threads: {short(base.p50)} / {short(base.p99)} µs, {base.tail}",
        )
    ]


def _mean_p99(times: Spread) -> str:
    return f"{short(times.mean)} / {short(times.p99)} µs"
