"""Is a stream's process alive; how it ended.

Two witnesses. The lock: held by the writer while it lives. The process table, where the identity's pid means something
to us: same boot, same pid namespace. A lock that can be had while that very process still runs is no death (someone
closed its descriptors); a process that is gone while its lock is held has left the lock to a child.

Source: design.md §2.2, "Liveness"; sdk/docs/spool-format.md, "Files".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import time
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainspool.spool import files, layout, lock

HEARTBEAT_SILENCE_S = 35.0
DOUBT_INTERVAL_S = 0.8  # how often a lock that is held is doubted: at every probe of the agent's
_NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))


class Life(Enum):
    ALIVE = "alive"
    DEAD = "dead"  # and the lock is ours, or cannot exist
    UNKNOWN = "unknown"  # silent, but nothing proves a death; nobody may write to its stream


class Process(Enum):
    RUNS = "runs"
    GONE = "gone"
    ELSEWHERE = "elsewhere"  # another pid namespace or boot: its pid says nothing here


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the kernel's boot id, empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@lru_cache(maxsize=1)
def pid_namespace() -> int:
    """Return the inode number of our pid namespace, 0 where it cannot be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_of(identity: dict[str, Any]) -> Process:
    """Look for the process of *identity* in our process table."""
    if identity.get("boot") != boot_id() or identity.get("pidns") != pid_namespace():
        return Process.ELSEWHERE
    pid, started = identity.get("pid"), identity.get("started")
    if type(pid) is not int or type(started) is not int or started <= 0:
        return Process.ELSEWHERE
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # a Path would cost five times as much
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return Process.GONE
    except OSError:
        return Process.ELSEWHERE
    state, *fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything (proc(5))
    return Process.GONE if state in (b"Z", b"X") or int(fields[18]) != started else Process.RUNS


class _Process:
    """The process of one identity. Once seen to run it is asked by a pidfd, at a tenth of the price of /proc."""

    def __init__(self) -> None:
        self._fd, self._poll = -1, select.poll()

    def is_gone(self, identity: dict[str, Any]) -> bool:
        if self._fd >= 0:
            return bool(self._poll.poll(0))
        process = process_of(identity)
        if process is Process.RUNS:
            self._open(identity)
        return process is Process.GONE

    def close(self) -> None:
        if self._fd >= 0:
            self._poll.unregister(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _open(self, identity: dict[str, Any]) -> None:
        try:
            self._fd = os.pidfd_open(identity["pid"])
        except (OSError, AttributeError):
            return  # an old kernel, or one that forbids it: /proc it is
        self._poll.register(self._fd, select.POLLIN)
        if process_of(identity) is not Process.RUNS:  # its number may have been another's by then
            self.close()


class Liveness:
    """Watches one stream's writer. Holds the stream's lock from the moment the writer is found dead.

    Args:
        folder: the stream's folder, which may not exist yet.
        identity: who writes it, None while nobody can say.
        left_in_order: whether the stream's last seal says that its process drained everything.
    """

    def __init__(
        self, folder: Path, identity: Callable[[], dict[str, Any] | None], left_in_order: Callable[[], bool]
    ) -> None:
        self.folder, self._path = folder, str(folder / layout.LOCK)
        self.life = Life.ALIVE
        self._identity, self._left_in_order = identity, left_in_order
        self._fd, self._process = -1, _Process()
        self._size, self._grew_at = -1, 0.0
        self._doubt_at = 0.0

    def probe(self) -> Life:
        """Look once; cheap, so call it often. DEAD is final, and then the lock is held."""
        if self.life is not Life.DEAD:
            self.life = self._look()
        return self.life

    def close(self) -> None:
        self._close_lock()
        self._process.close()

    def _close_lock(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _look(self) -> Life:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._locked()
        except FileNotFoundError:
            return self._without_lock_file()
        except OSError as error:
            return self._silent() if error.errno in _NO_LOCKS else Life.ALIVE
        return self._lock_was_free()

    def _lock_was_free(self) -> Life:
        if not self._is_same_file():
            self._close_lock()
            return Life.ALIVE  # renamed into place since we opened it; the next look is at the right one
        identity = self._identity()
        if identity is None or process_of(identity) is not Process.RUNS or self._left_in_order():
            return Life.DEAD
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return Life.ALIVE

    def _locked(self) -> Life:
        """Held: by the living writer, unless that is gone and a child inherited the descriptor."""
        now = time.monotonic()
        if now < self._doubt_at:
            return Life.ALIVE
        self._doubt_at = now + DOUBT_INTERVAL_S
        identity = self._identity()
        if identity is None or not self._process.is_gone(identity):
            return Life.ALIVE
        if not self._is_same_file():
            self._close_lock()
            return Life.ALIVE
        return self._take_over()

    def _without_lock_file(self) -> Life:
        """Killed before it made one, or the folder itself: only the process table can tell."""
        identity = self._identity()
        if identity is None:
            return Life.UNKNOWN
        # Of another boot it is gone, and a power cut took the lock file: a writer makes that before any segment.
        if process_of(identity) is not Process.GONE and not self._is_of_another_boot(identity):
            return Life.ALIVE
        with contextlib.suppress(OSError):
            files.fs.make_folder(str(self.folder / layout.STAGING))
        return self._take_over()

    def _is_of_another_boot(self, identity: dict[str, Any]) -> bool:
        boot = identity.get("boot")
        return bool(boot and boot_id()) and boot != boot_id() and bool(layout.segments(self.folder))

    def _take_over(self) -> Life:
        """Put a lock of ours in place of one that means nothing any more."""
        self._close_lock()
        try:
            self._fd = lock.hold(str(self.folder))
        except OSError:
            return Life.ALIVE  # a full disk: the next look tries again
        return Life.DEAD

    def _is_same_file(self) -> bool:
        try:
            ours, there = os.fstat(self._fd), os.lstat(self._path)
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def _silent(self) -> Life:
        """Locks don't work here: a heartbeat comes every 10 s, judged by our own monotonic clock."""
        identity = self._identity()
        process = process_of(identity) if identity else Process.ELSEWHERE
        if process is not Process.ELSEWHERE:
            return Life.DEAD if process is Process.GONE else Life.ALIVE
        names, now = layout.segments(self.folder), time.monotonic()
        size = os.stat(self.folder / str(names[-1])).st_size + names[-1].offset if names else 0
        if size != self._size:
            self._size, self._grew_at = size, now
        return Life.UNKNOWN if now - self._grew_at > HEARTBEAT_SILENCE_S else Life.ALIVE
