"""One at a time rewrites a ``meta.yaml``: it is read, changed and renamed over, and who comes between loses.

The lock is the file's own (flock), so nothing is added to the store. MLflow knows nothing of it, and where the file
system has no locks it is not there: then the last one wins, as with MLflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

PATIENCE_S = 0.5
POLL_S = 0.005


@contextlib.contextmanager
def held(path: str) -> Iterator[None]:
    """Hold the lock of the file at *path* within a ``with`` block; entered without it if another keeps it too long.

    A rewrite takes as long as a sync; who holds it longer was stopped, and nobody waits for that.

    Raises:
        OSError: there is no such file, or it is a link.
    """
    fd = _locked(path, time.monotonic() + PATIENCE_S)
    try:
        yield
    finally:
        os.close(fd)  # and the lock with it


def _locked(path: str, deadline: float) -> int:
    """Lock what stands at *path* at last: who held it has put another file there."""
    while True:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            taken = _take(fd, deadline)
            if not taken or os.fstat(fd).st_ino == os.lstat(path).st_ino:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _take(fd: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        except OSError:  # no locks here (NFS wants to write for one), or none at all
            return False
        else:
            return True
