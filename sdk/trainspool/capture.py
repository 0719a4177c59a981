"""A user's file into the staging folder, as it is at the call: blocks shared, copied, given away, or linked.

Chosen per file, and said in its event (*how*). By default: shared blocks where the file system can, else a copy inside
the kernel, during which other threads run.

Source: sdk/docs/artifacts.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator

from trainspool import staging
from trainspool.errors import TrainspoolException
from trainspool.spool import copying, files
from trainspool.spool.fingerprint import fingerprint
from trainspool.spool.layout import PART_SUFFIX
from trainspool.staging import Staged

TRIES = 3  # at a source that changes while it is read
EVERYTHING = 1 << 62
_under_way: set[int] = set()  # descriptors of background copies, which a forked child must not keep
_NO_LINK = frozenset(
    (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.ENOENT)
)


def capture(source: str, folder: str) -> Staged:
    """Capture *source* whole; whatever becomes of it after this returns is nothing to the artifact.

    Raises:
        OSError: *source* cannot be read.
        TrainspoolException: it is no plain file.
        StagingFailed: *folder* cannot take it.
    """
    with _opened(source) as (fd, info):
        return _captured(fd, info, folder)


def _captured(fd: int, info: os.stat_result, folder: str) -> Staged:
    with staging.new_file(folder, info.st_size) as (target, path):
        how, size, changed = _fill(fd, target)
    return _staged(path, info, how, size, changed=changed)


def begin(source: str, folder: str) -> tuple[Staged, Copying | None]:
    """Capture *source* if that takes no time; else return what copies it, for another thread to call.

    The copy returns what was captured, and raises as ``capture`` does. Until then *source* must stay as it is.
    """
    with _opened(source) as (fd, info), staging.new_file(folder, info.st_size, PART_SUFFIX) as (target, part):
        path = part.removesuffix(PART_SUFFIX)
        small = info.st_size <= staging.LARGE_BYTES
        if small or copying.clone(fd, target):
            how, size, changed = _fill(fd, target) if small else ("cloned", info.st_size, False)
            files.fs.rename(part, path)
            return _staged(path, info, how, size, changed=changed), None
        staged = _staged(path, info, "copied", info.st_size)
        return staged, Copying(fd, info, part, staged)


class Copying:
    """A copy that is still to be made; to be called once, or abandoned. While it lives its part is locked: so the
    agent waits for it, and knows when its process has died over it.

    Attributes:
        unnamed: its content is on the device, its name perhaps not.
    """

    def __init__(self, source: int, before: os.stat_result, part: str, staged: Staged) -> None:
        self._before, self._part, self._staged = before, part, staged
        self.unnamed = True
        self._target = files.fs.open_to_fill(part)  # not the caller's descriptor, which a fork now would pass on
        _under_way.add(self._target)
        self._source = os.dup(source)
        _under_way.add(self._source)
        with contextlib.suppress(OSError):  # locks do not work there; then nobody can tell, and the agent waits
            fcntl.flock(self._target, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __call__(self) -> Staged:
        try:
            changed = self._copy()
        except OSError as error:
            self.abandon()
            raise staging.failed(error) from error
        self._close()
        return self._staged._replace(changed=changed)

    def abandon(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(OSError):
            files.fs.unlink(self._part)
        self._close()

    def _copy(self) -> bool:
        _, size, changed = _fill(self._source, self._target)
        if size != self._staged.size:
            had = f"it had {self._staged.size} bytes at the call and {size} when it was captured"
            raise OSError(errno.EIO, f"it was changed before it was captured: {had}")
        files.fs.sync(self._target)  # its event may be on the device already
        files.fs.rename(self._part, self._staged.path)
        with contextlib.suppress(OSError):  # it is captured all the same
            files.fs.sync_folder(os.path.dirname(self._part))
            self.unnamed = False
        return changed or not _is_as_before(self._source, self._before)

    def _close(self) -> None:
        for fd in (self._source, self._target):
            _under_way.discard(fd)
            with contextlib.suppress(OSError):  # of what is on the device already
                os.close(fd)


def close_after_fork() -> None:
    """In a forked child: let go of the parent's parts, whose locks say that the parent lives, and their sources."""
    while _under_way:
        with contextlib.suppress(OSError):
            os.close(_under_way.pop())


def give(source: str, folder: str) -> tuple[Staged, Callable[[], None]]:
    """Capture *source*, which its owner gives away, by a name in *folder*; a copy where that cannot be.

    Returns:
        What was captured, and what removes *source*: to be called once its event is there. Dying in between, both
        names are left, and nothing is lost.

    Raises:
        As ``capture``.
    """
    with _opened(source) as (fd, info):
        if _is_ours_alone(source, info) and (path := _link(fd, folder, source)) is not None:
            staged = _staged(path, info, "moved", info.st_size)
        else:
            staged = _captured(fd, info, folder)
    return staged, lambda: _remove(source, info)


def link(source: str, folder: str) -> Staged:
    """Capture *source* by a name in *folder* for the file itself, which its owner promises not to change.

    Where blocks can be shared they are: that is as cheap, and safe. A copy where no link can be made.

    Raises:
        As ``capture``.
    """
    with _opened(source) as (fd, info):
        if info.st_uid == os.geteuid():  # the agent takes no one else's files
            if (cloned := _cloned(fd, info, folder)) is not None:
                return cloned
            known = fingerprint(fd, info.st_size)
            if (path := _link(fd, folder, source)) is not None:
                linked = _staged(path, info, "linked", info.st_size)
                return linked._replace(mtime_ns=info.st_mtime_ns, fingerprint=known)
        return _captured(fd, info, folder)


def _cloned(fd: int, info: os.stat_result, folder: str) -> Staged | None:
    with staging.new_file(folder, info.st_size) as (target, path):
        if copying.clone(fd, target):
            return _staged(path, info, "cloned", info.st_size)
        files.fs.unlink(path)
    return None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, os.stat_result]]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block training
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise TrainspoolException(f"{path} is no plain file, so it cannot be an artifact")
        yield fd, info
    finally:
        os.close(fd)


def _staged(path: str, info: os.stat_result, how: str, size: int, *, changed: bool = False) -> Staged:
    return Staged(path, os.path.basename(path), size, stat.S_IMODE(info.st_mode), how, changed=changed)


def _fill(source: int, target: int) -> tuple[str, int, bool]:
    """Fill *target* with *source*: how, how many bytes, and whether *source* changed at every try."""
    size = 0
    for attempt in range(TRIES):
        before = os.fstat(source)
        if before.st_size > copying.SMALL_BYTES and copying.clone(source, target):
            return "cloned", before.st_size, False
        if attempt:  # at first both stand at their beginning; small files come by the thousand
            os.lseek(source, 0, os.SEEK_SET)
            os.lseek(target, 0, os.SEEK_SET)
        size = copying.copy(source, target, before.st_size or EVERYTHING)  # /proc's files say that they are empty
        if _is_as_before(source, before) or _only_grew(source, target, before, size):
            return "copied", size, False
        files.fs.truncate(target, 0)
    os.lseek(source, 0, os.SEEK_SET)
    os.lseek(target, 0, os.SEEK_SET)
    return "copied", copying.copy(source, target, size or EVERYTHING), True


def _is_as_before(source: int, before: os.stat_result) -> bool:
    after = os.fstat(source)
    return (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _only_grew(source: int, target: int, before: os.stat_result, size: int) -> bool:
    """Whether what was written meanwhile, to a log as a rule, stands behind what was there at the call."""
    if size != before.st_size or os.fstat(source).st_size <= size:
        return False
    return fingerprint(source, size) == fingerprint(target, size)


def _is_ours_alone(path: str, info: os.stat_result) -> bool:
    """Whether nobody has the file by another name: not through the link that *path* may be, either."""
    return info.st_uid == os.geteuid() and info.st_nlink == 1 and not os.path.islink(path)


def _link(fd: int, folder: str, source: str) -> str | None:
    """Give the file that is open as *fd* a name in *folder*; None if there can be none."""
    path = f"{folder}/{staging.new_name(source)}"
    try:
        staging.make_room(folder, 0)
        files.fs.link_open(fd, path)
    except OSError as error:
        if error.errno in _NO_LINK:
            return None
        raise staging.failed(error) from error
    return path


def _remove(path: str, info: os.stat_result) -> None:
    """Remove *path* if it still is what was captured. Raises OSError: it stays."""
    now = os.lstat(path)
    if stat.S_ISLNK(now.st_mode) or (now.st_dev, now.st_ino) == (info.st_dev, info.st_ino):
        files.fs.unlink(path)
