"""One segment file as a reader holds it: its descriptor, how far it is read, and a window of its bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from trainspool.errors import UnsafeSpool
from trainspool.spool import frame
from trainspool.spool.frame import HEADER_BYTES, Header
from trainspool.spool.layout import SegmentName
from trainspool.spool.segment import ENDED_IN_ORDER

READ_BYTES = 256 * 1024
RESYNC_BYTES = 1 << 20
FALSE_HEADERS_MAX = 4096  # in one segment: what looks like a header so often was made to keep us busy


def open_owned(path: Path | str, owner: int) -> int:
    """Open a file of *owner* for reading; a link, device, pipe or someone else's file is refused.

    Raises:
        UnsafeSpool: it is not a plain file of *owner*.
        OSError: it cannot be opened, FileNotFoundError among them.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if os.path.islink(path):
            raise _unsafe(path, "a symbolic link stands") from error
        raise
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_uid == owner:
        return fd
    os.close(fd)
    raise _unsafe(path, f"a file of user {info.st_uid}, type {stat.S_IFMT(info.st_mode):o}, stands")


def _unsafe(path: Path | str, what: str) -> UnsafeSpool:
    kept = "everything; the file was not read"
    return UnsafeSpool(f"{what} where a plain file of the stream's owner should be", path, 0, kept, f"ls -l {path}")


class SegmentView:
    """One open segment, how far it is read, and a window of its bytes."""

    def __init__(self, folder: Path, name: SegmentName, owner: int) -> None:
        self.name, self.path = name, folder / str(name)
        self.fd = open_owned(self.path, owner)
        self.at = 0
        self.sealed = False
        self._window, self._window_at, self._window_ends = b"", 0, False
        self._false_headers = 0

    @property
    def is_spent(self) -> bool:
        """Whether the window reached the end of the file, and all of it is read."""
        return self._window_ends and self.at == self._window_at + len(self._window)

    def forget(self) -> None:
        """Drop the window: what was the end of the file may have grown."""
        self._window, self._window_ends = b"", False

    def look(self, at: int, length: int, read_bytes: int = READ_BYTES) -> memoryview:
        """Return up to *length* bytes at *at*, fewer at the end of the file."""
        begin = at - self._window_at
        if begin < 0 or begin + length > len(self._window):
            wanted = max(length, read_bytes)
            self._window, self._window_at, begin = os.pread(self.fd, wanted, at), at, 0
            self._window_ends = len(self._window) < wanted
        return memoryview(self._window)[begin : begin + length]

    def header(self, read_bytes: int = READ_BYTES) -> Header | None:
        data = self.look(self.at, HEADER_BYTES, read_bytes)
        return frame.parse_header(data) if data else None

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def resynchronise(self, stream: bytes) -> Header | None:
        """Move behind the bad bytes onto the next valid header of *stream*; without one, to the end of the file."""
        mark, at = re.compile(re.escape(frame.MAGIC) + b"(?s:....)" + re.escape(stream)), self._behind_hole(self.at + 1)
        while len(data := os.pread(self.fd, RESYNC_BYTES + HEADER_BYTES, at)) >= HEADER_BYTES:
            found = mark.search(data)
            while found and found.start() <= len(data) - HEADER_BYTES:
                header = frame.parse_header(memoryview(data)[found.start() : found.start() + HEADER_BYTES])
                if header is not None:
                    self.at = at + found.start()
                    return header
                self._false_headers += 1
                if self._false_headers > FALSE_HEADERS_MAX:
                    self.at = self.size()
                    return None
                found = mark.search(data, found.start() + 1)
            at = self._behind_hole(at + len(data) - HEADER_BYTES + 1)
        self.at = self.size()
        return None

    def has_seal(self, stream: bytes) -> bool:
        """Whether a seal is the last thing in the file."""
        return self.seal(stream) is not None

    def seal(self, stream: bytes) -> Header | None:
        """Return the header of the seal that is the last thing in the file, if one is."""
        size = self.size()
        for length in (HEADER_BYTES, HEADER_BYTES + len(ENDED_IN_ORDER)):
            data = os.pread(self.fd, length, max(0, size - length))
            with contextlib.suppress(frame.UnknownVersion):
                header = frame.parse_header(data) if len(data) == length else None
                body = data[HEADER_BYTES:]
                if header is not None and (header.kind, header.stream) == (frame.SEAL, stream):
                    is_sound = header.body_length == len(body) and frame.body_is_sound(header, body)
                    return header if is_sound else None
        return None

    def _behind_hole(self, at: int) -> int:
        """Return where data begins, at *at* or behind: a hole of terabytes costs whoever made it nothing."""
        try:
            return os.lseek(self.fd, at, os.SEEK_DATA)
        except OSError as error:
            return self.size() if error.errno == errno.ENXIO else at

    def close(self) -> None:
        os.close(self.fd)
