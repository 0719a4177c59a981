"""Small files published whole: written under a temporary name in the experiment's work folder, then renamed."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable

from trainspool_agent import files
from trainspool_agent.store.layout import refuse_links
from trainspool_agent.store.limits import FSYNC_FILES_MAX

_numbers = itertools.count()


def temporary_in(work: str) -> str:
    """Return a fresh name in *work*, an existing folder after this."""
    refuse_links(work)
    files.fs.make_shared_folder(work)
    return f"{work}/{os.getpid()}.{next(_numbers)}"


def publish(path: str, data: bytes, work: str, *, sync: bool = False) -> None:
    """Make *path* hold *data*: a reader finds the old content or all of the new; so does a power cut with *sync*."""
    fs, temporary = files.fs, temporary_in(work)
    try:
        fd = fs.create_shared(temporary)
        try:
            fs.write(fd, data)
            if sync:
                fs.sync(fd)
        finally:
            fs.close(fd)
        rename_making_folders(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            fs.unlink(temporary)
        raise


def rename_making_folders(source: str, target: str) -> None:
    try:
        files.fs.rename(source, target)
    except FileNotFoundError:
        files.fs.make_shared_folder(os.path.dirname(target))
        files.fs.rename(source, target)


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        files.fs.unlink(path)


def sync_all(paths: Iterable[str] | None, root: str) -> None:
    """Bring *paths* to the device, or all of *root*'s file system if they are many or unknown. Blocks: use a thread.

    Raises:
        OSError: what was written may be lost; whoever relies on it must write it again.
    """
    known = None if paths is None else list(paths)
    if known is not None and len(known) <= FSYNC_FILES_MAX:
        for path in known:
            files.fs.sync_path(path)
        return
    files.fs.sync_file_system(root)
