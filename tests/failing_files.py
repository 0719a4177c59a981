"""A file system that fails when told to, and that remembers what a power cut would leave."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from trainspool.spool.files import Files


class FailingFiles(Files):
    """Fails every call whose number `fails` picks: with `error`, for a write after half of it if `short`.

    A file whose sync failed once keeps what was not on the device from ever getting there, as Linux does: the pages
    are marked clean, and later syncs succeed without them.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Callable[[int, str], bool] = lambda number, name: False
        self.error, self.short = errno.EIO, False
        self.log: list[str] = []
        self._paths: dict[int, str] = {}
        self._durable: dict[str, int] = {}
        self._poisoned: set[str] = set()
        self._named: set[str] = set()

    def _step(self, name: str) -> bool:
        self.calls += 1
        self.log.append(name)
        return self.fails(self.calls, name)

    def _raise(self) -> None:
        raise OSError(self.error, os.strerror(self.error))

    def make_folder(self, path: str) -> None:
        if self._step("make_folder"):
            self._raise()
        super().make_folder(path)

    def create(self, path: str) -> int:
        if self._step("create"):
            self._raise()
        fd = super().create(path)
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes) -> None:
        if self._step("write"):
            if self.short:
                os.write(fd, data[: len(data) // 2])
            self._raise()
        super().write(fd, data)

    def truncate(self, fd: int, length: int) -> None:
        if self._step("truncate"):
            self._raise()
        super().truncate(fd, length)

    def sync(self, fd: int) -> None:
        path = self._paths.get(fd, "")
        if self._step("sync"):
            self._poisoned.add(path)
            self._raise()
        if path not in self._poisoned:
            self._durable[path] = os.fstat(fd).st_size

    def sync_folder(self, path: str) -> None:
        if self._step("sync_folder"):
            self._raise()
        self._named.update(os.path.join(path, name) for name in os.listdir(path))

    def rename(self, source: str, target: str) -> None:
        if self._step("rename"):
            self._raise()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        if self._step("unlink"):
            self._raise()
        super().unlink(path)

    def after_power_cut(self, folder: Path, into: Path) -> Path:
        """Copy what of *folder*'s files a power cut leaves: synced content of files whose name is synced."""
        into.mkdir(parents=True)
        for path in sorted(folder.iterdir()):
            if str(path) in self._named and path.is_file():
                (into / path.name).write_bytes(path.read_bytes()[: self._durable.get(str(path), 0)])
        return into
