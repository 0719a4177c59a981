"""The heart: one stream's events into the stores, in order. `daemon`, `sync` and `replay` all run it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainspool.errors import TrainspoolError
from trainspool_agent.compact import Batch, EventFrame, RunRef, compact
from trainspool_agent.health import explain
from trainspool_agent.pace import Pace
from trainspool_agent.store.errors import RunHeld, RunMoved, StoreRefused
from trainspool_agent.store.handover import Handover
from trainspool_agent.store.lease import Leases
from trainspool_agent.store.writer import FileStore
from trainspool_agent.tail import Stream, tail

RETRY_FIRST_S, RETRY_LAST_S = 0.5, 15.0
HELD_SILENTLY_S = 10.0  # agents that share a run hand it over every second or two
STORES_MAX = 64
RECORDED_MAX, COMPLAINTS_MAX = 4096, 1000
PATH_BYTES_MAX = 4000
_SYSTEM_FOLDERS = frozenset("bin boot etc lib lib32 lib64 libx32 proc sbin sys usr".split())

log = logging.getLogger("trainspool.agent")


async def follow(stream: Stream, stores: Stores, pace: Pace) -> None:
    """Carry one stream's events into their stores, in order, until it has ended."""
    async for items in tail(stream, pace):
        frames = stream.learn(items)
        batch = await _apply(frames, stream, stores)
        if batch is None:
            return
        # The store first: dying here replays a batch, which recovery absorbs. The other order loses one.
        stream.advance(batch)
        stream.tell_writer(stores.reached(stream.name, stream.cursor.offset))
        stores.note(batch, stream.note_lag(frames))
    stream.ended = stream.dead and not stream.closing


async def _apply(frames: list[EventFrame], stream: Stream, stores: Stores) -> Batch | None:
    """Apply *frames*, again and again until every run has them; None if the stream is told to close meanwhile."""
    pause_s, begun = RETRY_FIRST_S, time.monotonic()
    while True:
        batch = compact(frames, stream.dictionary, stream.name, lambda run: stores.position(run, stream.name))
        error = await stores.apply(batch, stream)
        if error is None:
            stream.facts.release()
            return batch
        if isinstance(error, RunMoved):
            raise error  # perhaps back to before these frames
        if isinstance(error, RunHeld):
            pause_s = RETRY_FIRST_S  # it is asked for, so it comes soon
            stream.note_held(error)
        if not isinstance(error, RunHeld) or time.monotonic() - begun > HELD_SILENTLY_S:
            stream.facts.hold(error)
        await _pause(stream, pause_s)
        stream.check_rewind()
        if stream.closing:
            return None
        pause_s = min(2 * pause_s, RETRY_LAST_S)


async def carry(stream: Stream, stores: Stores, pace: Pace) -> None:
    """Follow *stream* to its end; whatever goes wrong is said and tried again, and never meets another stream."""
    pause_s = RETRY_FIRST_S
    while not stream.closing and not stream.ended:
        reached = stream.cursor.offset
        try:
            stream.begin(lambda run: stores.position(run, stream.name))
            await follow(stream, stores, pace)
        except RunMoved:
            await asyncio.sleep(0)
            continue  # from where its store has it now
        except (OSError, TrainspoolError) as error:
            _held(stream, error)
        except Exception as error:  # noqa: BLE001  the task's boundary: one stream's bug must not stop the others
            _held(stream, error, bug=True)
        else:
            continue
        pause_s = RETRY_FIRST_S if stream.cursor.offset > reached else min(2 * pause_s, RETRY_LAST_S)
        await _pause(stream, pause_s)
    stream.reader.close()


def _held(stream: Stream, error: Exception, *, bug: bool = False) -> None:
    stream.facts.hold(error)
    fields = stream.name, stream.reader.path.name, stream.cursor.offset, str(error)
    log.error("held stream=%s segment=%s offset=%d error=%r", *fields, exc_info=error if bug else None)


async def _pause(stream: Stream, seconds: float) -> None:
    """Wait, but not for longer than the stream is open."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not stream.closing and (left := until - loop.time()) > 0:
        stream.wake.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stream.wake.wait(), left)


class Stores:
    """The stores of one agent, one per root, shared by all its streams.

    Args:
        boot_id: of this boot: what earlier boots wrote without syncing does not count.
        elsewhere: where runs go whose recorded store can be neither seen nor made; None: they are refused.
        asks: whether to ask an agent on that host for the runs it carries: see ``Leases``.
    """

    def __init__(
        self, boot_id: str, elsewhere: Path | None = None, asks: Callable[[str], bool] = lambda host: True
    ) -> None:
        self._boot_id, self._elsewhere, self._asks = boot_id, elsewhere, asks
        self._open: dict[Path, FileStore] = {}
        self._recorded: dict[str, FileStore] = {}
        self._complained: set[tuple[str, str]] = set()
        self.on_handed_over: Callable[[set[str]], None] = lambda _: None
        """Called with the streams of which an artifact came to its place; set it before the first store is opened."""

    def at(self, recorded: str) -> FileStore:
        """Return the store at the recorded place, opened if it is not.

        Raises:
            StoreRefused: it can be neither seen nor made here.
            OSError: the disk.
        """
        store = self._recorded.get(recorded)
        if store is None:
            root = find_root(recorded, self._elsewhere)
            store = self._open.get(root) or self._make(root)
            if len(self._recorded) >= RECORDED_MAX:
                self._recorded.clear()  # as many names for few stores: found again when they come again
            self._recorded[recorded] = store
        return store

    def _make(self, root: Path) -> FileStore:
        if len(self._open) >= STORES_MAX:
            self._close_one()
        made = self._open[root] = FileStore(
            root,
            boot_id=self._boot_id,
            leases=Leases(asks=self._asks),
            handed_over=self.on_handed_over,
            spool_is_ours=True,
        )
        return made

    def _close_one(self) -> None:
        """Close the oldest that has nothing left to make durable: opened again, a store knows of no such thing."""
        for root, oldest in self._open.items():
            if oldest.is_durable and oldest.handover.is_done:
                del self._open[root]
                self._recorded = {recorded: store for recorded, store in self._recorded.items() if store is not oldest}
                oldest.close()
                return

    def position(self, run: RunRef, stream: str) -> int:
        """The stream offset up to which the run's store has its events; 0 where the store cannot say (yet)."""
        try:
            return self.at(run.store).position(run, stream)
        except (OSError, TrainspoolError):
            return 0

    async def apply(self, batch: Batch, stream: Stream) -> Exception | None:
        """Apply *batch*, each run for itself; return the first failure: then it is to be tried again."""
        if stream.damages and (held := self._note_damages(stream)):
            return held
        failed: Exception | None = None
        for change in batch.experiments:
            try:
                await self.at(change.store).apply_experiment(change)
            except (OSError, TrainspoolError) as error:
                failed = failed or self._complain(change.name or change.experiment_id or "", stream, error)
        for run, changes in batch.runs.items():
            try:
                staging = stream.folder / "staging"
                made_for = batch.positions[run.run_id]
                await self.at(run.store).apply(run, changes, batch.stream, batch.end, staging, made_for)
            except (OSError, TrainspoolError) as error:
                failed = failed or self._complain(run.run_id, stream, error)
        if failed is None:
            self._advance_others(batch, stream)
        return failed

    def _advance_others(self, batch: Batch, stream: Stream) -> None:
        """Open runs without a part in *batch* have come as far: else a restart would go back to their last event."""
        for run in stream.cursor.runs:
            if run not in batch.runs and batch.end > batch.begin:
                with contextlib.suppress(OSError, TrainspoolError):
                    self.at(run.store).advance(run, stream.name, batch.end)

    def note(self, batch: Batch, lag_ms: int | None) -> None:
        """Enter into the runs' accounts what only the follower knows: how late they are."""
        for run in batch.runs if lag_ms is not None else ():
            with contextlib.suppress(OSError, TrainspoolError):
                self.at(run.store).note_lag(run, lag_ms or 0)

    def _note_damages(self, stream: Stream) -> RunHeld | None:
        """A damaged frame does not say whose it was: every run the stream has open may miss that much.

        Either all of them are told, or another agent carries one and none is.
        """
        for run in set(stream.dictionary.runs.values()):
            try:
                self.at(run.store).hold(run)
            except RunHeld as error:
                return error
            except (OSError, TrainspoolError):
                continue
        for damage in stream.damages:
            for run in set(stream.dictionary.runs.values()) if damage.end > damage.begin else set():
                with contextlib.suppress(OSError, TrainspoolError):
                    store = self.at(run.store)
                    if store.position(run, stream.name) <= damage.begin or not damage.exact:
                        store.note_damage(run, damage.points, damage.events)
        stream.damages.clear()
        return None

    def _complain(self, what: str, stream: Stream, error: Exception) -> Exception:
        text = str(error)
        if isinstance(error, RunHeld):
            log.debug("waits run=%.100r stream=%s error=%r", what, stream.name, text)
        elif (stream.name, text) not in self._complained and len(self._complained) < COMPLAINTS_MAX:
            self._complained.add((stream.name, text))
            offset = stream.cursor.offset
            log.error("not stored run=%.100r stream=%s offset=%d error=%r", what, stream.name, offset, text)
        return error

    def reached(self, stream: str, offset: int) -> int:
        """Return *offset*, or where before it the first artifact of *stream* is that has not come to its place yet."""
        firsts = (store.handover.first_offset(stream) for store in self._open.values())
        return min([offset, *(first - 1 for first in firsts if first is not None)])

    @property
    def is_handing_over(self) -> bool:
        """Whether artifacts are on their way that no disk refuses just now."""
        return any(store.handover.busy for store in self._open.values())

    def handovers(self) -> dict[str, Handover]:
        """Return what brings artifacts to their places, by store."""
        return {str(root): store.handover for root, store in self._open.items()}

    def artifacts(self) -> dict[str, dict[str, Any]]:
        """Return, by store, how far the artifacts are that are on their way, and why they wait; for the health file."""
        found: dict[str, dict[str, Any]] = {}
        for root, handover in self.handovers().items():
            progress = handover.progress()
            if progress is not None:
                error, next_step = explain(handover.error) if handover.error is not None else (None, None)
                about = progress._asdict() | {"remaining_s": progress.remaining_s}
                found[root] = {**about, "error": error, "next_step": next_step}
        return found

    def is_settled(self, run: RunRef, stream: str) -> bool:
        try:
            return self.at(run.store).is_settled(run, stream)
        except (OSError, TrainspoolError):
            return False

    def take_fallen(self) -> set[str]:
        """Return the runs that may be further behind in their store than this agent left them, each once."""
        fallen: set[str] = set()
        for store in self._open.values():
            fallen |= store.fallen
            store.fallen.clear()
        return fallen

    def checkpoint(self, *, force: bool = False) -> None:
        """Write the applied checkpoints that are due. Raises OSError: of one store, the others are written."""
        failed: OSError | None = None
        for store in self._open.values():
            try:
                store.checkpoint(force=force)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    async def make_durable(self, *, everything: bool = False) -> None:
        """Write the durable checkpoints that are due. Raises OSError: of one store, the others are written."""
        failed: OSError | None = None
        for store in list(self._open.values()):
            store.handover.wake()
            try:
                await store.make_durable(all=everything)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    async def rest(self) -> None:
        """Return when no ``make_durable`` is under way, not even one whose caller was cancelled."""
        for store in list(self._open.values()):
            await store.rest()

    async def stop_handing_over(self) -> None:
        """Return when no artifact is being carried any more; the next agent goes on with what is half-way."""
        for store in list(self._open.values()):
            await store.handover.stop()

    def close(self) -> None:
        for store in self._open.values():
            store.close()
        self._open.clear()
        self._recorded.clear()


def find_root(recorded: str, elsewhere: Path | None) -> Path:
    """Return the folder of a recorded store: itself if it can be seen or made here, else *elsewhere*.

    Raises:
        StoreRefused: neither.
    """
    if "\0" in recorded or len(os.fsencode(recorded)) > PATH_BYTES_MAX:
        raise StoreRefused("the recorded store is no path", recorded[:100], "look at TRAINSPOOL_STORE of that process")
    path = Path(recorded.removeprefix("file://"))
    if "://" in recorded and not recorded.startswith("file:///"):
        what, path = "trainspool writes file stores, this is an address", Path(recorded)
    elif not path.is_absolute():
        what = "the recorded store is no absolute path"
    elif _is_the_systems(path):
        what = "the recorded store is a folder of the system"
    elif os.path.isdir(path) or _can_be_made(path):
        return path
    else:
        what = "the recorded store can be neither seen nor made by this agent"
    if elsewhere is not None:
        return elsewhere
    raise StoreRefused(what, path, "start the agent with --store DIR (TRAINSPOOL_STORE), or make that folder")


def _is_the_systems(path: Path) -> bool:
    """Whether *path* is the root, or leads to where no run belongs: an agent of root could make a store there."""
    for place in (os.path.normpath(path), os.path.realpath(path)):
        top = Path(place).parts[1:2]
        if not top or top[0] in _SYSTEM_FOLDERS or (top[0] == "dev" and not place.startswith("/dev/shm/")):
            return True
    return False


def _can_be_made(path: Path) -> bool:
    """Whether some folder above it, other than the root, is there and ours to write."""
    above = next(folder for folder in path.parents if folder.exists())
    return above != above.parent and above.is_dir() and os.access(above, os.W_OK)
