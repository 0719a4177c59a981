"""The ring's bytes in shared memory: its header, and the read-only view for everyone but its writer.

Source: sdk/docs/spool-format.md, "Ring".
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from trainspool.errors import SpoolError, UnknownFormatVersion, UnsafeSpool

MAGIC = b"TSRING1\0"
VERSION = 1
HEADER_BYTES = 65536  # a multiple of every page size, so that chunks can be mapped one by one
FIXED = struct.Struct("<8sII16sIII")
WORDS_AT = 64
HEAD, STORED = 0, 1  # words, from WORDS_AT
CHUNK_TABLE_AT = 128
CHUNKS_MAX = 64
IDENTITY_AT, IDENTITY_BYTES_MAX = 4096, 4096
DROPS_AT, DROP_SLOTS = 8192, 1024
DROP_SLOT = struct.Struct("<32sQQ")
CHUNK_BYTES_UNIT = 65536
CHUNK_BYTES_MAX = 1 << 20

_WORD = struct.Struct("<Q")
_PAIR = struct.Struct("<QQ")


class RingView:
    """A ring as others see it: read by pread, so a ring that shrinks under us is an error, not a SIGBUS.

    Not thread safe. Close it, or use it as a context manager.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd
        header = os.pread(fd, FIXED.size, 0)
        if len(header) < FIXED.size or not header.startswith(MAGIC):
            raise SpoolError("no ring header", path, 0, "everything already in segments", "trainspool verify")
        _, version, self.chunk_bytes, self.stream, self.chunks, length, crc = FIXED.unpack(header)
        if version != VERSION:
            raise UnknownFormatVersion(f"ring of version {version}", path, 8, "the ring", "update trainspool")
        raw = os.pread(fd, min(length, IDENTITY_BYTES_MAX), IDENTITY_AT)
        if zlib.crc32(raw) != crc or not 0 < self.chunks <= CHUNKS_MAX or not 0 < self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise SpoolError("damaged ring header", path, 0, "everything already in segments", "trainspool verify")
        if os.fstat(fd).st_size < HEADER_BYTES + self.chunks * self.chunk_bytes:
            raise SpoolError("a ring that is cut short", path, 0, "everything already in segments", "trainspool verify")
        self.identity = _identity(raw, path)

    def __enter__(self) -> RingView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.fd)

    @property
    def head(self) -> int:
        """The stream offset before which everything is in segments."""
        return self._word(WORDS_AT + 8 * HEAD)

    @property
    def stored(self) -> int:
        """The stream offset before which everything is in the store, as the agent says."""
        return self._word(WORDS_AT + 8 * STORED)

    @property
    def end(self) -> int:
        """The stream offset behind the last committed byte."""
        offset = self.head
        for _, (base, tail) in self._chunks_in_order():
            if base <= offset <= base + self.chunk_bytes:
                offset = max(offset, base + tail)
        return offset

    @property
    def drops(self) -> dict[str, tuple[int, int]]:
        """What was dropped, per run id: (points, events), totals since the stream's birth."""
        found: dict[str, tuple[int, int]] = {}
        for run, points, events in DROP_SLOT.iter_unpack(self._read(DROPS_AT, DROP_SLOT.size * DROP_SLOTS)):
            if run[0] or points or events:
                found[run.rstrip(b"\0").decode("ascii", "replace")] = (points, events)
        return found

    def committed(self, offset: int) -> Iterator[bytes]:
        """Yield the committed bytes from *offset* on, whole events, one chunk at a time."""
        for index, (base, tail) in self._chunks_in_order():
            if not base <= offset <= base + self.chunk_bytes:
                continue
            if offset < base + tail:
                at = HEADER_BYTES + index * self.chunk_bytes + offset - base
                yield os.pread(self.fd, base + tail - offset, at)
                offset = base + tail
            if tail < self.chunk_bytes:
                return

    def store_reached(self, offset: int) -> None:
        """Say that everything before *offset* is in the store; for the agent only.

        Raises:
            OSError: the ring was opened read-only.
        """
        os.pwrite(self.fd, _WORD.pack(offset), WORDS_AT + 8 * STORED)

    def _word(self, at: int) -> int:
        value: int = _WORD.unpack(self._read(at, 8))[0]
        return value

    def _read(self, at: int, length: int) -> bytes:
        data = os.pread(self.fd, length, at)
        if len(data) < length:
            raise OSError(errno.EIO, "the ring shrank under us", str(self.path))
        return data

    def chunk_table(self) -> list[tuple[int, int]]:
        """Return (base, tail) of every chunk, in the file's order."""
        return list(_PAIR.iter_unpack(self._read(CHUNK_TABLE_AT, 16 * self.chunks)))

    def _chunks_in_order(self) -> list[tuple[int, tuple[int, int]]]:
        # A tail beyond its chunk is damage: nobody is to ask for terabytes because of it.
        table = ((base, min(tail, self.chunk_bytes)) for base, tail in self.chunk_table())
        return sorted(enumerate(table), key=lambda item: item[1][0])


def _identity(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(raw, unicode_errors="surrogateescape")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        found = None
    if not isinstance(found, dict):
        raise SpoolError(
            "damaged ring identity", path, IDENTITY_AT, "everything already in segments", "trainspool verify"
        )
    return found


class RingIdentity(NamedTuple):
    """What a ring folder listing tells about one ring."""

    path: Path
    identity: dict[str, Any]


def read_ring(path: Path, *, writable: bool = False) -> RingView:
    """Open the ring at *path* for looking at it; *writable* for the agent, which says how far the store is.

    Raises:
        OSError: it cannot be opened; FileNotFoundError if it is gone.
        UnsafeSpool: it is no plain file of ours.
        SpoolError: it is not as the format says.
    """
    flags = os.O_RDWR if writable else os.O_RDONLY
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.getuid():
            raise UnsafeSpool("a ring that is not ours", path, 0, "everything", "look at who made it")
        return RingView(path, fd)
    except BaseException:
        os.close(fd)
        raise
