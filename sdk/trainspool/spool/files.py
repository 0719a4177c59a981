"""The few file operations on a spool; the seam that crash tests replace.

Everything that writes to a spool goes through the module's ``fs`` object, so a test can put in one that fails,
stalls or records.
"""

from __future__ import annotations

import contextlib
import os


class Files:
    """Plain POSIX calls. Each may raise OSError; ``write`` writes all or raises."""

    def make_folder(self, path: str) -> None:
        """Make *path* and its parents, each mode 0700."""
        if not os.path.isdir(path):
            parent = os.path.dirname(path)
            if parent:
                self.make_folder(parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)

    def create(self, path: str) -> int:
        """Create *path* exclusively for appending, mode 0600; return the descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, fd: int, data: bytes) -> None:
        written = os.write(fd, data)
        while written < len(data):  # a short write: the device filled up, the next call says why
            written += os.write(fd, memoryview(data)[written:])

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def close(self, fd: int) -> None:
        os.close(fd)


fs = Files()
