"""How a process leaves: runs ended, the ring drained, and one line that says where the runs are.

Source: design.md §2.6-2.7.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from trainspool import active
from trainspool.complaints import warn
from trainspool.run import Run
from trainspool.stream import stream
from trainspool.texts import reason_of

DRAIN_S_MAX = 1.0

_uncaught: list[str] = []
_watching = False


def arrange() -> None:
    """Have ``at_exit`` called when the process leaves; told once, at import."""
    stream.at_birth = watch
    atexit.register(at_exit)
    os.register_at_fork(after_in_child=_after_fork_in_child)


def watch() -> None:
    """From a stream's birth on: notice an uncaught exception, and a multiprocessing child's leaving."""
    global _watching
    if not _watching:
        _watching = True
        sys.excepthook = _noticing(sys.excepthook)
    _watch_multiprocessing()


def uncaught() -> str | None:
    """Return the exception that the main program ended with; None if it has not."""
    return _uncaught[0] if _uncaught else None


def at_exit() -> None:
    """End every active run (FAILED after an uncaught exception), and bring the ring to the spool."""
    if not _uncaught:
        active.end_abandoned()
    runs = [run for run in active.all_open() if run.owner]
    for run in runs:
        active.end(run, "FAILED" if _uncaught else "FINISHED", _uncaught[0] if _uncaught else None)
    if stream.pump is None:
        return
    _finish_captures()
    begun, end = time.monotonic(), stream.ring.end
    configured = stream.configured()
    exit_wait_s = configured.exit_wait_s if stream.agent.is_coming(configured) else 0.0
    in_store = stream.wait(exit_wait_s) if exit_wait_s > 0 else False
    in_spool = stream.finish(max(0.1, DRAIN_S_MAX - (time.monotonic() - begun if not exit_wait_s else 0)))
    _say_where(runs or [run for run in (active.last(),) if run is not None and run.owner], in_spool, in_store, end)


def _finish_captures() -> None:
    """Files that the program asked to be copied in the background are worth waiting for; Ctrl-C leaves them."""
    if stream.captures.wait(0):
        return
    if sys.stderr.isatty():
        print("trainspool: artifacts are still being captured; Ctrl-C leaves them", file=sys.stderr)  # noqa: T201
    try:
        stream.captures.wait()
    except KeyboardInterrupt:
        warn("left before all artifacts were captured; each is reported on its run")


def _say_where(runs: list[Run], in_spool: bool, in_store: bool, end: int) -> None:
    if not runs or not sys.stderr.isatty():
        return
    run = runs[-1]
    state = (
        "stored" if in_store else "recorded" if in_spool else f"in {stream.folder}, not all written: {end} bytes logged"
    )
    print(  # noqa: T201  for the person at the terminal
        f"trainspool: run {run.known_name} {state}; store {run.store}. See it: trainspool status {run.run_id}",
        file=sys.stderr,
    )


_Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def _noticing(previous: _Hook) -> _Hook:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        _uncaught[:] = [reason_of(error) or kind.__name__]
        return previous(kind, error, trace)

    return hook


def _watch_multiprocessing() -> None:
    """Children of multiprocessing leave by os._exit, past atexit, but run its finalizers."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, at_exit, exitpriority=-100)


def _after_fork_in_child() -> None:
    _uncaught.clear()
