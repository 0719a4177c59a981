"""A file's content into another file by the cheapest way there is: shared blocks, a copy in the kernel, a copy.

The SDK captures with it, the agent hands over with it.
"""

from __future__ import annotations

import errno
import os

from trainspool.spool import files

KERNEL_BYTES = 32 << 20  # at once: the interpreter is free meanwhile, and a signal is seen between two
COPY_BYTES = 1 << 20
SMALL_BYTES = 128 << 10  # one read and one write take less than asking the file system for more
_UNABLE = frozenset(
    (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM, errno.EBADF, errno.ETXTBSY)
)


def clone(source: int, target: int) -> bool:
    """Have *target*, which is empty, share the blocks of *source*; False if their file systems cannot.

    Raises:
        OSError: the device.
    """
    try:
        files.fs.clone(source, target)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return False
    return True


def copy(source: int, target: int, count: int) -> int:
    """Copy up to *count* bytes from where *source* stands to the end of *target*; return how many there were.

    Gives up the interpreter's lock for the whole of each step of ``KERNEL_BYTES``.

    Raises:
        OSError: the device; *target* holds a part.
    """
    if count <= SMALL_BYTES:
        return _copy_by_hand(source, target, count)
    copied = 0
    while copied < count:
        try:
            step = files.fs.copy_range(source, target, min(KERNEL_BYTES, count - copied))
        except OSError as error:
            if error.errno not in _UNABLE or copied:
                raise
            return _copy_by_hand(source, target, count)
        if not step:  # the end, or a file system that says so of what it makes up (/proc)
            break
        copied += step
    return copied + (_copy_by_hand(source, target, count - copied) if copied < count else 0)


def _copy_by_hand(source: int, target: int, count: int) -> int:
    copied = 0
    while copied < count and (block := os.read(source, min(COPY_BYTES, count - copied))):
        files.fs.write(target, block)
        copied += len(block)
    return copied
