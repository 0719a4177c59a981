"""The stream's staging folder: content captured before the call returns, since callers delete or rewrite their files.

A captured file lies there under a random name; its event follows. If we die in between, a file is left that no event
names, and retention removes it with its stream. A file named ``….part`` is still being captured; its event is there.

Source: sdk/docs/spool-format.md, "Files"; sdk/docs/artifacts.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from trainspool.errors import TrainspoolException
from trainspool.spool import files, quota
from trainspool.spool.copying import COPY_BYTES
from trainspool.spool.layout import PART_SUFFIX, STAGED_NAME_MAX

LOOK_INTERVAL_S = 0.05  # at the quota, for small files: thousands may be logged in a row
LARGE_BYTES = 1 << 20
_NO_PART_OF_A_NAME = re.compile(r"[^A-Za-z0-9._-]")
_looked_at: dict[str, float] = {}


class Staged(NamedTuple):
    """One file in the staging folder, and what its event says of it."""

    path: str
    name: str
    size: int
    mode: int
    how: str
    mtime_ns: int = 0
    fingerprint: bytes = b""
    changed: bool = False  # the source, again and again while it was read

    @property
    def said(self) -> tuple[object, ...]:
        """The elements of an artifact event from the staged name on."""
        fields = self.name, self.size, self.mode, self.how
        return (*fields, self.mtime_ns, self.fingerprint) if self.fingerprint else fields


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


def files_at(path: str, artifact_path: str) -> Iterator[tuple[str, str]]:
    """Yield (file, artifact path) for what stands at *path*: a file, or what a folder holds, below *artifact_path*."""
    if os.path.isdir(path):
        yield from files_of(path, artifact_path, keep_name=False)
    else:
        yield path, artifact_path


def write(content: bytes | memoryview, folder: str) -> Staged:
    """Write *content* into *folder*.

    Raises:
        StagingFailed: *folder* cannot take it.
    """
    size = len(content) if isinstance(content, bytes) else content.nbytes
    with new_file(folder, size) as (target, path):
        files.fs.write(target, content)
    return Staged(path, os.path.basename(path), size, 0o644, "written")


def pour(read: Callable[[int], bytes], folder: str) -> Staged:
    """Write what *read* gives, until that is nothing, into *folder*. What *read* raises is raised, nothing is left.

    Raises:
        StagingFailed: *folder* cannot take it.
    """
    size, raised = 0, None
    with new_file(folder, 0) as (target, path):
        while True:
            try:
                block = read(COPY_BYTES)
            except BaseException as error:  # noqa: BLE001  the caller's, be it an OSError: no failure of the spool
                raised = error
                break
            if not block:
                break
            files.fs.write(target, block)
            size += len(block)
    if raised is not None:
        files.fs.unlink(path)
        raise raised
    return Staged(path, os.path.basename(path), size, 0o644, "written")


def new_name(like: str = "") -> str:
    """Return a fresh name for a staged file; it ends as *like* does: an extension may mean something to a writer."""
    name = os.urandom(16).hex()
    if not like:
        return name
    room = STAGED_NAME_MAX - len(name) - len(PART_SUFFIX) - 1
    ending = _NO_PART_OF_A_NAME.sub("_", os.path.basename(like))[-room:]
    return f"{name}-{ending}" if ending else name


def make_room(folder: str, size: int) -> None:
    """Have *folder* ready for a file of *size* bytes.

    Raises:
        OSError: it cannot be made, or must not take that much.
    """
    now = time.monotonic()
    if size < LARGE_BYTES and now - _looked_at.get(folder, 0.0) < LOOK_INTERVAL_S:
        return
    files.fs.make_folder(folder)
    quota.check(os.path.dirname(os.path.dirname(folder)), size)
    _looked_at.clear()  # of streams before a fork, perhaps
    _looked_at[folder] = now


@contextlib.contextmanager
def new_file(folder: str, size: int, suffix: str = "") -> Iterator[tuple[int, str]]:
    """Make a staged file to be filled within the block: its descriptor and path; gone if the block fails.

    Raises:
        StagingFailed: *folder* cannot take it.
    """
    path = f"{folder}/{new_name()}{suffix}"
    target = -1
    try:
        make_room(folder, size)
        target = files.fs.create_to_fill(path)
        yield target, path
    except BaseException as error:
        if target >= 0:
            with contextlib.suppress(OSError):
                files.fs.unlink(path)
        if isinstance(error, OSError):
            raise failed(error) from error
        raise
    finally:
        if target >= 0:
            os.close(target)


def failed(error: OSError) -> StagingFailed:
    """Return what to raise where the spool could not take something."""
    return StagingFailed(f"{error}; nothing of it is kept. Next: make room in the spool and log it again")
