"""Artifact content captured before the call returns: callers delete their temporary folders right afterwards.

A captured file lies in the stream's staging folder under a random name; its event follows. If we die in between, an
unnamed file is left, which retention removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import posixpath
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from trainspool.errors import TrainspoolException
from trainspool.spool import files, quota

_FICLONE = 0x40049409  # linux/fs.h: share the blocks, copy on write
_COPY_BYTES = 1 << 20
_NO_CLONE = frozenset(
    (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.EBADF)
)


class Staged(NamedTuple):
    """One captured file."""

    path: str
    name: str
    size: int
    mode: int


class StagingFailed(Exception):
    """The spool could not take the content (disk full, not writable); nothing half-made is left."""


def check_artifact_path(path: str) -> str:
    """Return *path* in normal form if it stays inside the run's artifacts.

    Raises:
        TrainspoolException: it is absolute, leaves the folder, or holds NUL or a backslash.
    """
    normal = posixpath.normpath(path)
    if not path or "\0" in path or "\\" in path or normal.startswith(("/", "..")) or normal == ".":
        raise TrainspoolException(
            f"Invalid artifact path: {path!r}. Names must be plain relative paths inside the run."
        )
    return normal


def files_of(source: str, artifact_path: str | None, *, keep_name: bool) -> Iterator[tuple[str, str]]:
    """Yield (file, artifact path) for a file, or for everything in a folder; *keep_name*: under the source's own name.

    Raises:
        FileNotFoundError: *source* does not exist.
    """
    base = check_artifact_path(artifact_path) if artifact_path else ""
    if not os.path.lexists(source):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)
    if keep_name:
        base = posixpath.join(base, os.path.basename(os.path.abspath(source)))
    if not os.path.isdir(source):
        if not keep_name:
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory (log_artifact takes single files)", source)
        yield source, check_artifact_path(base)
        return
    for folder, _, names in os.walk(source):
        inner = os.path.relpath(folder, source).replace(os.sep, "/")
        for name in sorted(names):
            yield os.path.join(folder, name), check_artifact_path(posixpath.join(base, inner, name))


def capture(source: str, folder: str) -> Staged:
    """Copy *source* as it is now into *folder*: shared blocks where the file system can, else a copy in the kernel.

    Raises:
        OSError: *source* cannot be read.
        TrainspoolException: it is no plain file.
        StagingFailed: *folder* cannot take it.
    """
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block training
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise TrainspoolException(f"{source} is no plain file, so it cannot be an artifact")
        with _new_file(folder) as (target, path, name):
            size = _clone_or_copy(fd, target, info.st_size)
    finally:
        os.close(fd)
    return Staged(path, name, size, stat.S_IMODE(info.st_mode))


def write(content: bytes, folder: str) -> Staged:
    """Write *content* into *folder*.

    Raises:
        StagingFailed: *folder* cannot take it.
    """
    with _new_file(folder) as (target, path, name):
        files.fs.write(target, content)
    return Staged(path, name, len(content), 0o644)


def serialised(dictionary: Any, artifact_file: str) -> str:
    """Return *dictionary* as text, as MLflow's ``log_dict`` does: by the file's extension, JSON unless it says YAML."""
    if artifact_file.endswith((".yml", ".yaml")):
        with contextlib.suppress(ImportError):
            import yaml  # not a dependency; JSON is YAML where it is missing

            text: str = yaml.dump(dictionary, indent=2, default_flow_style=False)
            return text
    return json.dumps(dictionary, indent=2, default=str)


@contextlib.contextmanager
def _new_file(folder: str) -> Iterator[tuple[int, str, str]]:
    name = os.urandom(16).hex()
    path = f"{folder}/{name}"
    target = -1
    try:
        files.fs.make_folder(folder)
        quota.check(os.path.dirname(os.path.dirname(folder)))
        target = files.fs.create(path)
        yield target, path, name
    except OSError as error:
        if target >= 0:
            with contextlib.suppress(OSError):
                files.fs.unlink(path)
        raise StagingFailed(f"{error}; nothing of it is kept. Next: make room in the spool and log it again") from error
    finally:
        if target >= 0:
            os.close(target)


def _clone_or_copy(source: int, target: int, size: int) -> int:
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return size
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    copied = 0
    while block := os.read(source, _COPY_BYTES):
        files.fs.write(target, block)
        copied += len(block)
    return copied
