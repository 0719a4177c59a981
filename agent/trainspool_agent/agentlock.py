"""One agent per host and user: a lock beside the rings, which says who holds it.

The file holds one JSON object: pid, version, format, started (ns), spools, log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from trainspool.errors import TrainspoolError
from trainspool.spool import lock
from trainspool.spool.events import FORMAT_VERSION
from trainspool.spool.ringfolder import agent_folder

FILE = "agent.lock"
PROBE_PATIENCE_S = 2.0
_PAUSE_S = 0.05


class AgentRunning(TrainspoolError):
    """Another agent of this user runs on this host; ``about`` is what it says of itself."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__(about)
        self.about = about

    def __str__(self) -> str:
        pid = self.about.get("pid", "unknown")
        return f"an agent of yours runs on this host already, pid {pid}. Next: trainspool status, or kill {pid}"


class AgentLock:
    """The lock, held from ``acquire`` to ``release`` or to the end of the process."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or agent_folder()) / FILE
        self._fd = -1

    def acquire(self, patience_s: float = PROBE_PATIENCE_S) -> None:
        """Take the lock.

        An SDK that looks whether an agent runs holds it for an instant, so one refusal means nothing.

        Raises:
            AgentRunning: another agent holds it.
            OSError: the file cannot be made or locked.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    raise AgentRunning(read_about(self.path)) from None
                time.sleep(_PAUSE_S)
        self._fd = fd

    def describe(self, spools: list[Path], log: str | None) -> None:
        """Say in the file who holds the lock."""
        about = {
            "pid": os.getpid(),
            "version": _version(),
            "format": FORMAT_VERSION,
            "started": time.time_ns(),
            "spools": [str(spool) for spool in spools],
            "log": log,
        }
        data = json.dumps(about).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def release(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> AgentLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def running_agent(folder: Path | None = None) -> dict[str, Any] | None:
    """Return what the running agent says of itself, or None if none runs."""
    path = (folder or agent_folder()) / FILE
    return read_about(path) if lock.is_held(path) else None


def read_about(path: Path) -> dict[str, Any]:
    """Return the lock file's content, {} where it is not (yet) sound."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # 10 ms, and nothing else here needs it

    try:
        return version("trainspool")
    except PackageNotFoundError:
        return "unknown"
