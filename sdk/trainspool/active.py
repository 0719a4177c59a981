"""Which run is active: a stack per thread that starts runs; every other thread logs to the process's active run.

MLflow's stack is per thread, so logging from a worker thread silently makes a new run there; here it does not.

Source: design.md §2.1, "Threads".
"""

from __future__ import annotations

import threading

from trainspool.run import Run


class _Thread(threading.local):
    run: Run | None = None
    stack: tuple[Run, ...] = ()


_thread = _Thread()
_process: list[Run] = []  # every active run of the process, in order of its start
_last: list[Run] = []


def current() -> Run | None:
    """Return the run that this thread's log calls go to."""
    run = _thread.run
    if run is not None:
        return run
    return _process[-1] if _process else None


def own_stack() -> tuple[Run, ...]:
    """Return the runs this thread has started and not ended, outermost first."""
    return _thread.stack


def push(run: Run) -> None:
    _thread.stack = (*_thread.stack, run)
    _thread.run = run
    _process.append(run)
    _last[:] = [run]


def end(run: Run, status: str, reason: str | None = None) -> None:
    """End *run* and take it off the stacks; a run that is not active any more is left alone."""
    if run not in _process:
        return
    _process.remove(run)
    _thread.stack = tuple(other for other in _thread.stack if other is not run)
    _thread.run = _thread.stack[-1] if _thread.stack else None
    _last[:] = [run]
    run.end(status, reason)


def all_active() -> list[Run]:
    """Return every active run of the process, the last started first."""
    return _process[::-1]


def last() -> Run | None:
    """Return the run that is active, else the one that was last."""
    return current() or (_last[0] if _last else None)
