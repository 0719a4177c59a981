"""The demo's terminal: live progress, then the result table and the commands that show the runs."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from trainspool.errors import TrainspoolError
from trainspool.spool.ringfile import RingView, read_ring
from trainspool.spool.ringfolder import ring_folder
from trainspool_agent.demo.training import Progress as Step
from trainspool_agent.demo.training import Result
from trainspool_agent.typed import typed

REFRESH_PER_S = 10
NOTE = """
Note: where a folder ./mlruns lies, MLflow scripts that set no tracking address use it as their default when they are
run there, and MLflow ≥ 3.13 opens it only with MLFLOW_ALLOW_FILE_STORE=true."""


class LiveView:
    """One bar per run, and under them how fast we log and how far ring, spool and store are.

    ``report`` belongs to one thread; rich draws from another.
    """

    def __init__(self, console: Console) -> None:
        accuracy = TextColumn("val accuracy {task.fields[accuracy]:.3f}")
        speed = TextColumn("{task.fields[rate]:,.0f} log calls/s")
        name = TextColumn("{task.description:<16}")
        self._bars = Progress(name, BarColumn(24), MofNCompleteColumn(), accuracy, speed, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._ring: RingView | None = None
        self._next_s = 0.0
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=REFRESH_PER_S)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)
        self._live.console.print()
        if self._ring:
            self._ring.close()

    def report(self, step: Step) -> None:
        """Show a step; cheap enough to be called after every one."""
        now = time.monotonic()
        if now < self._next_s and step.step < step.steps:
            return
        self._next_s = now + 1 / REFRESH_PER_S
        if step.name not in self._tasks:
            self._tasks[step.name] = self._bars.add_task(step.name, total=step.steps, accuracy=0.0, rate=0.0)
            self._began[step.name] = now
        elapsed_s = now - self._began[step.name]
        rate = step.step / elapsed_s if elapsed_s else 0.0
        task = self._tasks[step.name]
        self._bars.update(task, completed=step.step, accuracy=step.val_accuracy, rate=rate)

    def _render(self) -> Group:
        if self._ring is None:
            self._ring = own_ring()
        return Group(self._bars, Text(_flow(self._ring), style="dim"))


def own_ring() -> RingView | None:
    """Return this process's ring, None if it has none that can be looked at."""
    folder = ring_folder()
    for path in folder.glob("*.ring") if folder else ():
        try:
            ring = read_ring(path)
        except (OSError, TrainspoolError):
            continue  # gone meanwhile, or not ours to read
        if ring.identity.get("pid") == os.getpid():
            return ring
        ring.close()
    return None


def _flow(ring: RingView | None) -> str:
    if ring is None:
        return ""
    end, head, stored = ring.end, ring.head, ring.stored
    logged = f"logged {_size(end)}"
    return f"  {logged} → in memory only {_size(end - head)} → not yet in the store {_size(end - max(stored, 0))}"


def _size(count: int) -> str:
    return f"{max(count, 0) / 1024:,.1f} KiB"


def run_folder(result: Result) -> Path:
    """Return the run's folder in the store: the artifacts' parent."""
    return Path(unquote(result.artifact_uri.removeprefix("file://"))).parent


def points_in(folder: Path) -> int:
    """Count the metric points that the store holds of a run, in the files themselves: one line each."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / "metrics").rglob("*") if path.is_file())


def facts(results: list[Result], spool: str | None, caught_up: bool) -> dict[str, Any]:
    """Return the demo's outcome as one JSON object."""
    store = run_folder(results[0]).parents[1]
    runs = [
        {
            "run_id": result.run_id,
            "name": result.name,
            "hidden": result.setting.hidden,
            "rate": result.setting.rate,
            "schedule": result.setting.schedule,
            "val_accuracy": result.val_accuracy,
            "best_val_accuracy": result.best_val_accuracy,
            "points_logged": result.points_logged,
            "points_in_store": points_in(run_folder(result)),
            "log_call_us": {"p50": result.log_call_us_p50, "p99": result.log_call_us_p99},
        }
        for result in results
    ]
    return {"store": str(store), "store_has_all": caught_up, "runs": runs, "commands": commands(results, store, spool)}


def commands(results: list[Result], store: Path, spool: str | None) -> dict[str, str]:
    """Return the exact commands that show the runs, and the one that carries over what is missing."""
    best = max(results, key=lambda result: result.val_accuracy)
    spool_option = f" --spool {shlex.quote(spool)}" if spool else ""
    ui = f"MLFLOW_ALLOW_FILE_STORE=true {typed('mlflow')} ui --backend-store-uri {shlex.quote(str(store))}"
    return {
        "status": f"{typed('trainspool')} status {best.run_id}{spool_option}",
        "ui": ui,
        "sync": f"{typed('trainspool')} sync{f' {shlex.quote(spool)}' if spool else ''}",
    }


def print_result(console: Console, outcome: dict[str, Any]) -> None:
    """Print the table, then where the runs are and how to look at them."""
    console.print(_table(outcome["runs"]))
    if not outcome["store_has_all"]:
        _print_lateness(console, outcome)
    commands = outcome["commands"]
    _line(console, "\nThe runs are in", outcome["store"])
    _line(console, "What became of every point of the best run:", commands["status"])
    _line(console, "Look at curves and artifacts (MLflow ≥ 3.13 needs the flag):", commands["ui"])
    console.print(NOTE, style="dim", highlight=False, soft_wrap=True)


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table(
        title="A small network learns handwritten digits",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("run", no_wrap=True)
    for heading in ("hidden", "rate", "val acc.", "points", "in store", "log µs p50/99"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = max(run["val_accuracy"] for run in runs)
    for run in runs:
        in_store, logged, call = run["points_in_store"], run["points_logged"], run["log_call_us"]
        rate = f"{run['rate']:g}" + (" cos" if run["schedule"] == "cosine" else "")
        stored = Text(f"{in_store:,}", style="green" if in_store == logged else "yellow")
        cells = (run["name"], str(run["hidden"]), rate, f"{run['val_accuracy']:.3f}", f"{logged:,}")
        style = "bold" if run["val_accuracy"] == best else None
        table.add_row(*cells, stored, f"{call['p50']:.1f} / {call['p99']:.0f}", style=style)
    return table


def _print_lateness(console: Console, outcome: dict[str, Any]) -> None:
    missing = sum(run["points_logged"] - run["points_in_store"] for run in outcome["runs"])
    console.print(
        f"The store has not caught up: {missing:,} points are in the spool and not in the store yet. Nothing is lost.",
        style="yellow",
    )
    _line(console, "An agent carries them when it runs; to do it now:", outcome["commands"]["sync"])


def _line(console: Console, what: str, exactly: str) -> None:
    """Print a sentence and, alone on its line and never wrapped, what to copy."""
    console.print(what, highlight=False)
    console.print(f"  {exactly}", style="bold", highlight=False, soft_wrap=True, markup=False)
