"""What a killed agent costs at its next start, how fast a spool is carried, and restarts beside finished runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import agents
from bench.harness import Place, short, worker
from bench.table import Line

POINTS = 10_000_000
KILL_AFTER_S = (0.5, 1.8)
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
    points = POINTS // (5 if quick else 1)
    start_s = min(agents.sync(place, place.fresh("empty"))["process_s"] for _ in range(5))
    killed = [_recover(place, points, after_s) for after_s in ((0.1, 0.3) if quick else KILL_AFTER_S)]
    home = place.fresh("sync")
    worker(agents.fill, place, home, points=points, batch=20)
    size, carried = agents.spool_bytes(home), agents.sync(place, home)
    place.remove(home)
    return [_recovery_line(killed, start_s), _sync_line(carried, size), _restart_line(place, start_s, quick)]


def _recovery_line(killed: list[tuple[float, int]], start_s: float) -> Line:
    own = [max(0.0, seconds - start_s) for seconds, _ in killed]
    sizes = ", ".join(f"{store / 2**20:.0f} MiB" for _, store in killed)
    return Line(
        "recovery after kill -9 of the agent",
        " and ".join(f"{seconds:.2f} s" for seconds in own),
        "≤ 1 s/GiB",
        tuple((seconds, 1.0) for seconds in own),
        why="up to a second of compaction since the last checkpoint is done again, at any size of the spool, and found "
        "to be there; the process was slowed down by others meanwhile, or checkpoints came late",
        note=f"from the start of a process until the store grows past where it was killed, {sizes} of metric files "
        f"stored, less {start_s:.2f} s that a start with nothing to do takes. What is read again is bounded by the "
        "checkpoint's interval, not by the spool, so it is not scaled: the limit is that of one GiB",
    )


def _sync_line(carried: dict[str, Any], size: int) -> Line:
    per_gib = carried["seconds"] / size * GIB
    return Line(
        "sync or replay of a spool, two cores",
        f"{per_gib:.0f} s/GiB",
        "≤ 60 s/GiB",
        ((per_gib, 60.0),),
        why="a GiB of batches holds 110 million points, so that 60 s take 1.8 million points/s: half of what one core "
        "carries on a quiet machine",
        note=f"scaled from {size / 2**20:.0f} MiB with {carried['points']:,} points in batches of 20, one stream: "
        f"{carried['seconds']:.2f} s, {short(carried['points'] / carried['seconds'])} points/s, {carried['cpu']:.2f} s "
        f"of CPU, RSS {carried['rss_mib']:.0f} MiB{agents.problems(carried)}",
    )


def _restart_line(place: Place, start_s: float, quick: bool) -> Line:
    home = place.fresh("finished")
    streams = FINISHED_STREAMS // (4 if quick else 1)
    worker(many_runs, place, home, streams=streams, runs=RUNS_EACH)
    first = agents.sync(place, home)
    again_s = min(agents.sync(place, home)["process_s"] for _ in range(5))
    return Line(
        f"restart beside {streams * RUNS_EACH} finished runs",
        f"{again_s * 1e3:.0f} ms",
        "no growth",
        ((again_s, start_s * 1.25),),
        f"with an empty spool {start_s * 1e3:.0f} ms",
        again_s / start_s,
        why="other work on the machine fell into one of the two; a growth would show in every run",
        note=f"the whole process, the best of 5; carrying these {streams} streams took {first['seconds']:.2f} s; "
        "ok up to 1.25×",
    )


def _recover(place: Place, points: int, after_s: float) -> tuple[float, int]:
    """Kill a ``sync`` at work, start another; return the seconds until the store grows again, and its bytes then."""
    home = place.fresh("recovery")
    worker(agents.fill, place, home, points=points, batch=20)
    with _sync(place, home) as child:
        while not agents.store_bytes(home) and child.poll() is None:
            time.sleep(0.01)
        time.sleep(after_s)
        if child.poll() is not None:
            raise RuntimeError(f"sync had carried {points} points before it was killed: take more")
    killed_at, begun = agents.store_bytes(home), time.monotonic()
    with _sync(place, home) as child:
        while agents.store_bytes(home) <= killed_at and child.poll() is None:
            time.sleep(0.005)
        taken = time.monotonic() - begun
    place.remove(home)
    return taken, killed_at


@contextlib.contextmanager
def _sync(place: Place, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A ``sync`` that is killed at the end."""
    child = subprocess.Popen([*agents.AGENT, "sync"], env=place.environment(home), stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
