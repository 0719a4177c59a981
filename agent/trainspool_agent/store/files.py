"""Small files published whole: written under a temporary name in the experiment's work folder, then renamed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable

from trainspool_agent import files
from trainspool_agent.store.layout import refuse_links
from trainspool_agent.store.limits import FSYNC_FILES_MAX

# What file systems say that make no hard link.
NO_LINK = frozenset((errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EINVAL))
_numbers = itertools.count()


def temporary_in(work: str) -> str:
    """Return a fresh name in *work*, an existing folder after this.

    Raises:
        FileNotFoundError: the experiment is gone. Made anew, what is left of it would hide from MLflow where it went.
    """
    refuse_links(work)
    files.fs.make_one_folder(work)
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
    """Rename a file of an experiment's work folder to its place in the experiment, whose folders are made.

    Raises:
        FileNotFoundError: the experiment is gone: into the trash, say, where its runs go on.
    """
    _making_folders(files.fs.rename, source, target)


def place_if_new(source: str, target: str) -> bool:
    """As ``rename_making_folders``, unless someone has made the target meanwhile: whether it has its place now."""
    try:
        _making_folders(files.fs.link, source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if os.path.lexists(target):
            return False
        rename_making_folders(source, target)
        return True
    with contextlib.suppress(OSError):  # it has its place; the other name goes with what agents that died left
        files.fs.unlink(source)
    return True


def _making_folders(put: Callable[[str, str], None], source: str, target: str) -> None:
    try:
        put(source, target)
    except FileNotFoundError:
        experiment = os.path.dirname(os.path.dirname(source))
        folder = experiment
        for name in os.path.relpath(os.path.dirname(target), experiment).split("/"):
            folder = f"{folder}/{name}"
            files.fs.make_one_folder(folder)
        put(source, target)


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
