"""Artifacts: what a call costs, what other threads notice, how much disk they take, how fast small ones come over.

On the bench's disk, and where loop devices can be had on XFS and Btrfs, which share blocks. Ours, ``shutil.copy`` and
MLflow's calls take turns in one process per file system; sources are in the page cache.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filesystems import mounted

from bench import agents, latency
from bench.harness import Place, short, worker
from bench.table import Line

KIB, MIB = 1 << 10, 1 << 20
SMALL, MIDDLE = KIB, 10 * MIB
FILES, LOOPED = 10_000, 1_000
SHARING = "xfs", "btrfs"
IMAGE_BYTES = 24 << 30  # sparse
CALL_MS, STALL_MS, RATE = 2.0, 5.0, 3.0
WAYS = "default", "move", "link", "background", "artifact_path"
COPIES = frozenset(("default", "background"))
_numbers = itertools.count()


def artifacts(place: Place, quick: bool) -> list[Line]:
    """Cost of artifact calls, on every file system that can be had."""
    large = (256 if quick else 2048) * MIB
    lines = _on(place, _kind(place.disk), large, quick)
    for kind in SHARING:
        try:
            with mounted(kind, IMAGE_BYTES) as disk:
                lines += _on(Place(disk, place.memory), kind, large, quick)
        except pytest.skip.Exception as error:
            lines.append(Line(f"artifacts on {kind}", "not measured", note=str(error)))
    return lines + _small_files(place, quick) + _agent(place, quick)


def _kind(path: Path) -> str:
    found = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True)
    return "ext4" if found.stdout.strip() == "ext2/ext3" else found.stdout.strip()


# -- one file -------------------------------------------------------------------------------------------------------


def _on(place: Place, kind: str, large: int, quick: bool) -> list[Line]:
    counts = {SMALL: 20 if quick else 200, MIDDLE: 5 if quick else 20, large: 2 if quick else 3}
    calls = {size: worker(calls_of, place, size=size, count=count) for size, count in counts.items()}
    used = worker(disk_used, place, size=large)
    place.remove(place.disk)
    place.disk.mkdir(exist_ok=True)
    lines = [_calls(kind, way, calls, large) for way in WAYS]
    lines += [_stall(kind, calls[large], large), _disk(kind, used, large)]
    return lines


def _calls(kind: str, way: str, calls: dict[int, dict[str, Any]], large: int) -> Line:
    ours = [found["calls"][way] for found in calls.values()]
    copies, mlflow = ([found["calls"][name] for found in calls.values()] for name in ("shutil.copy", "mlflow"))
    captured = calls[large]["how"][way]
    copied = captured == "copied"
    ratios = [mine / theirs for mine, theirs in zip(ours, copies, strict=True)]
    limits = [(ratio, 1.0) for ratio in ratios] if copied else [(mine, CALL_MS) for mine in ours]
    what = f"log_artifact({'' if way == 'default' else way}) on {kind}, 1 KiB / 10 MiB / {_size(large)}: {captured}"
    return Line(
        f"artifact_path on {kind}, 1 KiB / 10 MiB / {_size(large)}: moved" if way == "artifact_path" else what,
        f"{' / '.join(map(short, ours))} ms",
        "never slower than shutil.copy" if copied and way == "default" else f"≤ {CALL_MS:.0f} ms" if not copied else "",
        limits if way != "background" else (),
        f"shutil.copy {' / '.join(map(short, copies))} ms",
        ratios[-1],
        "a small file's event, name and quota cost more than its copy; a busy disk shows in both" if copied else "",
        f"MLflow {' / '.join(map(short, mlflow))} ms; medians, of the largest the least" if way == "default" else "",
    )


def _stall(kind: str, found: dict[str, Any], large: int) -> Line:
    ours, theirs, idle = (found["gaps"][name] for name in ("default", "mlflow", "nothing"))
    return Line(
        f"stall of a Python / NumPy thread beside log_artifact on {kind}, {_size(large)}, longest",
        f"{ours['python']:.1f} / {ours['numpy']:.1f} ms",
        f"≤ {STALL_MS:.0f} ms",
        ((ours["python"], STALL_MS), (ours["numpy"], STALL_MS)),
        f"MLflow {theirs['python']:.1f} / {theirs['numpy']:.1f} ms",
        why="see what the same threads miss beside a sleeping caller: the machine's own noise",
        note=f"beside a sleeping caller {idle['python']:.1f} / {idle['numpy']:.1f} ms; the least of the calls' longest",
    )


def _disk(kind: str, used: dict[str, float], large: int) -> Line:
    shown = " / ".join(f"{used[way]:.2f}" for way in WAYS)
    return Line(
        f"disk bytes per byte logged on {kind}, {_size(large)}: {' / '.join(WAYS)}",
        shown,
        baseline=f"MLflow {used['mlflow']:.2f}",
        note="spool and store after the hand-over, the source's own bytes not counted; artifact_path wrote its own",
    )


def _size(count: int) -> str:
    return f"{count >> 30} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def calls_of(size: int, count: int) -> dict[str, Any]:
    """Worker: what a call of each way takes in ms, and the longest gap of other threads meanwhile."""
    import trainspool

    calls = _ways(size)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    gaps: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    how: dict[str, str] = {}
    gc.collect()
    gc.disable()
    with _threads(size > MIDDLE) as watch, contextlib.redirect_stderr(None):
        for _ in range(count):
            for name, prepared in calls.items():
                call = prepared()
                watch.reset()
                begun = time.perf_counter_ns()
                captured = call()
                taken[name].append((time.perf_counter_ns() - begun) / 1e6)
                gaps[name].append(watch.gaps())
                if isinstance(captured, trainspool.Capture):
                    how[name] = captured.how[0]
                    captured.wait()
                _tidy(size)
    pick = min if size > MIDDLE else statistics.median
    least = {name: {key: min(one[key] for one in found) for key in found[0]} for name, found in gaps.items()}
    return {
        "calls": {name: pick(times) for name, times in taken.items()},
        "gaps": least,
        "how": how | {"artifact_path": "moved"},
    }


def _ways(size: int) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return, by name, what prepares a call and returns it."""
    import mlflow

    import trainspool

    Path("source").write_bytes(os.urandom(MIB) * (size // MIB) if size >= MIB else os.urandom(size))
    Path("copies").mkdir()
    run = trainspool.start_run()
    mlflow.start_run()
    run.log_text("warm", "warm.txt")
    mlflow.log_text("warm", "warm.txt")

    def given_away() -> Callable[[], Any]:
        name = f"given-{next(_numbers)}"
        with open(name, "wb") as file:
            file.truncate(size)
        return lambda: run.log_artifact(name, "ckpt", move=True)

    def written() -> Any:
        with run.artifact_path(f"ckpt/{next(_numbers)}") as path, open(path, "wb") as file:
            file.truncate(size)

    return {
        "nothing": lambda: lambda: time.sleep(0.5 if size > MIDDLE else 0.001),
        "default": lambda: lambda: run.log_artifact("source", str(next(_numbers))),
        "shutil.copy": lambda: lambda: shutil.copy("source", f"copies/{next(_numbers)}"),
        "move": given_away,
        "link": lambda: lambda: run.log_artifact("source", str(next(_numbers)), link=True),
        "background": lambda: lambda: run.log_artifact("source", str(next(_numbers)), background=True),
        "artifact_path": lambda: written,
        "mlflow": lambda: lambda: mlflow.log_artifact("source", str(next(_numbers))),
    }


def _tidy(size: int) -> None:
    """Keep the disk from filling up, and one call's dirty pages from meeting the next."""
    for path in [*Path("copies").iterdir(), *Path("mlflow").glob("*/*/artifacts/*/source")]:
        path.unlink()
    if size > MIDDLE:
        os.sync()


class _Watch:
    """What a pure-Python thread and one that computes with NumPy miss of the time. Two threads of its own."""

    def __init__(self) -> None:
        self._longest = {"python": 0.0, "numpy": 0.0}
        self._over = False
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._python, self._numpy)]

    def reset(self) -> None:
        self._longest = {"python": 0.0, "numpy": 0.0}

    def gaps(self) -> dict[str, float]:
        """Return the longest gap of each in ms since ``reset``."""
        return dict(self._longest)

    def stop(self) -> None:
        self._over = True
        for thread in self.threads:
            thread.join()

    def _python(self) -> None:
        last = time.perf_counter()
        while not self._over:
            for _ in range(50):
                pass
            now = time.perf_counter()
            self._missed("python", now - last)
            last = now
            time.sleep(0.0002)  # it must not be what holds the interpreter

    def _numpy(self) -> None:
        import numpy

        one = numpy.random.default_rng(1).random((128, 128))
        usual = min(_timed(lambda: one @ one) for _ in range(200))
        while not self._over:
            self._missed("numpy", _timed(lambda: one @ one) - usual)

    def _missed(self, name: str, seconds: float) -> None:
        self._longest[name] = max(self._longest[name], seconds * 1e3)


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


@contextlib.contextmanager
def _threads(started: bool) -> Iterator[_Watch]:
    """Yield the threads, if *started*: a short call's own cost is measured without them."""
    watch = _Watch()
    for thread in watch.threads if started else ():
        thread.start()
    try:
        yield watch
    finally:
        if started:
            watch.stop()


def disk_used(size: int) -> dict[str, float]:
    """Worker: how many bytes of disk each way takes for a byte that was logged, once it is in its store."""
    used: dict[str, float] = {}
    for way in (*WAYS, "mlflow"):
        Path("source").write_bytes(os.urandom(MIB) * (size // MIB))
        before = _free()
        subprocess.run([sys.executable, "-c", _LOG[way]], check=True, capture_output=True)
        if way != "mlflow":
            command = [sys.executable, "-m", "trainspool_agent", "sync", "--json"]
            subprocess.run(command, check=True, capture_output=True)
        used[way] = (before - _free()) / size
        for name in ("spool", "mlruns", "mlflow", "source"):
            shutil.rmtree(name) if os.path.isdir(name) else Path(name).unlink(missing_ok=True)
    return used


_LOG = {
    way: f"import trainspool\nwith trainspool.start_run(): trainspool.log_artifact('source', {how})"
    for way, how in {"default": "", "move": "move=True", "link": "link=True", "background": "background=True"}.items()
}
_LOG["artifact_path"] = (
    "import trainspool, shutil\nwith trainspool.start_run() as run, run.artifact_path('source') as path:\n"
    "  shutil.copy('source', path)"
)
_LOG["mlflow"] = "import mlflow\nwith mlflow.start_run(): mlflow.log_artifact('source')"


def _free() -> int:
    os.sync()
    found = os.statvfs(".")
    return found.f_bfree * found.f_frsize


# -- many small files -----------------------------------------------------------------------------------------------


def _small_files(place: Place, quick: bool) -> list[Line]:
    count = FILES // 10 if quick else FILES
    runs = [
        {name: worker(small_files, place, system=name, count=count, looped=LOOPED) for name in ("trainspool", "mlflow")}
        for _ in range(1 if quick else 3)
    ]
    lines = []
    for key, what in (("folder", f"log_artifacts of {count:,} files of 1 KiB"), ("loop", "a loop of log_artifact")):
        ours, theirs, copies = _best(runs, key)
        lines.append(
            Line(
                what,
                f"{short(1 / ours)} files/s",
                f"≥ {RATE:.0f}× MLflow's rate",
                ((theirs / ours, RATE),),
                f"MLflow {short(1 / theirs)}, shutil.copy {short(1 / copies)} files/s",
                ours / theirs,
                why="to make a file takes as long whoever makes it, and MLflow's folder call does little else",
                note="the best of the repetitions",
                at_least=True,
            )
        )
    return lines


def _best(runs: list[dict[str, dict[str, float]]], key: str) -> tuple[float, float, float]:
    """Return seconds per file: ours, MLflow's, shutil.copy's."""
    ours, theirs = (min(run[system][key] for run in runs) for system in ("trainspool", "mlflow"))
    return ours, theirs, min(run["trainspool"]["copy"] for run in runs)


def small_files(system: str, count: int, looped: int) -> dict[str, float]:
    """Worker: seconds per file of a folder at once, of calls in a loop, and of shutil.copy."""
    library: Any = __import__(system)
    source, copies = Path("small"), Path("copies")
    source.mkdir()
    copies.mkdir()
    names = [str(source / f"{number:05}") for number in range(count)]
    for name in names:
        Path(name).write_bytes(os.urandom(KIB))
    with library.start_run():
        library.log_text("warm", "warm.txt")
        folder = _timed(lambda: library.log_artifacts(str(source), "folder"))
        loop = _timed(lambda: [library.log_artifact(name, "loop") for name in names[:looped]])
        copied = _timed(lambda: [shutil.copy(name, copies) for name in names])
    return {"folder": folder / count, "loop": loop / min(count, looped), "copy": copied / count}


# -- the agent ------------------------------------------------------------------------------------------------------

_FILLER = """
import os, sys, trainspool
os.mkdir("small")
for number in range(int(sys.argv[1])): open(f"small/{number:05}", "wb").write(os.urandom(1024))
with trainspool.start_run(): trainspool.log_artifacts("small", "folder")
trainspool.flush(durable=True)
"""


def _agent(place: Place, quick: bool) -> list[Line]:
    count = FILES // 10 if quick else FILES
    home = place.fresh("handover")
    fill = [sys.executable, "-c", _FILLER, str(count)]
    subprocess.run(fill, env=place.environment(home), cwd=home, check=True)
    report = agents.sync(place, home)
    stored = sum(1 for _ in (home / "mlruns").glob("*/*/artifacts/folder/*"))
    lags = _lags_beside(place, fill, quick)
    return [
        Line(
            f"agent: {count:,} files of 1 KiB handed over",
            f"{report['seconds']:.1f} s, {short(count / report['seconds'])} files/s",
            note=f"{report['cpu']:.1f} s of CPU, {stored:,} files in the store{agents.problems(report)}",
        ),
        Line(
            f"log call → visible beside {count:,} such files, p99",
            f"{lags.p99 / 1e3:.0f} ms",
            "≤ 300 ms",
            ((lags.p99 / 1e3, 300.0),),
            why="the files' names, renames and syncs share two cores and one disk with it",
            note=f"p50 {lags.p50 / 1e3:.0f}, max {lags.max / 1e3:.0f} ms",
        ),
    ]


def _lags_beside(place: Place, fill: list[str], quick: bool) -> Any:
    """Lag of a run's points while another process of the same agent logs the files."""
    beside: list[subprocess.Popen[bytes]] = []

    def start(home: Path) -> None:
        beside.append(subprocess.Popen(fill, env=place.environment(home), cwd=home))

    try:
        return latency.visible(place, 200 if quick else 750, start)
    finally:
        for process in beside:
            process.wait()
