"""One or two machines in one process: clocks, processes that live and die, file operations that a kill comes between.

The code under test runs as it is. Replaced are the clock, the process table, randomness, threads (what is handed to one
is done at once) and, for a kill, the calls of `os` that change files.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from trainspool import identity as identities
from trainspool import staging
from trainspool.syncer import Syncer
from trainspool_agent.liveness import Process

START_NS = 1_700_000_000_000_000_000
_CHANGING = (
    "write", "pwrite", "rename", "replace", "unlink", "link", "mkdir", "rmdir",
    "fsync", "fdatasync", "ftruncate", "chmod",
)  # fmt: skip
_real_flock = fcntl.flock
_real_open, _real_urandom, _real_time_ns, _real_monotonic = os.open, os.urandom, time.time_ns, time.monotonic


class Killed(BaseException):
    """SIGKILL: nothing of the process runs any more."""


class Host:
    """One machine of the user: its rings, its boot."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.rings = name, folder / f"rings-{name}"
        self.boots = 0
        self.rings.mkdir(mode=0o700)

    @property
    def boot(self) -> str:
        return f"{self.name}-boot-{self.boots}"


class World:
    """What all processes share: spool, store, time."""

    def __init__(self, folder: Path, seed: int, hosts: int = 1) -> None:
        self.folder, self.spool, self.store = folder, folder / "spool", folder / "mlruns"
        self.hosts = [Host(f"host{number}", folder) for number in range(hosts)]
        self.here = self.hosts[0]
        self.random = random.Random(seed)
        self.mono, self.wall_ns = 1000.0, START_NS
        self.running: dict[int, Host] = {}
        self._locks: dict[int, tuple[int, int]] = {}  # descriptor → the process that locked it, the file
        self.pid = 0
        self._pids = 100
        self._kill_in: int | None = None
        self.killed = False

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_ns += int(seconds * 1e9)

    def new_pid(self, host: Host) -> int:
        self._pids += 1
        self.running[self._pids] = host
        return self._pids

    @contextlib.contextmanager
    def within(self, host: Host, pid: int) -> Iterator[None]:
        """Be the process *pid* on *host* for a while."""
        before = self.here, self.pid
        self.here, self.pid = host, pid
        try:
            yield
        finally:
            self.here, self.pid = before

    # -- locks

    def lock(self, fd: int, operation: int) -> None:
        _real_flock(fd, operation)
        self._locks[fd] = self.pid, os.fstat(fd).st_ino

    def gone(self, pid: int) -> None:
        """The process *pid* does not run any more: the kernel gives its locks back (descriptors leak here)."""
        self.running.pop(pid, None)
        for fd, (owner, inode) in list(self._locks.items()):
            if owner == pid:
                del self._locks[fd]
                with contextlib.suppress(OSError):  # it was closed
                    if os.fstat(fd).st_ino == inode:
                        _real_flock(fd, fcntl.LOCK_UN)

    # -- kills

    def kill_in(self, calls: int | None) -> None:
        """Die before the call number *calls*, counted from here, that changes a file; None: live on."""
        self._kill_in, self.killed = calls, False

    def count_call(self) -> None:
        if self._kill_in is not None:
            self._kill_in -= 1
            if self._kill_in < 0:
                self.killed = True
                raise Killed

    # -- what the code under test is told

    def process_of(self, identity: dict[str, Any]) -> Process:
        if identity.get("boot") != self.here.boot:
            return Process.ELSEWHERE
        return Process.RUNS if self.running.get(identity.get("pid", 0)) is self.here else Process.GONE

    def holder(self) -> dict[str, Any]:
        return {"host": self.here.name, "boot": self.here.boot, "pid": self.pid}

    def identity(self, stream: str, spool: Path, version: str) -> dict[str, Any]:
        made = _real_identity(stream, spool, version)
        return {**made, "host": self.here.name, "boot": self.here.boot, "pid": self.pid, "started": 1, "pidns": 1}


_real_identity = identities.identity
_world: list[World] = []


def world() -> World:
    return _world[-1]


class _SyncedAtOnce(Syncer):
    """No thread: whoever asks waits."""

    def __init__(self) -> None:
        with mock.patch("threading.Thread", side_effect=RuntimeError):
            super().__init__()


async def _to_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """At once, so that nobody stands still in the midst of one call: what that costs, agent/docs/agent.md says."""
    result = function(*arguments, **named)
    await asyncio.sleep(0)
    return result


def _counting(name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if _world:
            _world[-1].count_call()
        return real(*arguments, **named)

    return call


def _open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
    if flags & os.O_CREAT and _world:
        _world[-1].count_call()
    return _real_open(path, flags, *arguments, **named)


class _TrueClock:
    """For whoever compares with the times of files."""

    time_ns = staticmethod(_real_time_ns)


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Put the simulated machine in place of this one; schedules then run one after the other, each with ``entered``."""
    replaced: dict[str, Any] = {
        "time.monotonic": lambda: _world[-1].mono if _world else _real_monotonic(),
        "time.monotonic_ns": lambda: int(world().mono * 1e9),
        "time.time": lambda: _world[-1].wall_ns / 1e9 if _world else _real_time_ns() / 1e9,
        "time.time_ns": lambda: _world[-1].wall_ns if _world else _real_time_ns(),
        "trainspool.spool.listing.time": _TrueClock,
        "os.urandom": lambda count: _world[-1].random.randbytes(count) if _world else _real_urandom(count),
        "os.open": _open,
        "fcntl.flock": lambda fd, operation: (_world[-1].lock if _world else _real_flock)(fd, operation),
        **{f"os.{name}": _counting(name) for name in _CHANGING},
        "asyncio.to_thread": _to_thread,
        "trainspool_agent.store.threads.in_idle_thread": _to_thread,
        "trainspool.pump.Syncer": _SyncedAtOnce,
        "trainspool.stream.identity": lambda *about: world().identity(*about),
        "trainspool.spool.layout.host_name": lambda: world().here.name,
        "trainspool_agent.liveness.process_of": lambda identity: world().process_of(identity),
        "trainspool_agent.store.lease.process_of": lambda identity: world().process_of(identity),
        "trainspool_agent.store.lease.this_process": lambda: world().holder(),
    }
    for module in ("run", "runevents", "artifacts"):
        replaced[f"trainspool.{module}._time_ns"] = lambda: world().wall_ns
    for module in ("stream", "runtexts", "artifacts", "pump"):
        replaced[f"trainspool.{module}.warn"] = lambda *_, **__: None
    for module in ("trainspool.stream", "trainspool_agent.daemon", "trainspool_agent.discover"):
        replaced[f"{module}.ring_folder"] = lambda: world().here.rings
    for module in ("daemon", "agentlock", "replay.guard", "look.spool", "takeover"):
        replaced[f"trainspool_agent.{module}.agent_folder"] = lambda: world().here.rings
    replaced["trainspool.autostart.agent_folder"] = lambda: world().here.rings
    for module in ("daemon", "drain", "replay", "takeover"):
        replaced[f"trainspool_agent.{module}.boot_id"] = lambda: world().here.boot
    with contextlib.ExitStack() as stack:
        for target, value in replaced.items():
            stack.enter_context(mock.patch(target, value))
        try:
            yield
        finally:
            # Tasks of killed processes, now: Python 3.11 fails in whatever it compiles when they go just then
            # ("AST constructor recursion depth mismatch").
            gc.collect()


@contextlib.contextmanager
def entered(one: World) -> Iterator[World]:
    _world.append(one)
    staging._looked_at.clear()  # of an earlier world, which may have had a stream of the same name
    try:
        yield one
    finally:
        _world.pop()
