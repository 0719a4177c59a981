"""The few file operations on a spool; the seam that crash tests replace.

Everything that writes to a spool goes through the module's ``fs`` object, so a test can put in one that fails,
stalls or records.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

NEW = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_FICLONE = 0x40049409  # linux/fs.h: share the blocks, copy on write


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

    def create_to_fill(self, path: str) -> int:
        """As ``create``, but not for appending: the kernel neither clones nor copies into a file that appends."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def create_shared(self, path: str, *, anew: bool = False) -> int:
        """Create *path*, a store's file, new, to read and append, mode 0644; *anew*: empty what is there."""
        return os.open(path, NEW | (os.O_TRUNC if anew else os.O_EXCL), 0o644)

    def make_shared_folder(self, path: str) -> None:
        """Make *path* and its parents, as far as they are missing, by the umask."""
        os.makedirs(path, exist_ok=True)

    def make_one_folder(self, path: str) -> None:
        """Make *path*, by the umask, unless it is there; what it lies in must be: that may have been moved away."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)

    def open_to_fill(self, path: str) -> int:
        """Open what ``create_to_fill`` made once more: with a lock of its own."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        written = os.write(fd, data)
        if written < (len(data) if isinstance(data, bytes) else data.nbytes):
            rest = memoryview(data).cast("B")  # a short write: the device filled up, the next call says why
            while written < len(rest):
                written += os.write(fd, rest[written:])

    def clone(self, source: int, target: int) -> None:
        """Give *target* the content of *source*, blocks shared. Not every file system can: EOPNOTSUPP, EXDEV, …"""
        fcntl.ioctl(target, _FICLONE, source)

    def copy_range(self, source: int, target: int, count: int) -> int:
        """Copy up to *count* bytes, both files from where they stand, inside the kernel; 0 at the end of *source*."""
        return os.copy_file_range(source, target, count)

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

    def sync_file_system(self, path: str) -> None:
        """Bring everything on the file system of folder *path* to the device."""
        import ctypes  # importing trainspool has a budget

        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def link_open(self, source: int, target: str) -> None:
        """Give the file that is open as *source* another name, whatever stands at the one it was opened by."""
        folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(str(source), target, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def remove_tree(self, path: str) -> None:
        """Remove what can be removed of a file or folder; no link is followed."""
        if os.path.isdir(path) and not os.path.islink(path):
            import shutil  # importing trainspool has a budget

            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def close(self, fd: int) -> None:
        os.close(fd)


fs = Files()
