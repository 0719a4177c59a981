"""The agent as a process of its own, and streams for it to carry."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness import Place

AGENT = (sys.executable, "-m", "trainspool_agent")
START_S = 20.0
METRICS = 20
FLUSH_POINTS = 60_000


@contextlib.contextmanager
def daemon(place: Place, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield an agent that runs for the processes of *home*."""
    environment = place.environment(home)
    with open(home / "agent.log", "wb") as log:
        agent = subprocess.Popen([*AGENT, "daemon"], env=environment, cwd=home, stderr=log)
    try:
        _wait_for(Path(environment["TRAINSPOOL_RING_DIR"], "agent.lock"), agent)
        yield agent
    finally:
        agent.terminate()
        agent.wait()


def _wait_for(path: Path, agent: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not path.exists() or not path.stat().st_size:
        if agent.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the agent did not start")
        time.sleep(0.01)


def sync(place: Place, home: Path, *, core: int | None = None) -> dict[str, Any]:
    """Run ``trainspool sync --json`` for *home*, on one core if asked; its report, CPU seconds and memory beside it.

    What it could not do is in the report's ``problems``; the figures stand beside them.

    Raises:
        RuntimeError: it said nothing that can be read.
    """
    pinned = ("taskset", "-c", str(core)) if core is not None else ()
    begun = time.monotonic()
    child = subprocess.Popen([*pinned, *AGENT, "sync", "--json"], env=place.environment(home), stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = child.stdout.read()
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if not said.startswith(b"{"):
        raise RuntimeError(f"sync failed with status {child.returncode}: {said.decode()[:500]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {**json.loads(said), "cpu": cpu, "process_s": time.monotonic() - begun, "rss_mib": usage.ru_maxrss / 1024}


def problems(*reports: dict[str, Any]) -> str:
    """Return what these syncs could not do, for a note."""
    said = [f"{one['where']}: {one['what'][:80]}" for report in reports for one in report["problems"]]
    return f"; {len(said)} problems, the first {said[0]}" if said else ""


def fill(points: int, batch: int) -> dict[str, Any]:
    """Worker: spool that many points of one run, as fast as the disk takes them; nothing is dropped."""
    import trainspool
    from bench import baselines

    values = [random.gauss(1.0, 0.3) for _ in range(4096)]
    names = [f"layer{number}/grad_norm" for number in range(batch)]
    with trainspool.start_run():
        for logged in range(0, points, batch):
            if batch == 1:
                trainspool.log_metric("loss", values[logged & 4095], logged)
            else:
                begin = logged % 4000
                trainspool.log_metrics(dict(zip(names, values[begin : begin + batch], strict=True)), logged // batch)
            if not logged % FLUSH_POINTS:
                trainspool.flush()
    return {"points": points, "dropped": baselines.drops()}


def spool_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "spool").rglob("*.seg"))


def store_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "mlruns").glob("*/*/metrics/**/*") if path.is_file())


@contextlib.contextmanager
def streams(place: Place, home: Path, count: int, rate: float) -> Iterator[None]:
    """Keep *count* processes with a run each, that log *rate* batches of 20 a second; 0: they are idle."""
    environment = place.environment(home, TRAINSPOOL_RING_BYTES=str(1 << 20))
    code = f"from bench import agents; agents.be_streams({count}, {rate})"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        yield
    finally:
        parent.stdin.close()  # they leave when it ends
        parent.wait()
        parent.stdout.close()


def be_streams(count: int, rate: float) -> None:
    """The processes of ``streams``: one forks them, each has a stream of its own, as nothing is logged before."""
    import trainspool

    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            _be_stream(rate)
            os._exit(0)
        children.append(child)
    time.sleep(2)
    print("ready", flush=True)
    sys.stdin.buffer.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    assert trainspool


def _be_stream(rate: float) -> None:
    import trainspool

    random.seed(os.getpid())
    names = [f"layer{number}/grad_norm" for number in range(METRICS)]
    trainspool.start_run()
    trainspool.log_metric("loss", 1.0)
    time.sleep(random.random())
    step = 0
    while True:
        if rate:
            trainspool.log_metrics({name: random.random() for name in names}, step)
        step += 1
        time.sleep(1 / rate if rate else 3600)
