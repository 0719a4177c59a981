"""What tells that a linked file is still as it was at the call, in milliseconds at any size.

Source: sdk/docs/spool-format.md, "Events".
"""

from __future__ import annotations

import os

WHOLE_BYTES = 1 << 20
STRETCH_BYTES = 64 << 10
STRETCHES = 16


def fingerprint(fd: int, size: int) -> bytes:
    """Return the fingerprint of the file open as *fd*, of *size* bytes; shape (16,).

    A change between the stretches that keeps size and mtime is not seen: all of a large file cannot be read in the
    time a log call may take.

    Raises:
        OSError: the device.
    """
    import hashlib  # it loads OpenSSL, and importing trainspool has a budget

    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    for begin, length in _stretches(size):
        digest.update(os.pread(fd, length, begin))
    return digest.digest()


def _stretches(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE_BYTES:
        return [(0, size)]
    last = size - STRETCH_BYTES
    return [(number * last // (STRETCHES - 1), STRETCH_BYTES) for number in range(STRETCHES)]
