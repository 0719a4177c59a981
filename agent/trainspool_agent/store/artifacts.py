"""Move artifact files into place: by hard link where possible, else by copy; never out of the run's folder.

Source: mlflow-store.md 1.8, 6.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from trainspool.spool.layout import is_safe_name
from trainspool_agent import files
from trainspool_agent.store.changes import Artifact
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.files import temporary_in
from trainspool_agent.store.layout import ARTIFACTS, artifact_parts
from trainspool_agent.store.limits import COPY_BYTES, STAGED_TAG_BYTES_MAX

_NO_LINK = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.ENOENT))
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def place(artifact: Artifact, run_folder: str, staging: str, work: str) -> None:
    """Publish one staged file as ``artifacts/<path>``, atomically replacing what stands there. May take long.

    Raises:
        Refused: the path or the staged file is not to be trusted or is missing.
        OSError: the store could not take it; nothing of it is visible.
    """
    *folders, name = artifact_parts(artifact.path)
    temporary = temporary_in(work)
    source = _open_staged(artifact.staged, staging)
    try:
        _check_size(artifact.staged, os.fstat(source).st_size, artifact.size)
        _link_or_copy(source, temporary, (artifact.mode & 0o777) | 0o600 if artifact.mode else 0)
        target = _open_folder(run_folder, (ARTIFACTS, *folders))
        try:
            files.fs.sync_path(temporary)  # it may replace one that was on the device
            files.fs.rename_into(temporary, target, name)
        finally:
            os.close(target)
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Refused(f"artifact {artifact.path!r:.200}: a file stands where a folder is needed, or a link") from error
    finally:
        os.close(source)
        with contextlib.suppress(FileNotFoundError):  # also when both names are one file: then rename does nothing
            files.fs.unlink(temporary)


def read_staged_text(name: str, staging: str, size: int = -1) -> str:
    """Return a staged tag's value.

    Raises:
        Refused: missing, too large or no regular file.
    """
    fd = _open_staged(name, staging)
    with open(fd, "rb") as file:
        data = file.read(STAGED_TAG_BYTES_MAX + 1)
    if len(data) > STAGED_TAG_BYTES_MAX:
        raise Refused(f"staged tag {name} is larger than {STAGED_TAG_BYTES_MAX} bytes")
    if size >= 0:
        _check_size(name, len(data), size)
    return data.decode("utf-8", "replace")


def _check_size(name: str, found: int, expected: int) -> None:
    """A power cut may leave an event and forget what it speaks of."""
    if found < expected:
        raise Refused(f"staged file {name} has {found} of its {expected} bytes")


def _open_staged(name: str, staging: str) -> int:
    if not is_safe_name(name):
        raise Refused(f"staged file {name!r:.100} has a name that may not be opened")
    try:
        folder = os.open(staging, _FOLDER)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise Refused(f"staged file {name} is missing from {staging} ({error.strerror})") from error
        raise
    info, owner = os.fstat(fd), os.stat(os.path.dirname(staging)).st_uid
    if not stat.S_ISREG(info.st_mode) or info.st_uid != owner:
        os.close(fd)
        raise Refused(f"staged file {name} in {staging} is no plain file of user {owner}, whose stream it is")
    return fd


def _link_or_copy(source: int, temporary: str, mode: int) -> None:
    """Make *temporary* the file that is open as *source*, whatever stands at its name by now; *mode* 0: as it is."""
    info = os.fstat(source)
    # A file that has other names keeps its mode under them: it may be linked, but not changed.
    alone = info.st_nlink == 1
    if (alone or mode in (0, stat.S_IMODE(info.st_mode))) and _link(source, temporary):
        if alone and mode:
            files.fs.change_mode(temporary, mode)
        return
    target = files.fs.create_shared(temporary)
    left = info.st_size  # and no more: it may be growing for ever
    try:
        while left > 0 and (chunk := os.read(source, min(COPY_BYTES, left))):
            files.fs.write(target, chunk)
            left -= len(chunk)
    finally:
        files.fs.close(target)
    if mode:
        files.fs.change_mode(temporary, mode)


def _link(source: int, temporary: str) -> bool:
    try:
        files.fs.link_open(source, temporary)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _open_folder(base: str, folders: tuple[str, ...]) -> int:
    """Open a folder below *base*, made if need be, no link followed on the way."""
    fd = os.open(base, _FOLDER)
    for folder in folders:
        try:
            with contextlib.suppress(FileExistsError):
                files.fs.make_folder_in(fd, folder)
            below = os.open(folder, _FOLDER, dir_fd=fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a link", folder) from error
            raise
        finally:
            os.close(fd)
        fd = below
    return fd
