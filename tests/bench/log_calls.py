"""What one log call costs: in a tight loop, every 2 ms, and in batches of 20."""

from __future__ import annotations

import sys
from typing import Any

from bench import baselines
from bench.harness import Place, Spread, measured, short, worker
from bench.table import Line

CALLS = 1_000_000
PACE_S = 0.002
OURS = "trainspool.log_metric"
SLOW = {"MLflow, synchronous": 1_000, "MLflow, asynchronous": 20_000, "tensorboardX": 50_000}
TIGHT_LIMITS = (1.5, 5.0, 50.0)
FULL_RING = (
    "points were dropped, or the machine was busy: a million calls a second are more than the pump carries away "
    "beside them when it gets too little of the GIL, and a full ring's drop takes the slow path"
)
TIGHT_BUDGET = "≤ 1.5 / 5 / 50 µs"


def one(target: str, calls: int, pause_s: float = 0.0) -> dict[str, Any]:
    """Worker: the spread of one target's calls."""
    with baselines.TARGETS[target]() as call:
        found = measured(call, calls, pause_s)
        dropped = baselines.drops() if "trainspool" in sys.modules else 0
    return {"spread": found, "dropped": dropped}


def one_batch(calls: int, size: int, library: str) -> dict[str, Any]:
    """Worker: the spread of ``log_metrics`` of *size*; *library* trainspool, or empty for the empty call."""
    metrics = {f"layer{number}/grad_norm": number * 0.37 for number in range(size)}
    if not library:
        return {"spread": measured(lambda key, value, step: None, calls), "dropped": 0}
    import trainspool

    with trainspool.start_run():
        log = trainspool.log_metrics
        found = measured(lambda key, value, step: log(metrics, step), calls)
        return {"spread": found, "dropped": baselines.drops()}


def result(found: dict[str, Any], points: int = 1) -> tuple[Spread, str]:
    """Return a worker's spread, and a note on its tail and drops; each call logs *points*."""
    times = Spread(*found["spread"])
    share = found["dropped"] / times.count / points
    return times, f"{times.tail}; {found['dropped']} points dropped" + (f" ({share:.1%})" if share else "")


def has_drops(note: str) -> bool:
    """Whether a note of ``result`` tells of drops: a call that drops is not the call that was to be measured."""
    return "; 0 points dropped" not in note


def tight(place: Place, quick: bool) -> list[Line]:
    """`log_metric` in a tight loop, and everything it is compared with."""
    calls = CALLS // 10 if quick else CALLS
    lines = []
    spreads: dict[str, Spread] = {}
    for target in baselines.TARGETS:
        count = SLOW.get(target, calls) // (10 if quick and target in SLOW else 1)
        spreads[target], note = result(worker(one, place, target=target, calls=count))
        if target not in (OURS, "run.log_metric"):
            lines.append(Line(f"  {target}", str(spreads[target]), note=note.rpartition(";")[0]))
            continue
        times, base = spreads[target], spreads["msgpack + os.write"]
        lines.insert(
            0,
            Line(
                f"log_metric, tight loop ({target})",
                str(times),
                TIGHT_BUDGET,
                (*zip(times[2:5], TIGHT_LIMITS, strict=True), (has_drops(note), 0)),
                f"msgpack + os.write {base}",
                times.p50 / base.p50,
                why=FULL_RING,
                note=note,
            ),
        )
    return lines


def paced(place: Place, quick: bool) -> list[Line]:
    """`log_metric` every 2 ms against an empty call every 2 ms."""
    calls = 500 if quick else 3000
    targets = ("empty call", OURS, "msgpack + os.write")
    base, ours, write = (
        result(worker(one, place, target=target, calls=calls, pause_s=PACE_S))[0] for target in targets
    )
    return [
        Line(
            "log_metric every 2 ms",
            str(ours),
            "reported",
            baseline=f"empty call every 2 ms {base}",
            ratio=ours.p50 / base.p50,
            note=f"{ours.tail}; msgpack + os.write every 2 ms {write}",
        )
    ]


def batches(place: Place, quick: bool) -> list[Line]:
    """`log_metrics` of 20."""
    calls = 20_000 if quick else 200_000
    base, _ = result(worker(one_batch, place, calls=calls, size=20, library=""))
    ours, note = result(worker(one_batch, place, calls=calls, size=20, library="trainspool"), points=20)
    return [
        Line(
            "log_metrics of 20, p50",
            f"{short(ours.p50)} µs",
            "≤ 5 µs",
            ((ours.p50, 5.0), (has_drops(note), 0)),
            f"empty call {short(base.p50)} µs",
            ours.p50 / base.p50,
            why=FULL_RING,
            note=f"{ours}, {note}",
        )
    ]
