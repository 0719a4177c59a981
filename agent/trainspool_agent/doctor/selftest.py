"""One run through everything: logged by the SDK in a process of its own, carried by `sync`, read back from the store.

All of it in temporary folders; the user's spool, rings and agent are not touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from trainspool.spool.ringfolder import ring_folder
from trainspool_agent.look import findrun

POINTS = 2000
TIMEOUT_S = 60.0
_PROGRAM = """
import json, sys, time
import trainspool
points, clock, took = int(sys.argv[1]), time.perf_counter_ns, []
with trainspool.start_run(run_name="self-test") as run:
    run.log_param("points", points)
    for step in range(points):
        begun = clock()
        trainspool.log_metric("value", step / 7, step=step)
        took.append(clock() - begun)
took.sort()
print(json.dumps({"run_id": run.run_id, "p50_ns": took[points // 2], "p99_ns": took[points * 99 // 100]}))
"""


class Result(NamedTuple):
    """What the self-test found; *problem* is empty if all went well."""

    points: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    carried_s: float = 0.0
    problem: str = ""


def run() -> Result:
    """Log, carry, read back, compare."""
    rings = ring_folder()
    with (
        tempfile.TemporaryDirectory(prefix="trainspool-doctor-") as folder,
        tempfile.TemporaryDirectory(prefix="trainspool-doctor-", dir=rings.parent if rings else folder) as ring_dir,
    ):
        environment = _environment(Path(folder), ring_dir)
        try:
            logged = _call(["-c", _PROGRAM, str(POINTS)], environment)
            said = json.loads(logged.splitlines()[-1])
            begun = time.monotonic()
            _call(["-m", "trainspool_agent", "sync", "--json"], environment)
            carried_s = time.monotonic() - begun
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            return Result(problem=_explain(error))
        problem = _compare(Path(folder, "store"), said["run_id"])
        return Result(POINTS, said["p50_ns"] / 1000, said["p99_ns"] / 1000, carried_s, problem)


def _environment(folder: Path, ring_dir: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRAINSPOOL_")}
    return kept | {
        "TRAINSPOOL_DIR": str(folder / "spool"),
        "TRAINSPOOL_STORE": str(folder / "store"),
        "TRAINSPOOL_RING_DIR": ring_dir,
        "TRAINSPOOL_AUTOSTART": "0",
        "TRAINSPOOL_EXIT_WAIT": "0",
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


def _call(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return done.stdout


def _compare(store: Path, run_id: str) -> str:
    folder = next((one for one in findrun.run_folders(store) if one.name == run_id), None)
    if folder is None:
        return f"the run {run_id} did not reach the store"
    try:
        lines = (folder / "metrics" / "value").read_text().splitlines()
    except OSError as error:
        return f"its metric cannot be read: {error}"
    found = [(float(value), int(step)) for _, value, step in map(str.split, lines)]
    expected = [(step / 7, step) for step in range(POINTS)]
    return "" if found == expected else f"{len(found)} of {POINTS} points came back, or not as they were logged"


def _explain(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        last = (error.stderr or "").strip().splitlines()[-1:] or ["it said nothing"]
        return f"{' '.join(error.cmd[1:3])[:60]!r} ended with status {error.returncode}: {last[0]}"
    return f"{type(error).__name__}: {error}"
