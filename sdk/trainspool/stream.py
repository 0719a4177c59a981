"""This process's stream: its ring, pump and dictionaries; what happens at its birth, at fork and at its end.

One per process, for however many runs. It is born with the first run or experiment, not at import. A forked child
lets go of what it inherited and has a stream of its own from its first log call on.

Source: design.md §2.1, §2.7.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from trainspool import autostart, capture, settings
from trainspool.captures import Captures
from trainspool.complaints import warn
from trainspool.identity import identity
from trainspool.pump import Pump
from trainspool.spool import events
from trainspool.spool.layout import stream_folder
from trainspool.spool.quota import Room
from trainspool.spool.ring import Ring
from trainspool.spool.ringfile import IDENTITY_BYTES_MAX
from trainspool.spool.ringfolder import ring_folder
from trainspool.version import __version__

if TYPE_CHECKING:
    from trainspool.run import Run
    from trainspool.runevents import RunEvents

KEYSETS_MAX = 1024
HOUSEKEEPING_INTERVAL_S = 1.0
WAIT_POLL_S = 0.005
TURN_WAIT_S = 0.2


class _Closed:
    """In a chunk's place: takes nothing (no stream yet), or swallows everything (TRAINSPOOL_DISABLED)."""

    position = 0

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write, self.tail = write, [0]


class _NoRing:
    """In a ring's place while there is none."""

    ring_bytes = head = end = stored = 0

    def __init__(self, write: Callable[[bytes], object], takes: bool) -> None:
        self.chunk, self.takes = _Closed(write), takes

    def append(self, _: bytes) -> bool:
        return self.takes

    def drop(self, run_id: str, points: int, events: int) -> None:
        pass


def _refuse(_: bytes) -> object:
    raise ValueError("no stream yet")


class _LastRing:
    """After the pump has stopped, at exit: what other exit handlers log goes through to a segment at once."""

    def __init__(self, ring: Ring, pump: Pump) -> None:
        self.ring, self.pump = ring, pump
        self.chunk = _Closed(_refuse)  # so that every log call comes here

    def append(self, data: bytes) -> bool:
        appended = self.ring.append(data)
        self.pump.drain_now()
        return appended

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ring, name)


class Stream:
    """Where this process's events go. Any thread; survives fork by starting anew."""

    def __init__(self) -> None:
        self.generation = 0
        self.settings: settings.Settings | None = None
        self._store: str | None = None
        self._store_is_said = False
        self.at_birth: Callable[[], None] = lambda: None
        self.owned: weakref.WeakSet[RunEvents] = weakref.WeakSet()
        self._reset()

    def _reset(self) -> None:
        self.ring: Any = _NoRing(_refuse, takes=False)
        self.id = b""
        self.folder = ""
        self.keys: dict[str, int] = {}
        self.keysets: dict[tuple[str, ...], int] = {}
        self.key_numbers, self.keyset_numbers, self.run_numbers = (
            itertools.count(),
            itertools.count(),
            itertools.count(),
        )
        self.runs: dict[str, Run] = {}
        self.owed: deque[Callable[[], bool]] = deque()
        self.with_drops: dict[str, RunEvents] = {}
        self.pump: Pump | None = None
        self.captures = Captures()
        self._identity: dict[str, Any] = {}
        self._birth_lock = threading.RLock()
        self._housekeeping_due = 0.0
        self._dropping_said = False
        self.agent = autostart.Agent()

    # -- settings -----------------------------------------------------------------------------------------------

    def configured(self) -> settings.Settings:
        """Return the settings, read at first use.

        Raises:
            ValueError: a setting has no meaning.
        """
        if self.settings is None:
            self.settings = settings.load()
        return self.settings

    @property
    def store(self) -> str:
        """Where runs land: absolute, resolved at first use, and told to child processes."""
        if self._store is None:
            unusable = settings.unusable_scheme()
            self._resolve_store(settings.said_store())
            if unusable is not None:
                warn(
                    "%s (%s) is a server or database, and trainspool writes to folders: runs go to %s. "
                    "Next: TRAINSPOOL_STORE=<folder>, or MLflow itself with %s=trainspool:",
                    settings.TRACKING_URI, unusable, self._store, settings.TRACKING_URI,
                )  # fmt: skip
        assert self._store is not None
        return self._store

    def store_for_mlflow(self) -> str:
        """Return where runs land, for MLflow itself: it reads its own variables, so they say nothing here."""
        if self._store is None:
            self._resolve_store(settings.said_store(by_mlflow=False))
        assert self._store is not None
        return self._store

    @property
    def store_is_said(self) -> bool:
        """Whether someone said where runs land."""
        return settings.said_store() is not None if self._store is None else self._store_is_said

    def use_store(self, store: str) -> None:
        self._store = os.path.abspath(store)
        self._store_is_said = True
        os.environ["TRAINSPOOL_STORE"] = self._store

    def _resolve_store(self, said: str | None) -> None:
        self.use_store(said or "mlruns")
        self._store_is_said = said is not None

    # -- birth --------------------------------------------------------------------------------------------------

    def ensure(self) -> int:
        """Have a stream, and return its generation, which a fork changes. Touches shared memory only, no disk."""
        while self.pump is None or not self.pump.started:
            if isinstance(self.ring, _NoRing) and self.ring.takes:
                break
            with self._birth_lock:
                if self.pump is None:
                    self._be_born()
                elif not self.pump.started:
                    self._start_pump()
        return self.generation

    def _be_born(self) -> None:
        """Make a stream aside, and be it at once: a signal handler in between may have been born, or forked."""
        configured, generation = self.configured(), self.generation
        if configured.disabled:
            self.ring = _NoRing(lambda _: None, takes=True)
            return
        name = os.urandom(16)
        about = identity(name.hex(), configured.spool, __version__)
        folder = str(stream_folder(configured.spool, about["host"], name.hex()))
        ring, packed = self._make_ring(name, about, configured)
        try:
            pump = Pump(folder, name, packed, ring, self._housekeep)
            pump.room = Room(folder, configured.quota_bytes, configured.quota_files)
        except BaseException:
            ring.unlink()
            raise
        if self.generation != generation:
            ring.abandon()  # the parent's, which goes on with it
        elif self.pump is not None:
            ring.unlink()
        else:  # nothing can come between these: no call is made
            self.id, self._identity, self.folder, self.ring, self.pump = name, about, folder, ring, pump

    def _start_pump(self) -> None:
        pump = self.pump
        if pump is not None and not pump.start():
            self.finish(0.0)  # the interpreter exits, and starts no thread any more
        self.at_birth()

    def _make_ring(self, name: bytes, about: dict[str, Any], configured: settings.Settings) -> tuple[Ring, bytes]:
        folder = ring_folder()
        try:
            if folder is not None:
                packed = _packed_identity(about, name, folder)
                return Ring(name, packed, folder, configured.ring_bytes), packed
        except OSError as error:
            reason = str(error)
        else:
            reason = "no shared memory of ours (/dev/shm missing, full, or not writable)"
        warn(
            "logging into private memory: %s. Nothing else changes, but kill -9 loses the last %d ms. "
            "Next: trainspool doctor, or set TRAINSPOOL_RING_DIR to a tmpfs folder of yours",
            reason,
            100,
        )
        packed = _packed_identity(about, name, None)
        return Ring(name, packed, None, configured.ring_bytes), packed

    # -- events -------------------------------------------------------------------------------------------------

    def append(self, run: RunEvents, data: bytes, *, points: int = 0, events: int = 1) -> bool:
        """Add *data*, whole events that belong to *run*; if the ring is full they are dropped and counted: False.

        False too if a signal handler forked meanwhile and this is the child: then the generation is another one, and
        nothing was done in this process.
        """
        ring, generation = self.ring, self.generation
        if ring.append(data):
            return True
        if self.generation == generation:
            ring.drop(run.run_id, points, events)
        if self.generation != generation:
            return False
        self.with_drops[run.run_id] = run
        if not self._dropping_said:
            self._dropping_said = True
            warn(
                "the ring (%d KiB) is full: events are dropped, and counted, until the spool takes them again. "
                "Next: trainspool status; a larger TRAINSPOOL_RING_BYTES",
                self.ring.ring_bytes >> 10,
            )
        return False

    def key(self, name: str) -> tuple[int, bytes]:
        """Return a metric key's id, and its definition if the stream has none yet."""
        number = self.keys.get(name)
        if number is not None:
            return number, b""
        number = next(self.key_numbers)
        return number, events.pack(events.DEFINE_KEY, number, name)

    # -- the pump's chores --------------------------------------------------------------------------------------

    def _housekeep(self) -> None:
        while self.owed and self.owed[0]():
            self.owed.popleft()
        for run_id, run in list(self.with_drops.items()):
            if run.log_gap():
                self.with_drops.pop(run_id, None)
                self._dropping_said = False
        now = time.monotonic()
        if now < self._housekeeping_due:
            return
        self._housekeeping_due = now + HOUSEKEEPING_INTERVAL_S
        if isinstance(self.ring, Ring) and self.ring.is_unlinked():
            self._replace_ring()
        configured = self.configured()
        # A full spool is what an agent can do something about; another error it would meet as we do.
        if self.pump is not None and (self.pump.error is None or self.pump.room.refusal() is not None):
            self.agent.look_after(configured, private_ring=self._identity["ring"] is None)

    def _replace_ring(self) -> None:
        folder = ring_folder()
        if folder is None or self.pump is None:
            return
        self.ring = self.ring.replace(self.id, _packed_identity(self._identity, self.id, folder), folder)
        self.pump.rings.append(self.ring)
        warn("the ring was removed under us (does logind remove IPC at logout?); a new one is %s", self.ring.path)

    # -- flush, wait, end ---------------------------------------------------------------------------------------

    def flush(self, durable: bool, timeout: float | None) -> bool:
        """Wait until the spool has what was logged before the call; *durable*: on the device. Whether it is so."""
        pump, end = self.pump, self.ring.end
        if pump is None:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.captures.wait(timeout):
            return False
        while True:
            if pump.drained_to(end) and (not durable or pump.is_durable(end)):
                return True
            left = TURN_WAIT_S if deadline is None else min(TURN_WAIT_S, deadline - time.monotonic())
            if left <= 0 or not pump.thread.is_alive():
                return False
            pump.sync_now() if durable else pump.wake()
            with pump.turned:
                pump.turned.wait(left)

    def wait(self, timeout: float | None) -> bool:
        """Wait until the store has what was logged before the call. Whether it is so."""
        end = self.ring.end
        begun = time.monotonic()
        if self.pump is None:
            return True
        if not self.flush(False, timeout):
            return False
        while self._stored() < end:
            waited = time.monotonic() - begun
            if timeout is not None and waited >= timeout:
                return False
            if timeout is None and waited > autostart.START_S and not self.agent.is_coming(self.configured()):
                warn("wait(): no agent runs here and none is started; the spool keeps it. Next: trainspool sync")
                return False
            time.sleep(WAIT_POLL_S)
        return True

    def _stored(self) -> int:
        if self._identity["ring"] is not None:
            return int(self.ring.stored)
        return autostart.stored_offset(self.folder)

    def finish(self, timeout: float) -> bool:
        """At exit: bring the ring to the spool within *timeout* seconds; whether all of it is there."""
        if self.pump is None:
            return True
        ring, pump = self.ring, self.pump
        in_time = pump.finish(timeout)
        if not in_time or not isinstance(ring, Ring):
            return in_time
        # Others may still log: threads, and handlers of signals. From here on each of their events goes to a segment
        # before its call returns; what they logged until here is fetched now, and only then the ring may go.
        self.ring = _LastRing(ring, pump)
        ring.take_back()
        if not pump.drain_now():
            return False
        ring.unlink()
        return True

    # -- fork ---------------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Let go of the parent's ring, lock and segment, untouched; the next log call begins a new stream."""
        self.generation += 1
        capture.close_after_fork()
        if self.pump is not None:
            for ring in self.pump.rings:
                ring.abandon()
            self.pump.close_after_fork()
        if isinstance(self.ring, Ring):
            self.ring.abandon()
        for run in {*self.runs.values(), *self.owned}:
            run.after_fork_in_child()
        self._reset()


def _packed_identity(about: dict[str, Any], name: bytes, folder: Path | None) -> bytes:
    """Return the identity as msgpack, the program's name cut to what the ring's header has room for.

    Raises:
        OSError: the spool's path alone is too long for a ring to name it.
    """
    about["ring"] = str(folder / f"{name.hex()}.ring") if folder else None
    packed: bytes = msgpack.packb(about, unicode_errors="surrogateescape")
    surplus = len(packed) - IDENTITY_BYTES_MAX if folder else 0
    if surplus <= 0:
        return packed
    if not about["program"]:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), about["spool"])
    about["program"] = about["program"][: max(0, len(about["program"]) - surplus)]
    return _packed_identity(about, name, folder)


stream = Stream()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=stream.after_fork_in_child)
