"""From the log call to the line in the store's metric file."""

from __future__ import annotations

import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from bench import agents
from bench.harness import Place, Spread, short, spread
from bench.table import Line

POLL_S = 0.001
# The value is the time of the call, on the clock that all processes share.
_LOGGER = """
import random, sys, time, trainspool
trainspool.start_run()
for step in range(int(sys.argv[1])):
    time.sleep(random.uniform(0.01, 0.03))
    trainspool.log_metric("sent", time.monotonic(), step)
time.sleep(1)
"""


def latency(place: Place, quick: bool) -> list[Line]:
    """Log call → visible in the store."""
    times = visible(place, 100 if quick else 750)
    return [
        Line(
            "log call → visible in the store, p99",
            f"{times.p99 / 1e3:.0f} ms",
            "≤ 300 ms",
            ((times.p99 / 1e3, 300.0),),
            note=f"p50 {times.p50 / 1e3:.0f}, max {times.max / 1e3:.0f} ms; {times.count} points, one every 10-30 ms; "
            f"file polled every {POLL_S * 1e3:.0f} ms; the first second, when the agent finds the stream, apart",
        )
    ]


def visible(place: Place, points: int, beside: Callable[[Path], None] = lambda _: None) -> Spread:
    """Return how late points are, in µs, while what *beside* starts in the same home goes on."""
    home = place.fresh("latency")
    with agents.daemon(place, home):
        beside(home)
        logger = subprocess.Popen([sys.executable, "-c", _LOGGER, str(points)], env=place.environment(home), cwd=home)
        try:
            lags = _poll(home, points, logger)
        finally:
            logger.kill()
            logger.wait()
    print(f"first point visible after {short(lags[0] / 1e6)} ms", file=sys.stderr)
    return spread(lags[50:])


def _poll(home: Path, points: int, logger: subprocess.Popen[bytes]) -> array[int]:
    lags = array("q")
    file, rest = None, ""
    while len(lags) < points:
        time.sleep(POLL_S)
        if file is None:
            found = next((home / "mlruns").glob("*/*/metrics/sent"), None)
            if found is None and logger.poll() is not None:
                raise RuntimeError("the points never reached the store")
            file = open(found) if found else None  # noqa: SIM115  read on and on
            continue
        now, text = time.monotonic(), rest + file.read()
        *lines, rest = text.split("\n")
        lags.extend(int((now - float(line.split()[1])) * 1e9) for line in lines)
        if not lines and logger.poll() is not None:
            raise RuntimeError(f"{len(lags)} of {points} points reached the store")
    if file is not None:
        file.close()
    return lags
