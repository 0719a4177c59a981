"""The same training script on MLflow's stores, on our plugin and on our module: calls, slow-down, and a kill -9.

Back ends take turns, so that a drift of the machine meets them alike; the script without logging runs right before and
right after each. A killed run is read back by MLflow's client in a fresh process, whichever back end wrote it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from box import FINISHED, KILLED, Stored, Witness

from bench import agents
from bench.harness import Place, Spread, short, spread, worker
from bench.table import Line

SCRIPT = Path(__file__).resolve().parent / "training_script.py"
WARM_UP, KEYS = 100, 6  # as the script has them
STEPS, ROUNDS = 1000, 3
TIMES_FASTER, MARKED_S, WAIT_S = 100.0, 2.0, 120.0


class BackEnd(NamedTuple):
    """Where the script logs to.

    Attributes:
        imports: the line that stands for ``import mlflow``.
        address: MLflow's tracking address; ``{home}`` is the folder that the script runs in.
        once: in the first round only, because it takes so long.
    """

    name: str
    imports: str
    address: str
    asynchronous: bool = False
    once: bool = False

    @property
    def is_ours(self) -> bool:
        return self.address == "trainspool:"

    def environment(self, home: Path) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.address.format(home=home),
            "MLFLOW_ENABLE_ASYNC_LOGGING": str(self.asynchronous).lower(),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def read_from(self, home: Path) -> str:
        """Return the address at which MLflow's own client finds the runs."""
        return str(home / "mlruns") if self.is_ours else self.address.format(home=home)


NOTHING = BackEnd("no logging", "from bench import no_logging as mlflow", "")
FILES = BackEnd("MLflow, file store", "import mlflow", "{home}/mlflow")
SQLITE = BackEnd("MLflow, SQLite", "import mlflow", "sqlite:///{home}/mlflow.db")
PLUGIN = BackEnd("MLflow with our plugin", "import mlflow", "trainspool:")
MODULE = BackEnd("import trainspool as mlflow", "import trainspool as mlflow", "trainspool:")
BACK_ENDS = (
    FILES,
    SQLITE,
    FILES._replace(name=f"{FILES.name}, asynchronous", asynchronous=True),
    SQLITE._replace(name=f"{SQLITE.name}, asynchronous", asynchronous=True, once=True),
    PLUGIN,
    MODULE,
)


class Finished(NamedTuple):
    """A run of the script to its end.

    Attributes:
        single: what each ``log_metric`` took, in ns.
        batches: what each ``log_metrics`` took, in ns.
        loop_s: the steps that count.
        rest_s: from the last step until the process had left: ``end_run``, queues, exit handlers.
        missing: points that were logged and are not in the store.
    """

    single: list[int]
    batches: list[int]
    loop_s: float
    rest_s: float
    missing: int = 0

    @property
    def seconds(self) -> float:
        return self.loop_s + self.rest_s


class Killed(NamedTuple):
    """A run whose process was killed: points whose call had returned, those of them the store has not, its status."""

    returned: int
    lost: int
    status: str
    marked_s: float


class Found(NamedTuple):
    """All rounds of one back end.

    Attributes:
        alone: the script without logging before and after each run.
    """

    finished: list[Finished]
    killed: list[Killed]
    alone: list[tuple[Finished, Finished]]

    def slower(self, part: str) -> list[float]:
        """Return each run's time ("loop_s" or "seconds") over that of the script without logging beside it."""
        return [
            getattr(one, part) / statistics.mean(getattr(bare, part) for bare in pair)
            for one, pair in zip(self.finished, self.alone, strict=True)
        ]

    def calls(self, kind: str) -> Spread:
        return spread(array("q", [taken for one in self.finished for taken in getattr(one, kind)]))


def one_script(place: Place, quick: bool) -> list[Line]:
    """Six back ends by one script: calls, slow-down, and what a kill -9 costs."""
    steps, rounds = (STEPS // 10, 1) if quick else (STEPS, ROUNDS)
    found = {back_end: Found([], [], []) for back_end in BACK_ENDS}
    for number in range(rounds):
        for back_end in BACK_ENDS:
            if not (number and back_end.once):
                _one(place, back_end, found[back_end], steps, (number + 1) / (rounds + 1))
    best = min((found[back_end].calls("single").p50, back_end.name) for back_end in (FILES, SQLITE))
    return [_bare_line(found.values()), *(line for one in BACK_ENDS for line in _lines(one, found[one], best))]


# -- the script, to its end and killed ------------------------------------------------------------------------------


def _one(place: Place, back_end: BackEnd, found: Found, steps: int, share: float) -> None:
    """One run to its end, between two without logging; then one that is killed after *share* of its steps."""
    home = place.fresh("one-script")
    with agents.daemon(place, home) if back_end.is_ours else contextlib.nullcontext():
        before = _finish(place, home, NOTHING, steps)
        found.finished.append(_finish(place, home, back_end, steps))
        found.alone.append((before, _finish(place, home, NOTHING, steps)))
        found.killed.append(_kill(place, home, back_end, steps, share))
    place.remove(home)


def _finish(place: Place, home: Path, back_end: BackEnd, steps: int) -> Finished:
    with _script(place, home, back_end, steps) as (process, witness):
        said = json.loads(_last_line(process, home))
        process.wait()
        gone = time.monotonic()
        run_id = witness.text
    times = said["log_metric"], said["log_metrics"], said["left"] - said["begun"], gone - said["left"]
    if back_end == NOTHING:
        return Finished(*times)
    if back_end.is_ours:
        _wait(lambda: _status(home, run_id) == FINISHED, "the agent has brought the run")
    logged = {1: WARM_UP + steps, KEYS: WARM_UP + steps}
    return Finished(*times, missing=_missing(_read(place, home, back_end, run_id)["steps"], logged))


def _kill(place: Place, home: Path, back_end: BackEnd, steps: int, share: float) -> Killed:
    """Kill the script when its witness has counted so many steps."""
    with _script(place, home, back_end, steps * 100) as (process, witness):
        _wait(lambda: witness[1] >= WARM_UP + steps * share, "steps to be killed in", process)
        process.kill()
        killed_at = time.monotonic()
        process.wait()
        run_id, returned = witness.text, {1: witness[0], KEYS: witness[1]}
    if back_end.is_ours:  # the end of a run comes after its points
        _wait(lambda: _status(home, run_id) == KILLED, "the killed run is marked")
    marked_s = time.monotonic() - killed_at
    read = _read(place, home, back_end, run_id)
    points = sum(keys * calls for keys, calls in returned.items())
    return Killed(points, _missing(read["steps"], returned), read["status"], marked_s)


@contextlib.contextmanager
def _script(place: Place, home: Path, back_end: BackEnd, steps: int) -> Iterator[tuple[subprocess.Popen[str], Witness]]:
    """Start the script with its one line replaced; what is left of it at the end is killed."""
    text = SCRIPT.read_text("utf-8")
    if text.count("\nimport mlflow\n") != 1:
        raise RuntimeError(f"{SCRIPT} has not one line to replace")
    (home / "train.py").write_text(text.replace("\nimport mlflow\n", f"\n{back_end.imports}\n"), "utf-8")
    witness = Witness(home / "witness")
    environment = place.environment(home, **back_end.environment(home))
    command = [sys.executable, "train.py", str(steps), str(witness.path)]
    with open(home / "train.err", "wb") as said:
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        yield process, witness
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        witness.close()


def _last_line(process: subprocess.Popen[str], home: Path) -> str:
    """Return the line that the script prints when its loop is over; it may go on."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the script failed: {(home / 'train.err').read_text('utf-8', 'replace')[-2000:]}")
    return line


def _wait(condition: Callable[[], bool], what: str, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError(f"it did not come about: {what}")
        time.sleep(0.001)


# -- what the store has ---------------------------------------------------------------------------------------------


def _status(home: Path, run_id: str) -> int | None:
    """The status in our store's ``meta.yaml``, by plain lines: cheap enough to be asked every millisecond."""
    folder = next((home / "mlruns").glob(f"*/{run_id}"), None)
    with contextlib.suppress(FileNotFoundError, KeyError):
        return Stored(folder).status if folder else None
    return None


def _read(place: Place, home: Path, back_end: BackEnd, run_id: str) -> dict[str, Any]:
    return worker(read, place, home, address=back_end.read_from(home), run_id=run_id)


def read(address: str, run_id: str) -> dict[str, Any]:
    """Worker: the run's status and the steps of each key, by MLflow's client."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    run = client.get_run(run_id)
    steps = {key: [point.step for point in client.get_metric_history(run_id, key)] for key in run.data.metrics}
    return {"status": run.info.status, "steps": steps}


def _missing(steps: dict[str, list[int]], returned: dict[int, int]) -> int:
    """Count points that were logged and are not there.

    Args:
        steps: what is there, by key.
        returned: calls that had returned, by how many points each logged; the steps count from 0.
    """
    missing = 0
    for keys, calls in returned.items():
        there = [set(found) for key, found in steps.items() if (key == "loss") == (keys == 1)]
        missing += keys * calls - sum(len(found & set(range(calls))) for found in there)
    return missing


# -- the table ------------------------------------------------------------------------------------------------------


def _bare_line(all_found: Iterable[Found]) -> Line:
    pairs = [pair for found in all_found for pair in found.alone]
    seconds = [one.loop_s for pair in pairs for one in pair]
    steps = len(pairs[0][0].single)
    first, middle, third = statistics.quantiles(abs(after.loop_s / before.loop_s - 1) * 100 for before, after in pairs)
    return Line(
        f"one script, {steps} steps, no logging",
        f"{statistics.median(seconds):.2f} s",
        note=f"{min(seconds):.2f} to {max(seconds):.2f} s; before and after a back end it differs from itself by "
        f"{middle:.1f} % ({first:.1f} to {third:.1f}, quartiles): a slow-down smaller than that is noise",
    )


def _lines(back_end: BackEnd, found: Found, best: tuple[float, str]) -> list[Line]:
    return [_calls_line(back_end, found, best), _slow_down_line(back_end, found), _kill_line(back_end, found)]


def _calls_line(back_end: BackEnd, found: Found, best: tuple[float, str]) -> Line:
    single, batches = found.calls("single"), found.calls("batches")
    judged = back_end == MODULE
    p50, name = best
    return Line(
        f"one script, {back_end.name}: log_metric, log_metrics of {KEYS}, p50 / p99",
        f"{short(single.p50)} / {short(single.p99)}, {short(batches.p50)} / {short(batches.p99)} µs",
        f"log_metric ≥ {TIMES_FASTER:.0f}× faster" if judged else "",
        ((p50 / single.p50, TIMES_FASTER),) if judged else (),
        f"{name} {short(p50)} µs",
        single.p50 / p50,
        why="after a millisecond of NumPy the caches are cold, and a call takes several times what it takes in a tight "
        f"loop; MLflow's is {short(p50 / single.p50)} times that",
        note=f"{single.count} calls of each; log_metric {_tail(single)}; log_metrics {_tail(batches)}"
        + (f"; {short(p50 / single.p50)} times faster than {name}" if back_end.is_ours else "")
        + ("; what our side adds to MLflow's own layer is on the lines `plugin`" if back_end == PLUGIN else ""),
        at_least=True,
    )


def _tail(calls: Spread) -> str:
    return f"mean {short(calls.mean)}, p99.9 {short(calls.p999)}, max {short(calls.max)} µs"


def _slow_down_line(back_end: BackEnd, found: Found) -> Line:
    in_calls = [sum(one.single + one.batches) / 1e7 / one.loop_s for one in found.finished]
    rest_s = statistics.median(one.rest_s for one in found.finished)
    missing = sum(one.missing for one in found.finished)
    return Line(
        f"one script, {back_end.name}: slow-down of the loop / until the process had left",
        f"{_slower(found.slower('loop_s'))} / {_slower(found.slower('seconds'))}",
        "reported",
        note=f"each round {', '.join(f'{slower:.3f}' for slower in found.slower('loop_s'))}×; the calls take "
        f"{statistics.median(in_calls):.2f} % of the loop; {rest_s:.2f} s from the last step until the process had "
        f"left; {missing} points missing afterwards",
    )


def _slower(ratios: list[float]) -> str:
    median = statistics.median(ratios)
    return f"{median:.1f}×" if median >= 2 else f"{(median - 1) * 100:+.1f} %"


def _kill_line(back_end: BackEnd, found: Found) -> Line:
    lost, returned = (sum(getattr(one, name) for one in found.killed) for name in ("lost", "returned"))
    marked_s = max(one.marked_s for one in found.killed)
    status = " / ".join(sorted({one.status for one in found.killed}))
    judged = back_end.is_ours
    return Line(
        f"one script, {back_end.name}: kill -9, points lost, status",
        f"{lost:,} of {returned:,}, {status}" + (f" after {marked_s:.2f} s" if judged else ""),
        f"0, KILLED ≤ {MARKED_S:g} s" if judged else "",
        ((lost, 0), (marked_s, MARKED_S)) if judged else (),
        why="a point was lost, or the mark was late: the agent got too little of the machine",
        note=f"{len(found.killed)} kills: {', '.join(f'{one.lost:,} of {one.returned:,}' for one in found.killed)}"
        + ("" if judged else "; nobody is left who could end the run"),
    )
