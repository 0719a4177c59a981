"""What a killed agent costs at its next start, how fast a spool is carried, and restarts beside finished runs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from bench import agents
from bench.harness import Place, short, worker
from bench.table import Line

POINTS = 5_000_000
FINISHED_STREAMS, RUNS_EACH = 40, 10
GIB = float(1 << 30)


def many_runs(streams: int, runs: int) -> dict[str, Any]:
    """Worker: many short finished runs in several streams."""
    for _ in range(streams):
        if not os.fork():
            _short_runs(runs)
            os._exit(0)
    for _ in range(streams):
        os.wait()
    return {}


def _short_runs(runs: int) -> None:
    import trainspool

    for _ in range(runs):
        with trainspool.start_run():
            for step in range(5):
                trainspool.log_metric("loss", 1 / (step + 1), step)
    trainspool.flush()


def recovery(place: Place, quick: bool) -> list[Line]:
    """A killed `sync` and the next one; the rate of `sync`; restarts."""
    home = place.fresh("recovery")
    worker(agents.fill, place, home, points=POINTS // (10 if quick else 1), batch=20)
    start_s = statistics.median(agents.sync(place, place.fresh("empty"))["process_s"] for _ in range(3))
    size = agents.spool_bytes(home)
    killed_at = _kill_half_way(place, home)
    again_s, whole = _until_growing(place, home, killed_at)
    place.remove(home)
    home = place.fresh("sync")
    worker(agents.fill, place, home, points=POINTS // (10 if quick else 1), batch=20)
    carried = agents.sync(place, home)
    place.remove(home)
    share = killed_at / max(whole, 1)
    return [
        _recovery_line(again_s, start_s, size * share),
        _sync_line(carried, size),
        _restart_line(place, start_s, quick),
    ]


def _recovery_line(again_s: float, start_s: float, carried: float) -> Line:
    own = max(0.0, again_s - start_s)
    return Line(
        "recovery after kill -9 of the agent",
        f"{own / carried * GIB:.2f} s/GiB",
        "≤ 1 s/GiB",
        ((own / carried * GIB, 1.0),),
        why="what has to be read again is what was written since the last checkpoint, up to a second's worth, however "
        "large the spool: scaling it up from a small spool exaggerates",
        note=f"scaled from {carried / 2**20:.0f} MiB carried: {again_s:.2f} s from the start of the process until "
        f"the store grows past where it was killed, less {start_s:.2f} s that a start with nothing to do takes",
    )


def _sync_line(carried: dict[str, Any], size: int) -> Line:
    per_gib = carried["seconds"] / size * GIB
    return Line(
        "sync or replay of a spool, two cores",
        f"{per_gib:.0f} s/GiB",
        "≤ 60 s/GiB",
        ((per_gib, 60.0),),
        why="one stream is carried by one core, and a GiB of batches holds 110 million points: 60 s would take "
        "1.8 million points/s, more than twice the budget of a core",
        note=f"scaled from {size / 2**20:.0f} MiB with {carried['points']:,} points in batches of 20, one stream: "
        f"{carried['seconds']:.2f} s, {short(carried['points'] / carried['seconds'])} points/s, {carried['cpu']:.2f} s "
        f"of CPU, RSS {carried['rss_mib']:.0f} MiB",
    )


def _restart_line(place: Place, start_s: float, quick: bool) -> Line:
    home = place.fresh("finished")
    streams = FINISHED_STREAMS // (4 if quick else 1)
    worker(many_runs, place, home, streams=streams, runs=RUNS_EACH)
    first = agents.sync(place, home)
    again_s = statistics.median(agents.sync(place, home)["process_s"] for _ in range(3))
    return Line(
        f"restart beside {streams * RUNS_EACH} finished runs",
        f"{again_s * 1e3:.0f} ms",
        "no growth",
        ((again_s, start_s * 1.25),),
        f"with an empty spool {start_s * 1e3:.0f} ms",
        again_s / start_s,
        note=f"the whole process, median of 3; carrying these {streams} streams took {first['seconds']:.2f} s; "
        "ok up to 1.25×",
    )


def _kill_half_way(place: Place, home: Path) -> int:
    """Kill a ``sync`` when about a second and a half of its work is in the store; return the store's bytes then."""
    child = subprocess.Popen([*agents.AGENT, "sync"], env=place.environment(home), stdout=subprocess.DEVNULL)
    while not agents.store_bytes(home) and child.poll() is None:
        time.sleep(0.01)
    time.sleep(1.5)
    child.send_signal(signal.SIGKILL)
    child.wait()
    return agents.store_bytes(home)


def _until_growing(place: Place, home: Path, killed_at: int) -> tuple[float, int]:
    """Start again; return the seconds until the store grows past *killed_at*, and its bytes at the end."""
    begun = time.monotonic()
    child = subprocess.Popen([*agents.AGENT, "sync"], env=place.environment(home), stdout=subprocess.DEVNULL)
    while agents.store_bytes(home) <= killed_at and child.poll() is None:
        time.sleep(0.005)
    taken = time.monotonic() - begun
    child.wait()
    return taken, agents.store_bytes(home)
