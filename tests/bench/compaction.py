"""How fast one core carries a spool into ``mlruns/``, checkpoints included."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from bench import agents
from bench.harness import Place, short, worker
from bench.table import Line

POINTS = {20: 3_000_000, 1: 1_500_000}
BUDGETS = {20: 800_000.0, 1: 400_000.0}
RUNS = 3


def format_values(points: int) -> dict[str, Any]:
    """Worker: only make the text of so many values by ``repr`` and write it."""
    values = [random.gauss(1.0, 0.3) for _ in range(4096)]
    begun = time.perf_counter()
    with open("lines", "w", encoding="ascii") as file:
        for _ in range(0, points, 4096):
            file.write("\n".join(map(repr, values)))
    return {"seconds": time.perf_counter() - begun}


def mlflow_batches(points: int) -> dict[str, Any]:
    """Worker: the same points by MLflow's own client, in batches of 1,000, its largest."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient()
    run = client.create_run("0").info.run_id
    now, metrics = time.time_ns() // 10**6, [random.gauss(1.0, 0.3) for _ in range(1000)]
    begun = time.perf_counter()
    for first in range(0, points, 1000):
        batch = [Metric(f"m{index % 20}", value, now, first + index) for index, value in enumerate(metrics)]
        client.log_batch(run, metrics=batch)
    return {"seconds": time.perf_counter() - begun}


def compaction(place: Place, quick: bool) -> list[Line]:
    """Spool to `mlruns/`, one core."""
    points = 200_000 if quick else 2_000_000
    text = points / worker(format_values, place, points=points)["seconds"]
    mlflow_points = points // 100
    mlflow = mlflow_points / worker(mlflow_batches, place, points=mlflow_points)["seconds"]
    return [
        _line(place, batch, points=POINTS[batch] // (10 if quick else 1), text=text, mlflow=mlflow) for batch in POINTS
    ]


def _line(place: Place, batch: int, points: int, text: float, mlflow: float) -> Line:
    found = []
    for _ in range(RUNS):
        home = place.fresh("compaction")
        filled = worker(agents.fill, place, home, points=points, batch=batch)
        found.append(agents.sync(place, home, core=0))
        if found[-1]["points"] != points or filled["dropped"]:
            raise RuntimeError(f"{found[-1]['points']} points carried of {points}, {filled['dropped']} dropped")
        place.remove(home)
    rate = statistics.median(points / one["seconds"] for one in found)
    per_cpu = statistics.median(points / one["cpu"] for one in found)
    memory = max(one["rss_mib"] for one in found)
    return Line(
        f"compaction, one core, {f'batches of {batch}' if batch > 1 else 'single'}",
        f"{short(rate)} points/s",
        f"≥ {BUDGETS[batch]:,.0f} points/s",
        ((rate, BUDGETS[batch]),),
        f"only repr(float), and writing that, {short(text)} points/s",
        rate / text,
        why="a busy machine slows down both this and the baseline, so look at the ratio: on a quiet one it is about 2 "
        "in batches, 0.5 single",
        at_least=True,
        note=f"`sync` of {points:,} points, median of {RUNS}; {short(per_cpu)} points per CPU second with the start of "
        f"the process; RSS ≤ {memory:.0f} MiB; MlflowClient.log_batch of 1,000 into its file store: {short(mlflow)} "
        f"points/s{agents.problems(*found)}",
    )
