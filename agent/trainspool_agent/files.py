"""The file operations of the stores; with the spool's (``trainspool.spool.files``) all that changes a disk.

Everything that writes to a store goes through the module's ``fs`` object, so a test can put in one that fails, stalls
or records. What only reads does not, nor does state in shared memory, beside the rings.
"""

from __future__ import annotations

import os

from trainspool.spool import files


class StoreFiles(files.Files):
    """Plain POSIX calls; each may raise OSError. Others may read what a store holds, hence the modes."""

    append = staticmethod(os.write)
    """Write some of the data at the end of the file; return how much. The hot one, so it is the system call itself."""

    def open_to_append(self, path: str) -> int:
        """Open a file that is there, for reading and appending."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)

    def open_part(self, path: str) -> int:
        """Create *path*, or open what is there, to read and append, mode 0600."""
        return os.open(path, files.NEW, 0o600)

    def overwrite(self, path: str, old: bytes, new: bytes) -> bool:
        """Put *new* in the place of *old*, just as long, if the file holds that and nothing else; whether it did.

        Opened and closed each time: that is when a file server is told of it, and when it is asked.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.pread(fd, len(old) + 1, 0) == old and os.pwrite(fd, new, 0) == len(new)
        finally:
            os.close(fd)

    def make_folder_in(self, folder: int, name: str) -> None:
        os.mkdir(name, dir_fd=folder)

    def rename_into(self, source: str, folder: int, name: str) -> None:
        os.rename(source, name, dst_dir_fd=folder)

    def change_mode(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def change_owner(self, path: str, user: int, group: int) -> None:
        os.chown(path, user, group, follow_symlinks=False)

    def sync_path(self, path: str) -> None:
        """fsync a file or folder; one that is gone needs none."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


fs = StoreFiles()
