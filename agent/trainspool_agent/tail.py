"""Wake-ups become new events, in order, from an offset."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from trainspool.errors import SpoolError
from trainspool.spool import events, layout
from trainspool.spool.frame import COUNT_END
from trainspool.spool.items import Damage, Frame, Item, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfile import (
    CHUNK_TABLE_AT,
    DROP_SLOT,
    DROP_SLOTS,
    DROPS_AT,
    WORDS_AT,
    RingView,
    read_ring,
)
from trainspool_agent import cursor as cursors
from trainspool_agent import discover
from trainspool_agent.compact import Batch, Dictionary, EventFrame, RunRef, count_kind
from trainspool_agent.discover import Place
from trainspool_agent.drain import Drained, drain
from trainspool_agent.health import StreamFacts
from trainspool_agent.liveness import Life, Liveness
from trainspool_agent.pace import Pace
from trainspool_agent.store.changes import leaves_unknown_tail
from trainspool_agent.store.errors import RunHeld, RunMoved

TURN_BYTES = 128 << 10  # what one turn carries: under 20 ms of compaction and store
PROGRAM_CHARACTERS_MAX = 200
DAMAGES_TOLD_MAX = 100
CURSOR_INTERVAL_S = 30.0  # a shortcut for restarts; who waits for the store is told by the ring

log = logging.getLogger("trainspool.agent")


class Stream:
    """One stream being carried: its place, how far, who writes it. Belongs to the agent's loop."""

    def __init__(self, place: Place, ring_folder: Path | None, boot: str) -> None:
        self.place, self.folder, self.name = place, place.folder, place.name
        self.boot = boot
        self.cursor = self._load_cursor()
        self.facts = StreamFacts(place.name, str(place.spool), place.host)
        self.facts.damaged_events, self.facts.damaged_points = self.cursor.damaged_events, self.cursor.damaged_points
        self.dictionary = Dictionary()
        self.identity: dict[str, Any] | None = None
        self.wake = asyncio.Event()
        self.closing = self.waiting = self.drained = self.ended = self._rewinding = False
        self.damages: list[Damage] = []
        self._position: Callable[[RunRef], int] = lambda run: 0
        self._applied_to = -1
        self._counted_to = self.cursor.offset  # damage before it is counted already
        self._ring_folder = ring_folder
        self._ring: RingView | None = None
        self._ring_seen: tuple[bytes, ...] = ()
        self.probe_due = 0.0
        self._saved_at, self._unsaved = 0.0, False
        self._seen: tuple[int, int, int] | None = None
        self.liveness = Liveness(self.folder, self.find_identity, lambda: self.reader.in_order)
        self.reader = self._reader(self.cursor.offset)

    @property
    def cursor_folder(self) -> Path:
        return self.folder

    def _load_cursor(self) -> cursors.Cursor:
        return cursors.load(self.folder)

    def _reader(self, offset: int) -> StreamReader:
        return StreamReader(self.folder, self.place.stream, offset, writer_alive=lambda: not self.drained)

    def begin(self, position: Callable[[RunRef], int]) -> None:
        """Start, or start again, where the run that is furthest behind needs it."""
        self._position, self._rewinding = position, False
        behind = (max(first, position(run)) for run, first in self.cursor.runs.items())
        self.reader.close()
        self.reader = self._reader(min([self.cursor.offset, *behind]))
        self._applied_to = self.reader.offset
        self.dictionary = Dictionary()
        self.damages.clear()

    def rewind(self) -> None:
        """Have it read again from where its runs' stores have it; one that had ended is to be carried anew."""
        self._rewinding, self.ended = True, False
        self.wake.set()

    def note_held(self, error: RunHeld) -> None:
        """Another agent carries a run of this stream, for now."""

    def check_rewind(self) -> None:
        """Raise RunMoved if it is to be read again."""
        if self._rewinding:
            raise RunMoved(self.name)

    @property
    def dead(self) -> bool:
        return self.liveness.life is Life.DEAD

    @property
    def is_carried(self) -> bool:
        """Whether nothing is left to do now: ended, at the end of what a living writer wrote, or held by an error."""
        return self.ended or self.facts.error is not None or (self.waiting and not self.dead and not self.wake.is_set())

    # -- who writes it

    def find_identity(self) -> dict[str, Any] | None:
        """Return the identity, from a segment or the ring; None while neither has one."""
        if self.identity is None:
            with contextlib.suppress(OSError):
                self.identity = discover.read_identity(self.folder)
        if self.identity is None and (ring := self._open_ring()) is not None:
            self.identity = ring.identity
        if self.identity is not None and self.facts.pid is None:
            pid, rank = self.identity.get("pid"), self.identity.get("rank")
            # The writer said so, and may say anything: what is written down for others is of the kind they expect.
            self.facts.pid = pid if type(pid) is int else None
            self.facts.rank = rank if type(rank) is int else None
            self.facts.program = str(self.identity.get("program") or "")[:PROGRAM_CHARACTERS_MAX]
        return self.identity

    def probe(self) -> Life:
        """Look whether the writer lives; its death wakes the stream."""
        before = self.liveness.life
        life = self.liveness.probe()
        if life is not before:
            self.facts.life = life.value
            self.wake.set()
        return life

    async def drain(self) -> Drained:
        """Bring the dead writer's stream to its end.

        Raises:
            OSError: nothing is lost; call again.
        """
        self._close_ring()
        identity, reached = self.find_identity() or {}, self.reader.offset
        stored = max(map(self._position, {*self.cursor.runs, *self.dictionary.runs.values()}), default=0)
        done = await asyncio.to_thread(drain, self.place, identity, list(self._ring_paths()), reached, stored)
        self.drained = True
        log.info("drained stream=%s offset=%d unknown_tail=%s", self.name, done.end, done.unknown_tail)
        return done

    # -- how far it is

    def learn(self, items: list[Item]) -> list[EventFrame]:
        """Take meanings and damage out of *items*; return the frames that are left."""
        frames: list[EventFrame] = []
        for item in items:
            if isinstance(item, Frame):
                self._learn(item.definitions)
                frames.append(EventFrame(item.offset, item.end, item.events))
            elif isinstance(item, Opened):
                self.identity = item.identity or self.identity
                self._learn(item.dictionary)
            else:
                self._note(item)
        return frames

    def _learn(self, definitions: bytes) -> None:
        if definitions:
            try:
                self.dictionary.learn(definitions)
            except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException) as error:
                self.facts.malformed += 1
                self.facts.malformed_sample = self.facts.malformed_sample or str(error)[:160]

    def _note(self, damage: Damage) -> None:
        self.facts.damages += 1
        self._tell(damage)
        self.damages.append(damage)
        if damage.end > self._counted_to:
            self.cursor.damaged_events = min(self.cursor.damaged_events + damage.events, COUNT_END - 1)
            self.cursor.damaged_points = min(self.cursor.damaged_points + damage.points, COUNT_END - 1)
            self.facts.damaged_events, self.facts.damaged_points = (
                self.cursor.damaged_events,
                self.cursor.damaged_points,
            )
            self._counted_to = damage.end

    def _tell(self, damage: Damage) -> None:
        if self.facts.damages > DAMAGES_TOLD_MAX:
            return  # counted; whoever wrote so many is not to fill the log, too
        log.error("damage stream=%s segment=%s offset=%d: %s", self.name, damage.path.name, damage.begin, damage)

    def advance(self, batch: Batch) -> None:
        """Everything before the end of *batch* is in the store: say so to our next start."""
        facts, cursor = self.facts, self.cursor
        for run in (*batch.runs, *batch.known):  # known may mean: until the next power cut
            cursor.runs.setdefault(run, batch.begin)
        cursor.offset = max(cursor.offset, batch.end)
        self._applied_to = self.reader.offset
        facts.stored, facts.written = cursor.offset, max(facts.written, self.reader.offset)
        facts.events += batch.events
        facts.points += sum(changes.point_count for changes in batch.runs.values())
        facts.malformed += batch.malformed
        facts.malformed_sample = facts.malformed_sample or batch.malformed_sample
        for kind, count in batch.unknown_kinds.items():
            count_kind(facts.unknown_kinds, kind, count)
        facts.open_runs = sorted({run.run_id for run in cursor.runs})
        if batch.epitaph is not None:
            facts.unknown_tail = cursor.unknown_tail = leaves_unknown_tail(batch.epitaph.reason)
        self._unsaved = True

    def tell_writer(self, stored: int) -> None:
        """Everything before *stored*, artifacts too, is in its place: a writer may wait for that."""
        self._unsaved = self._unsaved or stored != self.cursor.stored
        self.cursor.stored = stored
        # Without a ring file it is learnt from the cursor: by the writer, and by who waits for a process that left.
        if not self._tell_ring(stored) or self.dead or self.reader.in_order:
            self.save_cursor(force=True)

    def note_that_it_left(self) -> None:
        """If its writer has left in order, say how far its events are where someone may still look."""
        if self.reader.in_order:
            with contextlib.suppress(OSError):  # a full disk: it is told when the cursor is due
                self.save_cursor(force=True)

    def note_lag(self, frames: list[EventFrame]) -> int | None:
        """Return the age in ms, once stored, of the oldest point of *frames*; only a living writer's means anything."""
        if self.dead or not frames:
            return None
        first = _first_time(frames[0].events)
        if first is None:
            return None
        self.facts.lag_ms = max(0, (time.time_ns() - first) // 1_000_000)
        self.facts.worst_lag_ms = max(self.facts.worst_lag_ms, self.facts.lag_ms)
        return self.facts.lag_ms

    def may_have_grown(self) -> bool:
        """Whether its files look other than at the last such look; for when watches are silent."""
        try:
            info = os.stat(self.reader.path)
            seen = (info.st_size, info.st_mtime_ns, os.stat(self.folder).st_mtime_ns)
        except OSError:
            return True
        before, self._seen = self._seen, seen
        return before != seen

    def save_cursor(self, *, force: bool = False, sync: bool = False) -> None:
        """Write the cursor if it changed and some seconds have passed. Raises OSError: it stays as it was."""
        now = time.monotonic()
        if not self._unsaved and not sync:
            return
        if force or sync or now - self._saved_at >= CURSOR_INTERVAL_S:
            self.cursor.boot, self._saved_at = self.boot, now
            cursors.save(self.cursor_folder, self.cursor, sync=sync)
            self._unsaved = False

    def settle(self, settled: Callable[[RunRef], bool]) -> bool:
        """Forget the runs that are durable for good; whether that finishes the stream, which then is written down."""
        if not self._has_caught_up:
            return False
        if done := [run for run in self.cursor.runs if settled(run)]:
            for run in done:
                del self.cursor.runs[run]
            self._unsaved = True
            self.facts.open_runs = sorted({run.run_id for run in self.cursor.runs})
        if self.ended and not self.cursor.runs:
            self.cursor.finished = True
            self.save_cursor(sync=True)
        return self.cursor.finished

    @property
    def _has_caught_up(self) -> bool:
        """Whether it brings nothing again that a store had lost: until then that store calls too little durable."""
        all_read = self.waiting or self.ended  # there may be less than the cursor says: a power cut, retention
        return not self._rewinding and (all_read or self._applied_to >= self.cursor.offset)

    def look_at_ring(self, *, may_be_new: bool) -> None:
        """Refresh what the ring says: how much is written, what was dropped; and find a ring made anew."""
        ring = None if self.dead else self._open_ring()
        if ring is None:
            return
        try:
            if may_be_new and os.stat(ring.path).st_ino != os.fstat(ring.fd).st_ino:
                self._close_ring()
                return
            # Slots are taken in order, the last one when all are: two looks tell that nothing was dropped.
            slots = [os.pread(ring.fd, DROP_SLOT.size, DROPS_AT + DROP_SLOT.size * at) for at in (0, DROP_SLOTS - 1)]
            seen = os.pread(ring.fd, CHUNK_TABLE_AT + 16 * ring.chunks - WORDS_AT, WORDS_AT), *slots
            if seen == self._ring_seen:
                return
            self._ring_seen = seen
            self.facts.written = max(self.facts.stored, ring.end)
            if any(map(any, slots)):
                self.facts.dropped = {run: list(counts) for run, counts in ring.drops.items()}
        except OSError:
            self._close_ring()

    def close(self) -> None:
        self.reader.close()
        self.liveness.close()
        self._close_ring()

    # -- its ring

    def _ring_paths(self) -> Iterator[Path]:
        name = f"{self.name}{layout.RING_SUFFIX}"
        if self._ring_folder is not None:
            yield self._ring_folder / name
        recorded = (self.identity or {}).get("ring")
        if isinstance(recorded, str) and recorded.endswith(f"/{name}"):
            yield Path(recorded)

    def _open_ring(self) -> RingView | None:
        if self._ring is None:
            for path in self._ring_paths():
                with contextlib.suppress(OSError, SpoolError, ValueError, msgpack.exceptions.UnpackException):
                    view = read_ring(path, writable=True)
                    if view.stream == self.place.stream:
                        self._ring = view
                        break
                    view.close()
        return self._ring

    def _tell_ring(self, offset: int) -> bool:
        ring = None if self.dead else self._open_ring()
        if ring is None:
            return self.dead
        try:
            ring.store_reached(offset)
        except OSError:
            return False
        return True

    def _close_ring(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None


async def tail(stream: Stream, pace: Pace) -> AsyncIterator[list[Item]]:
    """Yield what is new, a turn's worth at a time, until the stream has ended or is closing.

    *pace* says how long to let events gather once the reader has caught up with a living writer.

    Raises:
        SpoolError, OSError: the stream cannot be read on; begin again later.
        RunMoved: begin again now.
    """
    while not stream.closing:
        stream.check_rewind()
        stream.wake.clear()
        begun, offset = time.thread_time(), stream.reader.offset
        items = stream.reader.read(TURN_BYTES)
        if items:
            yield items
            if stream.dead or stream.reader.offset - offset >= TURN_BYTES:
                await asyncio.sleep(0)  # behind: go on after the other streams' turn
            else:
                pace.spent(time.thread_time() - begun)
                await asyncio.sleep(pace.interval_s)
        elif stream.dead and not stream.drained:
            await stream.drain()
        elif stream.dead:
            return  # sealed, as a rule; where it is not, segments stand behind the end, and nobody will write there
        else:
            stream.note_that_it_left()
            stream.waiting = True
            await stream.wake.wait()
            stream.waiting = False


def _first_time(data: bytes) -> int | None:
    """The time of the first point in *data*, None if something else than definitions stands before it."""
    with contextlib.suppress(ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException):
        for event in events.decode(data):
            if event[0] not in events.DEFINITIONS:
                return event[3] if event[0] <= events.POINTS and type(event[3]) is int else None
    return None
