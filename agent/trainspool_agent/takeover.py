"""Other hosts' streams, carried by `sync` from here while no agent of their own host does.

They are read and never touched: no lock, no ring, no epitaph, no cursor. So what only their own host can know stays
open: a run whose process died there is RUNNING until that host's agent says otherwise. How far we came is in the store,
for us and for that agent: it goes on behind it, and a lease per run keeps the two apart (agent/docs/agent.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainspool.errors import TrainspoolError
from trainspool.spool import layout
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfolder import agent_folder
from trainspool_agent import cursor as cursors
from trainspool_agent import discover, service
from trainspool_agent.compact import Batch, EventFrame, RunRef
from trainspool_agent.daemon import DURABLE_INTERVAL_S, HURRY_INTERVAL_S, STOP_PATIENCE_S
from trainspool_agent.discover import Place
from trainspool_agent.follow import Stores, carry
from trainspool_agent.health import explain
from trainspool_agent.liveness import Life, boot_id
from trainspool_agent.pace import Pace
from trainspool_agent.settings import Settings
from trainspool_agent.store.errors import RunHeld
from trainspool_agent.store.lease import LEASE_S
from trainspool_agent.tail import Stream

NOTES = "taken"  # beside the agent's lock: how far we are with other hosts' streams, a shortcut like every cursor
NOTES_MAX = 4096
AT_ONCE_MAX = 256  # streams, a descriptor each
HELD_PATIENCE_S = LEASE_S + 15.0  # by then the lease of an agent that is gone has lapsed


class TakenStream(Stream):
    """A stream of another host: read from afar, written nowhere."""

    def __init__(self, place: Place, boot: str, notes: Path) -> None:
        self._notes = notes / place.name
        super().__init__(place, None, boot)
        self.liveness.life = Life.ALIVE  # for ever: nobody but its own host may find it dead
        self.begin_offset, self.end_offset = self.cursor.offset, discover.stream_end(place)
        self.left_to_agent = False
        """Its own host has an agent, which carries it."""
        self.unread_bytes = 0
        """What stands at its end and cannot be read, yet: on its way here, or torn."""
        self._held_at: float | None = None
        self._begun = False

    def begin(self, position: Callable[[RunRef], int]) -> None:
        super().begin(position)
        self._begun = True

    @property
    def cursor_folder(self) -> Path:
        return self._notes

    def _load_cursor(self) -> cursors.Cursor:
        theirs, ours = cursors.load(self.folder), cursors.load(self._notes)
        return theirs if theirs.finished or theirs.offset >= ours.offset else ours

    def _reader(self, offset: int) -> StreamReader:
        return StreamReader(self.folder, self.place.stream, offset, writer_alive=lambda: True, from_afar=True)

    def _ring_paths(self) -> Iterator[Path]:
        return iter(())

    def _tell_ring(self, offset: int) -> bool:
        return True  # who waits there asks the agent there

    def note_lag(self, frames: list[EventFrame]) -> int | None:
        return None  # of another host's clock

    def note_held(self, error: RunHeld) -> None:
        self._held_at = self._held_at or time.monotonic()
        if error.alive_on == self.place.host:
            self.left_to_agent = True

    def advance(self, batch: Batch) -> None:
        self._held_at = None
        super().advance(batch)

    @property
    def is_carried(self) -> bool:
        """Whether nothing is left to do now: carried as far as it went, left to its own agent, or held."""
        reached = min(self.reader.offset, self.cursor.offset)  # the reader may have been sent back, the cursor never is
        if self.left_to_agent or (self._begun and reached >= self.end_offset):
            return True
        if self._held_at is not None:
            return time.monotonic() - self._held_at > HELD_PATIENCE_S
        return self.facts.error is not None or (self.waiting and not self.wake.is_set())

    def leave(self) -> None:
        """Have its task end."""
        self.unread_bytes = self.reader.unread_bytes
        self.closing = True
        self.wake.set()


class Takeover:
    """Carries the streams of hosts without an agent, up to now. For one event loop.

    Args:
        settings: of the agent this process is for the while.
        spools: to look into.
        on_tick: called several times a second, in the loop.
    """

    def __init__(self, settings: Settings, spools: tuple[Path, ...], on_tick: Callable[[], None]) -> None:
        self.streams: dict[Place, TakenStream] = {}
        self.problems: list[tuple[str, str, str]] = []
        """What could not be carried, why, and what to do, beside what the streams say."""
        self._spools, self._on_tick = spools, on_tick
        self._host, self._boot = layout.host_name(), boot_id()
        self._notes = agent_folder() / NOTES
        self._stores = Stores(self._boot, settings.store, self._asks)
        self._pace = Pace()
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._settle_due = self._moved_at = 0.0
        self._far: list[Any] = []  # artifacts were when something last moved

    async def run(self) -> None:
        """Return when everything that is there now is carried, or cannot be."""
        waiting = deque(self._places())
        if not waiting:
            return
        service.allow_many_files()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            while (waiting or self._tasks or self._hands_over()) and not self._stop.is_set():
                while waiting and len(self._tasks) < AT_ONCE_MAX:
                    self._begin(waiting.popleft())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), HURRY_INTERVAL_S)
                await self._tick()
        finally:
            await self._leave()

    def _hands_over(self) -> bool:
        """Whether artifacts are still on their way; not those for which nothing has moved for long: they come later."""
        if not self._stores.is_handing_over:
            return False
        far = [(one.published, one.progress()) for one in self._stores.handovers().values()]
        if far != self._far:
            self._far, self._moved_at = far, time.monotonic()
        return time.monotonic() - self._moved_at < HELD_PATIENCE_S

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def _asks(self, host: str) -> bool:
        """Whether to ask that host's agent for a run: not for its own streams, which it does better than we."""
        ours = (stream for place, stream in self.streams.items() if place.host == host)
        return all(stream.left_to_agent for stream in ours)

    # -- which streams there are

    def _places(self) -> list[Place]:
        found: list[Place] = []
        for spool in dict.fromkeys(self._spools):
            try:
                discover.check_spool(spool)
                found += discover.streams_of_others(spool, self._host)
            except (OSError, TrainspoolError) as error:
                self._note(spool, error)
        return found

    def _begin(self, place: Place) -> None:
        try:
            discover.check_folder(place)
            stream = TakenStream(place, self._boot, self._notes)
            if stream.cursor.finished:
                shutil.rmtree(stream.cursor_folder, ignore_errors=True)
                return
            stream.cursor_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, TrainspoolError) as error:
            self._note(place.folder, error)
            return
        self.streams[place] = stream
        self._carry(place)

    def _carry(self, place: Place) -> None:
        stream = self.streams[place]
        self._tasks[place] = asyncio.create_task(carry(stream, self._stores, self._pace), name=place.name)

    def _note(self, where: Path, error: Exception) -> None:
        self.problems.append((str(where), *explain(error)))

    # -- loop

    async def _tick(self) -> None:
        for place, task in list(self._tasks.items()):
            stream = self.streams[place]
            if not stream.closing and stream.is_carried:
                stream.leave()
            if task.done():
                del self._tasks[place]
        now = time.monotonic()
        if now >= self._settle_due:
            self._settle_due = now + DURABLE_INTERVAL_S
            await self._settle(everything=False)
            self._rewind(self._stores.take_fallen())
        self._on_tick()

    async def _settle(self, *, everything: bool) -> None:
        """Write what is due; agents that wait for a run of ours get it so."""
        try:
            self._stores.checkpoint(force=everything)
            await self._stores.make_durable(everything=everything)
        except OSError as error:
            if everything:
                self._note(self._spools[0], error)

    def _rewind(self, runs: set[str]) -> None:
        """Carry again what another agent's checkpoint does not know of *runs*; the stores fold the rest."""
        for place, stream in self.streams.items() if runs else ():
            if any(run.run_id in runs for run in stream.cursor.runs) and not stream.left_to_agent:
                stream.rewind()
                if place not in self._tasks:
                    stream.closing = False
                    self._carry(place)

    # -- stop

    async def _leave(self) -> None:
        """Make everything durable: its own host's agent believes nothing else of what we did."""
        for stream in self.streams.values():
            if not stream.closing:
                stream.leave()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=STOP_PATIENCE_S)
            for task in late:
                task.cancel()
        await self._stores.stop_handing_over()
        await self._settle(everything=True)
        for stream in self.streams.values():
            with contextlib.suppress(OSError):  # a shortcut
                stream.settle(lambda run, name=stream.name: self._stores.is_settled(run, name))  # type: ignore[misc]
                stream.save_cursor(force=True)
            stream.close()
        try:
            self._stores.close()
        except OSError as error:
            self._note(self._spools[0], error)
        _limit_notes(self._notes)


def _limit_notes(folder: Path) -> None:
    """Forget the oldest of too many: those streams are read from their beginning, should they come again."""
    with contextlib.suppress(OSError):
        ages = sorted((path.stat().st_mtime_ns, path) for path in folder.iterdir())
        for _, path in ages[:-NOTES_MAX]:
            shutil.rmtree(path, ignore_errors=True)
