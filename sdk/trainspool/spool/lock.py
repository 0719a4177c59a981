"""The liveness lock: held by a stream's writer while it lives, so a lock that can be had means a dead writer.

Source: sdk/docs/spool-format.md, "Files".
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from trainspool.spool import files
from trainspool.spool.layout import LOCK


def hold(folder: str) -> int:
    """Make the stream's lock file and hold its lock; return the descriptor, which is the lock.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    temporary = f"{folder}/{LOCK}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        files.fs.unlink(temporary)
    fd = files.fs.create(temporary)
    try:
        # Locked before it has its name: nobody ever sees this file unlocked while we live.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.fs.rename(temporary, f"{folder}/{LOCK}")
    except BaseException:
        files.fs.close(fd)
        raise
    return fd
