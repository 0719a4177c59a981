"""Who else writes to a store now: a second replay is refused; runs that the agent has in hand are left to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trainspool.errors import TrainspoolError
from trainspool.spool.ringfolder import agent_folder
from trainspool_agent import files, health
from trainspool_agent.agentlock import running_agent

_NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF))


class StoreBusy(TrainspoolError):
    """Another replay writes to this store."""

    def __str__(self) -> str:
        return f"another replay writes to {self.args[0]}. Kept: everything. Next: wait for it, then the same again"


@contextlib.contextmanager
def holding(root: Path) -> Iterator[None]:
    """Keep other replays out of the store at *root*, which is made if need be. On NFS without locks: nobody is.

    Raises:
        StoreBusy: another one is at it.
        OSError: the folder can be neither made nor opened.
    """
    files.fs.make_shared_folder(str(root))
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreBusy(str(root)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(fd)
            raise
    try:
        yield
    finally:
        os.close(fd)


class Carried(NamedTuple):
    """What the running agent has in hand; all empty if none runs here.

    Attributes:
        store: the store that is replayed to, its real path: runs recorded for it, and they alone, are the agent's.
        streams: ids of the streams it carries.
        runs: ids of the runs that are not settled yet.
    """

    store: str
    streams: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()
    pid: Any = None

    @classmethod
    def now(cls, root: Path) -> Carried:
        store = os.path.realpath(root)
        try:
            folder = agent_folder()
            about = running_agent(folder)
        except OSError:
            return cls(store)
        if about is None:
            return cls(store)
        streams = (health.read(folder) or {}).get("streams", [])
        names = frozenset(str(stream.get("stream")) for stream in streams)
        runs = frozenset(run for stream in streams for run in stream.get("open_runs") or ())
        return cls(store, names, runs, about.get("pid"))

    def is_here(self, recorded: str) -> bool:
        return is_store(recorded, self.store)


def is_store(recorded: str, real_path: str) -> bool:
    """Whether a recorded store is this one, or may be: an agent's own ``--store`` takes what has no place."""
    path = recorded.removeprefix("file://")
    return os.path.realpath(path) == real_path or not os.path.isdir(path)
