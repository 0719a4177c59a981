"""Whole contents in and out of a run's artifacts: what is made here rather than carried here; no link is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from trainspool_agent import files
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.files import temporary_in
from trainspool_agent.store.layout import ARTIFACTS, artifact_parts
from trainspool_agent.store.transfer import NotYet, check_size, open_folder, open_staged

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def put(content: bytes, path: str, run_folder: str, work: str) -> None:
    """Publish *content* as ``artifacts/<path>``; errors as ``Transfer.publish``."""
    *folders, name = artifact_parts(path)
    temporary = temporary_in(work)
    try:
        target = files.fs.create_shared(temporary)
        try:
            files.fs.write(target, content)
            files.fs.sync(target)  # it may replace one that was on the device
        finally:
            files.fs.close(target)
        folder = open_folder(run_folder, (ARTIFACTS, *folders))
        try:
            files.fs.rename_into(temporary, folder, name)
        finally:
            os.close(folder)
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Refused(f"artifact {path!r:.200}: a file stands where a folder is needed, or a link") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            files.fs.unlink(temporary)


def read_placed(path: str, run_folder: str, bytes_max: int) -> bytes | None:
    """Return what stands at ``artifacts/<path>``, None if nothing does.

    Raises:
        Refused: no plain file, a link on the way, or too large.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(run_folder, _FOLDER)
    try:
        for number, part in enumerate(parts := [ARTIFACTS, *artifact_parts(path)], 1):
            below = os.open(part, flags if number == len(parts) else _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        with open(os.dup(fd), "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode) or os.fstat(fd).st_size > bytes_max:
                raise Refused(f"artifact {path!r:.200} is no plain file of at most {bytes_max} bytes")
            return file.read(bytes_max)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR):
            raise Refused(f"artifact {path!r:.200}: a link or no folder stands on its way") from error
        raise
    finally:
        os.close(fd)


def read_staged(name: str, staging: str, size: int, bytes_max: int) -> bytes:
    """Return what a staged file holds, of which the event says that it has *size* bytes.

    Raises:
        Refused: missing, too large, cut short or no regular file.
    """
    if not 0 <= size <= bytes_max:
        raise Refused(f"staged file {name} of {size} bytes is more than the {bytes_max} that are taken")
    try:
        fd = open_staged(name, staging)
    except NotYet as error:
        raise Refused(f"staged file {name} is not whole") from error
    with open(fd, "rb") as file:
        check_size(name, os.fstat(file.fileno()).st_size, size)
        return file.read(size)
