"""A file system under both seams that fails when told to, stalls when told to, and counts what it is asked.

What it remembers, and what a power cut would leave of that, is in `powercut.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trainspool.spool import files as spool_files
from trainspool_agent import files as store_files
from trainspool_agent.files import StoreFiles

OPERATIONS = [name for name in dir(StoreFiles) if not name.startswith("_")]
SHORT = "short write"
ERRORS: tuple[int | str, ...] = (
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ESTALE, errno.EINTR, SHORT,
)  # fmt: skip


KILLED = "killed"


class Killed(KeyboardInterrupt):
    """The process is gone; a KeyboardInterrupt, since an event loop lets nothing else through."""


class FaultyFiles(StoreFiles):
    """Every operation is a step. Steps that `fails` picks fail with `error`; `heal` ends that.

    A short write puts half of the data there, then the device is full. A descriptor is closed even where close fails.
    """

    def __init__(self) -> None:
        self.steps = self.failed = 0
        self.error: int | str = errno.EIO
        self.fails: Callable[[int], bool] = lambda _: False
        self.log: list[str] = []
        self.stalled = threading.Event()
        self._go_on = threading.Event()
        self._go_on.set()

    def fail_at(self, step: int, error: int | str, *, until_healed: bool) -> None:
        self.error = error
        self.fails = (lambda at: at >= step) if until_healed else (lambda at: at == step)

    def heal(self) -> None:
        self.fails = lambda _: False

    def stall(self) -> None:
        """Let every operation from now on wait until `release`."""
        self._go_on.clear()

    def release(self) -> None:
        self._go_on.set()

    def meet(self, name: str) -> bool:
        """Count one operation; whether it is to fail."""
        self.steps += 1
        self.log.append(name)
        if not self._go_on.is_set():
            self.stalled.set()
            self._go_on.wait()
        if not self.fails(self.steps):
            return False
        self.failed += 1
        return True

    def refuse(self) -> None:
        if self.error == KILLED:
            raise Killed
        number = errno.ENOSPC if isinstance(self.error, str) else self.error
        raise OSError(number, os.strerror(number))

    def write(self, fd: int, data: bytes) -> None:
        if self.meet("write"):
            if self.error in (SHORT, KILLED):
                os.write(fd, data[: len(data) // 2])
            self.refuse()
        super().write(fd, data)

    def append(self, fd: int, data: bytes) -> int:  # type: ignore[override]
        if self.meet("append"):
            if self.error == SHORT and len(data) > 1:
                return os.write(fd, data[: len(data) // 2])
            if self.error == KILLED:
                os.write(fd, data[: len(data) // 2])
            self.refuse()
        return os.write(fd, data)

    def remove_tree(self, path: str) -> None:
        if not self.meet("remove_tree"):
            super().remove_tree(path)
        elif self.error == KILLED:
            raise Killed
        # Else it removes what can be removed: nothing.

    def close(self, fd: int) -> None:
        fails = self.meet("close")
        super().close(fd)
        if fails:
            self.refuse()


def _stepping(name: str) -> Callable[..., Any]:
    real = getattr(StoreFiles, name)

    def operation(self: FaultyFiles, *arguments: Any, **options: Any) -> Any:
        if self.meet(name):
            self.refuse()
        return real(self, *arguments, **options)

    return operation


for _name in OPERATIONS:
    if _name not in vars(FaultyFiles):
        setattr(FaultyFiles, _name, _stepping(_name))


@contextlib.contextmanager
def under(disk: StoreFiles) -> Iterator[None]:
    """Put *disk* under the spool and the stores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_files, "fs", disk)
        patch.setattr(store_files, "fs", disk)
        yield
