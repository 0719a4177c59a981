"""One artifact from its staging folder to its place: linked, shared or copied under a temporary name, then renamed.

Plain blocking calls, each of them short: ``begin`` does all that takes no time, ``step`` a part of a long copy. What a
killed agent had copied is gone on with: a part's name says which event it is of, and in which boot it was written.

Source: agent/docs/artifacts.md; mlflow-store.md 1.8, 6.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import Any

from trainspool.spool import copying, layout, lock
from trainspool.spool.fingerprint import fingerprint
from trainspool.spool.layout import PART_SUFFIX, is_safe_name
from trainspool_agent import files, media
from trainspool_agent.store.changes import Artifact
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.files import temporary_in
from trainspool_agent.store.layout import ARTIFACTS, artifact_parts
from trainspool_agent.store.limits import COPY_BYTES, MEDIA_BYTES_MAX, STAGED_TAG_BYTES_MAX, STEP_BYTES

MOVED = "moved"
LINKED = "linked"  # a file that its owner may still change: never linked on into the store
PART = "part-"
_NO_LINK = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.ENOENT))
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotYet(Exception):
    """The staged file is still being captured by a living process, or its part written by another agent."""


class Transfer:
    """One artifact under way. For one thread at a time; close it.

    Args:
        artifact: what its event says.
        stream: the stream's id.
        staging: the stream's staging folder.
        work: the experiment's folder for temporary files.
        boot_id: of this boot: a part of another one may have lost what was in it.
    """

    def __init__(self, artifact: Artifact, stream: str, staging: str, work: str, boot_id: str) -> None:
        self.artifact, self.staging, self.work = artifact, staging, work
        self.temporary = ""
        self.done_bytes = self.size = self.stored_bytes = 0
        self.ready = False
        self.digest: str | None = None
        self._part = part_name(boot_id, stream, artifact.offset)
        self._source = self._target = -1
        self._hash: Any = None

    def begin(self) -> None:
        """Open what is staged, and be ready if it can be linked, shared, or is small.

        Raises:
            Refused: the path or the staged file is not to be trusted, is missing, or changed.
            NotYet: it is still being captured.
            OSError: the store could not take it; nothing of it is visible.
        """
        artifact_parts(self.artifact.path)
        self._source = open_staged(self.artifact.staged, self.staging)
        info = os.fstat(self._source)
        check_size(self.artifact.staged, info.st_size, self.artifact.size)
        self.size = info.st_size  # and no more: it may be growing for ever
        self._check_unchanged()
        self.temporary = temporary_in(self.work)
        if self.artifact.about is not None:
            self._encode(self.artifact.about)
            return
        if self.artifact.how != LINKED and self._link(info):
            self.ready, self.done_bytes = True, self.size
            return
        if info.st_size > COPY_BYTES and self._clone():
            self._complete()
            return
        self._begin_copy()
        if info.st_size <= COPY_BYTES:
            while not self.ready:
                self.step()

    def step(self) -> None:
        """Copy some more; ``ready`` once all is there. Raises as ``begin``."""
        left = STEP_BYTES
        while left > 0 and self.done_bytes < self.size:
            block = os.pread(self._source, min(COPY_BYTES, self.size - self.done_bytes), self.done_bytes)
            if not block:
                raise Refused(f"staged file {self.artifact.staged} ends at {self.done_bytes}: someone cut it")
            files.fs.write(self._target, block)
            self._hash.update(block)
            self.done_bytes += len(block)
            left -= len(block)
        if self.done_bytes >= self.size:
            self._complete()

    def publish(self, run_folder: str) -> None:
        """Give it its name below the run's artifacts, atomically replacing what stands there.

        Raises:
            Refused: a file stands where a folder is needed, or a link.
            OSError: nothing of it is visible.
        """
        *folders, name = artifact_parts(self.artifact.path)
        try:
            target = open_folder(run_folder, (ARTIFACTS, *folders))
            try:
                files.fs.rename_into(self.temporary, target, name)
                self.stored_bytes = os.stat(name, dir_fd=target, follow_symlinks=False).st_size
            finally:
                os.close(target)
        except (NotADirectoryError, IsADirectoryError) as error:
            what = f"artifact {self.artifact.path!r:.200}: a file stands where a folder is needed, or a link"
            raise Refused(what) from error

    def close(self, *, keep: bool = False) -> None:
        """Let go of everything; *keep* a part for whoever goes on with it."""
        for fd in (self._source, self._target):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._source = self._target = -1
        # Also when both names are one file: then the rename does nothing.
        if self.temporary and not (keep and self.temporary.endswith(self._part)):
            with contextlib.suppress(OSError):
                files.fs.unlink(self.temporary)

    # -- the ways

    def _encode(self, about: dict[str, Any]) -> None:
        if self.size > MEDIA_BYTES_MAX:
            raise Refused(f"staged file {self.artifact.staged} of {self.size} bytes is more than media may have")
        with open(self._source, "rb", closefd=False) as file:
            content = media.encode(self.artifact.path, about, file.read(self.artifact.size))
        self._target = files.fs.create_shared(self.temporary)
        files.fs.write(self._target, content)
        self._hash = new_hash()
        self._hash.update(content)
        self.done_bytes = self.size
        self._complete()

    def _link(self, info: os.stat_result) -> bool:
        """A file that has other names keeps its mode under them: it may be linked, but not changed.

        One that was given away and has another name still lies where it was: its process died before it removed it,
        and the next one may write to it there.
        """
        alone, mode = info.st_nlink == 1, self._mode
        may_change = alone and is_of_this_host(self.staging)
        if self.artifact.how == MOVED and not alone and info.st_mode & 0o222:
            return False
        if not may_change and mode not in (0, stat.S_IMODE(info.st_mode)):
            return False
        try:
            files.fs.link_open(self._source, self.temporary)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return False
        if may_change and mode:
            files.fs.change_mode(self.temporary, mode)
        return True

    def _clone(self) -> bool:
        self._target = files.fs.create_to_fill(self.temporary)
        if copying.clone(self._source, self._target):
            self.done_bytes = self.size
            return True
        os.close(self._target)
        self._target = -1
        files.fs.unlink(self.temporary)
        return False

    def _begin_copy(self) -> None:
        """Go on with the part that a killed agent left, which is read again for its hash, or begin one."""
        self._hash = new_hash()
        part = f"{self.work}/{self._part}"
        self._target = files.fs.open_part(part)
        if not _is_ours(self._target, part):
            self.temporary = ""  # not ours to remove
            raise NotYet
        self.temporary = part
        there = os.fstat(self._target).st_size
        if there > self.size:
            files.fs.truncate(self._target, 0)
            there = 0
        while self.done_bytes < there and (block := os.pread(self._target, COPY_BYTES, self.done_bytes)):
            self._hash.update(block)
            self.done_bytes += len(block)

    def _complete(self) -> None:
        """All content is there: is it what was logged?"""
        if self.artifact.how == LINKED:
            self._check_unchanged()
            if self.artifact.fingerprint and fingerprint(self._target, self.size) != self.artifact.fingerprint:
                raise Refused(f"artifact {self.artifact.path!r:.200} {_CHANGED}")
        if self._mode:
            files.fs.change_mode(self.temporary, self._mode)
        if self._hash is not None:
            self.digest = self._hash.hexdigest()
        self.ready = True

    def _check_unchanged(self) -> None:
        info = os.fstat(self._source)
        if self.artifact.how == LINKED and (info.st_size, info.st_mtime_ns) != (
            self.artifact.size, self.artifact.mtime_ns,
        ):  # fmt: skip
            raise Refused(f"artifact {self.artifact.path!r:.200} {_CHANGED}")

    @property
    def _mode(self) -> int:
        return (self.artifact.mode & 0o777) | 0o600 if self.artifact.mode else 0


def _is_ours(fd: int, part: str) -> bool:
    """Lock a part while we write to it; False if another agent does: one that was stopped, and lost its lease."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks here: then the lease alone tells
    try:
        return os.fstat(fd).st_ino == os.lstat(part).st_ino
    except FileNotFoundError:
        return False  # published or removed before we had the lock


def is_being_written(part: str) -> bool:
    """Whether another agent, perhaps of another host, is at work on a part."""
    return bool(lock.is_held(part))


def part_name(boot_id: str, stream: str, offset: int) -> str:
    """Return the name of a long copy that is under way: of the event at *offset* of *stream*, written in this boot."""
    return f"{PART}{boot_id[:8]}-{stream[:16]}-{offset:x}"


_CHANGED = "was logged with link=True and changed before it could be stored: it is not kept"


def is_of_this_host(staging: str) -> bool:
    """Whether a staging folder is of a stream of this host: others are only read."""
    return os.path.basename(os.path.dirname(os.path.dirname(staging))) == layout.host_name()


def new_hash() -> Any:
    """Return a BLAKE3 hash to feed."""
    import blake3  # only where an artifact comes

    return blake3.blake3()


def read_staged_text(name: str, staging: str, size: int = -1) -> str:
    """Return a staged tag's value.

    Raises:
        Refused: missing, too large or no regular file.
    """
    fd = open_staged(name, staging)
    with open(fd, "rb") as file:
        data = file.read(STAGED_TAG_BYTES_MAX + 1)
    if len(data) > STAGED_TAG_BYTES_MAX:
        raise Refused(f"staged tag {name} is larger than {STAGED_TAG_BYTES_MAX} bytes")
    if size >= 0:
        check_size(name, len(data), size)
    return data.decode("utf-8", "replace")


def check_size(name: str, found: int, expected: int) -> None:
    """A power cut may leave an event and forget what it speaks of."""
    if found < expected:
        raise Refused(f"staged file {name} has {found} of its {expected} bytes")


def open_staged(name: str, staging: str) -> int:
    """Open a staged file to read.

    Raises:
        Refused: missing, or not a plain file of the stream's owner.
        NotYet: it is still being captured.
    """
    if not is_safe_name(name):
        raise Refused(f"staged file {name!r:.100} has a name that may not be opened")
    try:
        stream = os.open(os.path.dirname(staging), _FOLDER)
        try:
            folder = os.open(os.path.basename(staging), _FOLDER, dir_fd=stream)
            owner = os.fstat(stream).st_uid
        finally:
            os.close(stream)
    except OSError as error:
        raise _missing(name, staging, error) from error
    try:
        fd = _open_in(folder, name, staging)
    finally:
        os.close(folder)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != owner:
        os.close(fd)
        raise Refused(f"staged file {name} in {staging} is no plain file of user {owner}, whose stream it is")
    return fd


def _open_in(folder: int, name: str, staging: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError as error:
        _look_at_part(folder, f"{name}{PART_SUFFIX}")
        try:
            return os.open(name, flags, dir_fd=folder)  # finished between the two looks
        except OSError:
            raise _missing(name, staging, error) from error
    except OSError as error:
        raise _missing(name, staging, error) from error


def _look_at_part(folder: int, name: str) -> None:
    """Raise NotYet if a living process is still capturing to *name*, Refused if it died over that."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
    except BlockingIOError as error:
        raise NotYet from error
    except OSError:
        raise NotYet from None  # locks do not work here: nobody can tell
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        raise Refused(f"its process ended while {name} was being captured: {size} bytes were copied")


def _missing(name: str, staging: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return Refused(f"staged file {name} is missing from {staging} ({error.strerror})")
    return error


def open_folder(base: str, folders: tuple[str, ...]) -> int:
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
