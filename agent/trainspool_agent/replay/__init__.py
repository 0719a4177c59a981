"""The same path from any offset again: a store made anew, or another one, from whatever was spooled.

Events go through the same compaction and the same store as when they were carried live, and positions per run and
stream make it repeatable in any order. Nothing is written to the spools.

Source: agent/docs/replay.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainspool.errors import TrainspoolError
from trainspool.spool.items import Damage
from trainspool_agent import checkpoint
from trainspool_agent.compact import Batch, RunRef
from trainspool_agent.liveness import boot_id
from trainspool_agent.replay import guard as replayguard
from trainspool_agent.replay import source as replaysource
from trainspool_agent.replay.selection import Selection
from trainspool_agent.replay.source import Defined, Source
from trainspool_agent.replay.staged import leave_out_missing
from trainspool_agent.replay.stream import Note, ReplayedStream
from trainspool_agent.replay.survey import FoundRun, Wanted, survey
from trainspool_agent.store import mending
from trainspool_agent.store import reader as stores
from trainspool_agent.store.changes import ExperimentChange
from trainspool_agent.store.errors import RunHeld
from trainspool_agent.store.writer import FileStore

MISSING_NAMED_MAX = 20


@dataclass(frozen=True)
class Progress:
    """How far it is, in bytes of spool and metric points."""

    done_bytes: int
    total_bytes: int
    points: int


@dataclass
class Report:
    """What a replay came to."""

    store: str
    streams: int = 0
    runs: int = 0
    bytes: int = 0
    points: int = 0
    stored: int = 0
    folded: int = 0
    damaged_events: int = 0
    damaged_points: int = 0
    missing_artifacts: int = 0
    seconds: float = 0.0
    notes: list[Note] = field(default_factory=list)

    @property
    def problems(self) -> list[Note]:
        return [note for note in self.notes if note.problem]


def preview(
    places: list[Path], to: Path, wanted: Wanted, *, again: bool, progress: Callable[[Progress], None]
) -> list[FoundRun]:
    """Return the runs that a replay would apply, with what is new of each; nothing is written."""
    sources = replaysource.find(places)
    known, _ = _known_positions(to.absolute(), {source.name for source in sources}, again=again)
    meter = _Meter(sources, progress)
    found = survey(sources, lambda run_id, stream: known.get(run_id, {}).get(stream, 0), meter.at)
    return sorted(filter(wanted.takes, found.values()), key=lambda run: (run.began or 0, run.run_id))


def replay(
    places: list[Path], to: Path, wanted: Wanted, *, again: bool, progress: Callable[[Progress], None]
) -> Report:
    """Apply what *places* hold to the store at *to*; return when it is on the device.

    Args:
        places: spools, copies of them, or single streams.
        to: the store; made if it is not there.
        wanted: which runs.
        again: look at every point instead of trusting the store's positions, and bring back what is gone from it.
        progress: called many times a second.

    Raises:
        StoreRefused, StoreBusy: nothing was written.
        OSError: the store could not take it all; the same call again goes on.
    """
    begun = time.monotonic()
    sources = replaysource.find(places)
    root = to.absolute()
    report = Report(str(root), len(sources))
    with replayguard.holding(root):
        store = FileStore(root, boot_id=boot_id())
        try:
            asyncio.run(_Replay(store, root, report, again=again).run(sources, wanted, progress))
        finally:
            store.close()
    report.seconds = time.monotonic() - begun
    return report


Known = dict[str, dict[str, int]]  # run id → stream → offset


def _known_positions(root: Path, streams: set[str], *, again: bool) -> tuple[Known, dict[str, str]]:
    """What the store says it has of *streams*, of the runs whose files bear it out; and where every run lies.

    Runs that are to be opened again have no positions here.
    """
    known: Known = {}
    folders: dict[str, str] = {}
    for run in stores.runs(root, with_broken=True):
        folders[run.run_id] = run.folder
        saved = checkpoint.load(run.folder, boot_id())
        if saved and not again and mending.is_whole(run.folder, saved):
            known[run.run_id] = {stream: end for stream, end in saved["streams"].items() if stream in streams}
    return known, folders


class _Meter:
    """Bytes done over all streams; a stream counts for what its segments weigh."""

    def __init__(self, sources: list[Source], progress: Callable[[Progress], None]) -> None:
        self._sizes = {source: source.segment_bytes for source in sources}
        self._total, self._before = sum(self._sizes.values()), 0
        self._source: Source | None = None
        self._progress, self.points = progress, 0

    def at(self, source: Source, done: int) -> None:
        if source is not self._source:
            self._before += self._sizes[self._source] if self._source else 0
            self._source = source
        self._progress(Progress(self._before + min(done, self._sizes[source]), self._total, self.points))

    def done(self) -> None:
        self._progress(Progress(self._total, self._total, self.points))


class _Replay:
    """One call of ``replay``, in one event loop."""

    def __init__(self, store: FileStore, root: Path, report: Report, *, again: bool) -> None:
        self._store, self._root, self.report, self._again = store, root, report, again
        self._known: Known = {}
        self._folders: dict[str, str] = {}
        self._touched: set[str] = set()
        self._wanted: frozenset[str] | None = None
        self._experiments: frozenset[str] | None = None
        self._guard = replayguard.Carried.now(root)
        self._missing: list[str] = []
        self._cuts: dict[str, set[int]] = {}  # stream → where its events begin to count, for some run

    async def run(self, sources: list[Source], wanted: Wanted, progress: Callable[[Progress], None]) -> None:
        self._meter = _Meter(sources, progress)
        streams = {source.name for source in sources}
        self._known, self._folders = _known_positions(self._root, streams, again=self._again)
        if not wanted.everything:
            self._choose(sources, wanted)
        self._reopen(streams)
        for source in sources:
            await self._stream(source)
        await self._store.handover.finish()
        await self._store.make_durable(all=True)
        self._meter.done()
        self.report.runs = len(self._touched)
        self._note_missing()

    def _choose(self, sources: list[Source], wanted: Wanted) -> None:
        found = survey(sources, lambda *_: 0, lambda *_: None)
        chosen = [run for run in found.values() if wanted.takes(run)]
        self._wanted = frozenset(run.run_id for run in chosen)
        self._experiments = frozenset(name for run in chosen for name in run.experiments)

    def _reopen(self, streams: set[str]) -> None:
        """Runs whose files are not as recorded, or all with ``again``: their positions mean nothing any more."""
        for run_id in self._folders.keys() - self._known.keys():
            if (self._wanted is None or run_id in self._wanted) and run_id not in self._guard.runs:
                try:
                    self._store.reopen(run_id, streams, everything=self._again)
                except RunHeld as error:
                    note = Note(f"run {run_id}", str(error), "wait for that agent, then replay again")
                    self.report.notes.append(note)
                    continue
                for stream in streams:
                    self._cuts.setdefault(stream, set()).add(self._store.counted(run_id, stream))

    # -- one stream

    async def _stream(self, source: Source) -> None:
        known = {run: ends[source.name] for run, ends in self._known.items() if source.name in ends}
        carried = source.name in self._guard.streams
        selection = Selection(self._wanted, self._guard.runs, self._guard.store, carried, known)
        stream = ReplayedStream(source, selection, self._cuts.get(source.name, set()) | set(known.values()))
        for part in stream.parts.read():
            if isinstance(part, Defined):
                stream.learn(part.definitions)
            elif isinstance(part, Damage):
                await self._apply(stream.flush(), stream)
                self._note_damage(part, stream)
            else:
                await self._apply(stream.add(part), stream)
        await self._apply(stream.flush(), stream)
        self.report.bytes += source.segment_bytes
        self.report.notes += stream.notes(self._guard)

    async def _apply(self, batches: Iterator[Batch], stream: ReplayedStream) -> None:
        for batch in batches:
            for change in batch.experiments:
                if self._takes_experiment(change, stream):
                    await self._store.apply_experiment(change)
            for run in batch.runs:
                await self._apply_run(run, batch, stream)
            stream.note(batch)
            self._store.checkpoint()
            self._meter.at(stream.source, batch.end - stream.parts.begin)

    async def _apply_run(self, run: RunRef, batch: Batch, stream: ReplayedStream) -> None:
        changes, store, name = batch.runs[run], self._store, stream.source.name
        staging = stream.source.folder / "staging"
        missing = leave_out_missing(changes, staging, self._folders.get(run.run_id))
        self._missing += missing[: MISSING_NAMED_MAX - len(self._missing)]
        self.report.missing_artifacts += len(missing)
        try:
            applied = await store.apply(run, changes, name, batch.end, staging)
        except TrainspoolError as error:
            stream.refused.setdefault(run.run_id, error)
            return
        self._touched.add(run.run_id)
        self._known.setdefault(run.run_id, {})[name] = batch.end
        self.report.points += changes.point_count
        self.report.stored += applied.stored
        self.report.folded += applied.folded
        self._meter.points = self.report.points

    def _takes_experiment(self, change: ExperimentChange, stream: ReplayedStream) -> bool:
        if stream.selection.carried and self._guard.is_here(change.store):
            return False
        wanted = self._experiments
        return wanted is None or change.name in wanted or change.experiment_id in wanted

    def _note_damage(self, damage: Damage, stream: ReplayedStream) -> None:
        """A damaged frame does not say whose it was: every run of the stream may miss that much."""
        self.report.damaged_events += damage.events
        self.report.damaged_points += damage.points
        stream.damages.append(damage)
        for run in set(stream.dictionary.runs.values()) if damage.end > damage.begin else ():
            if stream.selection.takes(run) and self._store.counted(run.run_id, stream.source.name) <= damage.begin:
                with contextlib.suppress(RunHeld):  # its events will be refused for the same reason, and that is said
                    self._store.note_damage(run, damage.points, damage.events)

    def _note_missing(self) -> None:
        if self.report.missing_artifacts:
            count, some = self.report.missing_artifacts, ", ".join(self._missing)
            what = f"{count} staged files are not there, their artifacts and tags are left out: {some}"
            step = "copy the streams' staging folders too, then replay again with --again"
            self.report.notes.append(Note(self.report.store, what, step))
