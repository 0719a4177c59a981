"""The liveness lock: held by a stream's writer while it lives, so a lock that can be had means a dead writer.

Source: sdk/docs/spool-format.md, "Files".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from trainspool.spool import files
from trainspool.spool.layout import LOCK

NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))


def hold(folder: str) -> int:
    """Make the stream's lock file and hold its lock; return the descriptor, which is the lock.

    Where the file system has no locks (Lustre mounted without them), the file is there and nothing holds it: a reader
    that tries meets the same error, and judges by process table and heartbeat.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = f"{folder}/{LOCK}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        files.fs.unlink(temporary)
    fd = files.fs.create(temporary)
    try:
        # Locked before it has its name: nobody ever sees this file unlocked while we live.
        works(fd)
        files.fs.rename(temporary, f"{folder}/{LOCK}")
    except BaseException:
        files.fs.close(fd)
        raise
    return fd


def works(fd: int) -> bool:
    """Lock *fd*; whether its file system has locks. Ours already: changes nothing.

    Raises:
        OSError: someone else holds it, or the disk.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def is_held(path: str | os.PathLike[str]) -> bool | None:
    """Whether someone holds the lock of the file at *path*; None: no file there, or no locks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False
