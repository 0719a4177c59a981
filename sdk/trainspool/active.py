"""Which run is active: a stack per thread that starts runs; every other thread logs to the process's active run.

MLflow's stack is per thread, so logging from a worker thread silently makes a new run there; here it does not.

Source: design.md §2.1, "Threads".
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trainspool.run import Run


class _Stack:
    """The active runs that one thread started, outermost first."""

    __slots__ = ("runs", "top")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.top: Run | None = None


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stack = _Stack()


_thread = _Thread()
_process: list[Run] = []  # every active run of the process, in order of its start
_open: list[Run] = []  # every run this process started and has not ended, active or not
_stack_of: dict[Run, _Stack] = {}
_last: list[Run] = []
ending: dict[Run, Callable[[], None]] = {}  # what stops before a run ends: the sampling of its machine
abandoning: list[Callable[[], None]] = []  # each ends the runs that someone began and will not come to end


def current() -> Run | None:
    """Return the run that this thread's log calls go to."""
    run = _thread.stack.top
    if run is not None:
        return run
    return _process[-1] if _process else None


def own_stack() -> list[Run]:
    """Return the runs this thread has started and not ended, outermost first."""
    return _thread.stack.runs


def of_process() -> list[Run]:
    """Return the active runs of all threads, the last started first."""
    return _process[::-1]


def opened(run: Run) -> None:
    """Remember *run*, so that it is ended when the process leaves."""
    _open.append(run)


def push(run: Run) -> None:
    """Make *run* this thread's active run."""
    stack = _stack_of[run] = _thread.stack
    stack.runs.append(run)
    stack.top = run
    _process.append(run)
    _last[:] = [run]


def release(run: Run) -> None:
    """Take *run* off its stack, if it is on one, and leave it open: whoever holds it logs to it and ends it."""
    stack = _stack_of.pop(run, None)
    if stack is not None:
        _process.remove(run)
        stack.runs.remove(run)
        stack.top = stack.runs[-1] if stack.runs else None
        _last[:] = [run]


def end(run: Run, status: str, reason: str | None = None, end_time: int | None = None) -> None:
    """End *run*, from whichever thread, and take it off its stack; once ended it is left alone."""
    release(run)
    if run in _open:
        _open.remove(run)
    stop = ending.pop(run, None)
    if stop is not None:
        stop()
    run.end(status, reason, end_time)


def end_abandoned() -> None:
    """End the runs of trainings that raised without telling: asked before one stands in the way, and at exit."""
    for end_them in abandoning:
        end_them()


def all_open() -> list[Run]:
    """Return every run this process has started and not ended, the last started first."""
    return _open[::-1]


def last() -> Run | None:
    """Return the run that is active, else the one that was last."""
    return current() or (_last[0] if _last else None)
