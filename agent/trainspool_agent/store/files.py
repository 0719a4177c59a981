"""Small files published whole: written under a temporary name in the experiment's work folder, then renamed."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
from collections.abc import Iterable

from trainspool_agent.checkpoint import sync_path
from trainspool_agent.store.limits import FSYNC_FILES_MAX

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def temporary_in(work: str) -> str:
    """Return a fresh name in *work*, an existing folder after this."""
    os.makedirs(work, exist_ok=True)
    return f"{work}/{os.getpid()}.{next(_numbers)}"


def publish(path: str, data: bytes, work: str, *, sync: bool = False) -> None:
    """Make *path* hold *data*: a reader finds the old content or all of the new; so does a power cut with *sync*."""
    temporary = temporary_in(work)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        rename_making_folders(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def rename_making_folders(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(source, target)


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def sync_all(paths: Iterable[str] | None, root: str) -> None:
    """Bring *paths* to the device, or all of *root*'s file system if they are many or unknown. Blocks: use a thread.

    Raises:
        OSError: what was written may be lost; whoever relies on it must write it again.
    """
    known = None if paths is None else list(paths)
    if known is not None and len(known) <= FSYNC_FILES_MAX:
        for path in known:
            sync_path(path)
        return
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), root)
    finally:
        os.close(fd)
