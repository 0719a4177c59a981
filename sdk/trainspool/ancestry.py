"""Which process began which, by /proc (proc(5)): only of processes that still run."""

from __future__ import annotations

import os
import time


def descends(pid: int, ancestor: int) -> bool:
    """Whether *pid* is *ancestor*, or was begun by it, by a child of it, and so on (a fork server, say)."""
    while pid not in (0, ancestor):
        fields = _fields(pid)
        if not fields:
            return False
        pid = int(fields[1])
    return pid == ancestor


def began_ns() -> int:
    """Return when this process was begun, in ns since the epoch by the clock as it is now, to some 10 ms.

    Where that cannot be known (no /proc) it is now.
    """
    ticks = began_ticks()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
    return time.time_ns() - int(age_s * 1e9)


def began_ticks() -> int:
    """Return when this process was begun, in clock ticks since the boot; 0 where that cannot be known."""
    fields = _fields(os.getpid())
    return int(fields[19]) if fields else 0


def _fields(pid: int) -> list[bytes]:
    """Return the fields of a process's stat behind its name, which may hold anything; [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []
