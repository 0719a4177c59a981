"""One small file of a store, replaced whole by one of the same owner and mode.

The temporary file lies beside it, not in the experiment's work folder: a run may be a link to another disk. Plain files
in the folders of runs, models, traces and experiments are no data to MLflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat

from trainspool_agent import files

PREFIX = ".trainspool-relocate-"
_numbers = itertools.count()


def replace(path: str, data: bytes, folder: str) -> None:
    """Make *path* hold *data*: a reader finds the old content or all of the new, also after a power cut.

    Args:
        folder: for the temporary file; of the same file system. What killed calls left there is removed.

    Raises:
        OSError: *path* is as it was.
    """
    fs, about = files.fs, os.lstat(path)
    _remove_dead(folder)
    temporary = f"{folder}/{PREFIX}{os.getpid()}-{next(_numbers)}"
    try:
        fd = fs.create_shared(temporary)
        try:
            with contextlib.suppress(OSError):  # no locks here: then it counts as dead, and its rename says so
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fs.write(fd, data)
            _take_after(temporary, about)
            fs.sync(fd)
            fs.rename(temporary, path)
        finally:
            fs.close(fd)
    except BaseException:  # a signal's, too
        with contextlib.suppress(OSError):
            fs.unlink(temporary)
        raise


def _take_after(temporary: str, about: os.stat_result) -> None:
    for user in (about.st_uid, -1):  # only root gives files away; to a group of theirs, others do
        with contextlib.suppress(OSError):
            files.fs.change_owner(temporary, user, about.st_gid)
            break
    files.fs.change_mode(temporary, stat.S_IMODE(about.st_mode))


def _remove_dead(folder: str) -> None:
    """Remove temporary files of calls that were killed: nobody holds their lock."""
    for name in os.listdir(folder):
        if name.startswith(PREFIX):
            with contextlib.suppress(OSError):
                fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    files.fs.unlink(f"{folder}/{name}")
                finally:
                    os.close(fd)
