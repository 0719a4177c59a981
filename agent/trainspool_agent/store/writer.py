"""Apply a batch so that applying it twice changes nothing.

Source: design.md 2.4, 2.5; agent/docs/store-mapping.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainspool_agent.compact import RunRef
from trainspool_agent.store import aftercut, inputs, mending, runs, tables, texts
from trainspool_agent.store.changes import ROWS, Artifact, ExperimentChange, RunChanges, Text
from trainspool_agent.store.durable import Durability
from trainspool_agent.store.errors import Refused, RunHeld, RunMoved, StoreRefused
from trainspool_agent.store.experiments import Experiment, Experiments
from trainspool_agent.store.fold import Admitted, MetricFile
from trainspool_agent.store.handover import Handover
from trainspool_agent.store.holding import Holding
from trainspool_agent.store.layout import METRICS
from trainspool_agent.store.lease import Leases
from trainspool_agent.store.limits import (
    ARTIFACTS_WAITING_MAX,
    FEW_POINTS,
    METRIC_KEYS_MAX,
    STREAMS_MAX,
)
from trainspool_agent.store.lines import Lines, Point
from trainspool_agent.store.memory import RunMemory
from trainspool_agent.store.state import COUNT_END, Expected, Held, Published, RunState
from trainspool_agent.store.transfer import read_staged_text
from trainspool_agent.store.versions import Order

_Written = tuple[MetricFile, Admitted | None, int]  # what it claimed, its length before


@dataclass(slots=True)
class Applied:
    """What became of the points of one ``apply``."""

    stored: int = 0
    folded: int = 0
    refused: int = 0
    refused_events: int = 0
    skipped: bool = False  # the run was removed from the store: nothing of this is kept


class FileStore:
    """One MLflow root directory. For one event loop; not thread safe, not for use after fork.

    Args:
        root: the directory usually called ``mlruns``; made complete if it is not there.
        boot_id: the kernel's boot id: an applied checkpoint of another boot does not count.
        leases: which runs are ours to write; by default those that no other process holds.
        handed_over: called with the streams whose artifacts have come to their places.
        spool_is_ours: staged files may be replaced by links to equal ones in the store.

    Raises:
        StoreRefused: nothing can be kept there.
    """

    def __init__(
        self,
        root: Path,
        *,
        boot_id: str,
        leases: Leases | None = None,
        handed_over: Callable[[set[str]], None] = lambda _: None,
        spool_is_ours: bool = False,
    ) -> None:
        if "://" in str(root) or str(root).startswith(("http:", "https:")):
            raise StoreRefused(
                "a tracking server is no store yet", str(root), "give a folder with TRAINSPOOL_STORE or --store"
            )
        self.root = Path(os.path.abspath(root))
        self._boot_id = boot_id
        self._experiments = Experiments(str(self.root))
        self._experiments.prepare()
        aftercut.mend(str(self.root), boot_id)
        self._memory = RunMemory(self._experiments, boot_id)
        self._holding = Holding(self._memory, leases or Leases(), boot_id)
        self._durability = Durability(str(self.root), boot_id, self._memory, self._holding, spool_is_ours=spool_is_ours)
        self.handover = Handover(
            str(self.root), boot_id, self._memory, self._holding, handed_over, in_spool_too=spool_is_ours
        )
        self._cleaned: set[str] = set()

    @property
    def fallen(self) -> set[str]:
        """Runs of which another agent's checkpoint, now ours, may know less than we had applied: to be read again."""
        return self._holding.fallen

    # ------------------------------------------------------------------ the life of a batch

    def position(self, run: RunRef, stream: str) -> int:
        """Return the stream offset up to which *run*'s events are in the store; 0 if it holds none."""
        return self._memory.get(run.run_id).streams.get(stream, 0)

    async def apply(
        self, run: RunRef, changes: RunChanges, stream: str, end: int, staging: Path, made_for: int | None = None
    ) -> Applied:
        """Put *changes* into the run's files; then ``position(run, stream)`` is *end*.

        After an OSError the position is as before; applying the same events again completes what was begun, and counts
        nothing twice.

        Args:
            made_for: the position that *changes* were made for; None: the present one.

        Raises:
            RunHeld: another agent carries the run.
            RunMoved: one did until now, so that the position is another.
        """
        if changes.artifacts:
            await self.handover.make_room()
        before = self.position(run, stream)
        if made_for is not None and made_for != before:
            raise RunMoved(run.run_id)
        state = self._holding.take(run.run_id)
        if run.run_id in self.fallen:  # first its streams are to go back
            raise RunHeld(run.run_id, "another agent until now")
        async with state.lock:
            if state is not self._memory.get(run.run_id) or self.position(run, stream) != before:
                raise RunMoved(run.run_id)
            if not await self._ensure_folder(state, run, changes):
                state.streams[stream] = end
                return Applied(skipped=True)
            applied = Applied()
            written: list[_Written] = []
            try:
                self._expect_artifacts(state, changes, stream, str(staging), end)
                await self._grow_tables(state, changes, stream, str(staging), applied)
                await self._write_inputs(state, changes, stream, applied)
                self._holding.check(state)  # we may have been stopped in what took long, and our word be an old one
                self._write_texts(state, changes, stream, str(staging), applied)
                self._write_points(state, changes.points, applied, written)
                self._take_sessions(state, changes, stream)
                if changes.may_show or not state.shown or len(state.problems) > state.problems_told:
                    await runs.publish_wanted(state)
            except BaseException:
                for file, admitted, begin in written:
                    file.unclaim(admitted, begin)
                raise
            self._holding.check(state)
            self._commit(state, changes, stream, end, applied)
        self.handover.wake()
        return applied

    def hold(self, run: RunRef) -> None:
        """Have the run to ourselves, or ask for it. Raises RunHeld: another agent carries it."""
        self._holding.take(run.run_id)

    def reopen(self, run_id: str, streams: Iterable[str], *, everything: bool) -> None:
        """Have the events of *streams* applied to a run once more, from their beginning: see ``mending.reopen``."""
        state = self._holding.take(run_id)
        if state.experiment is not None:
            mending.reopen(state, streams, everything=everything)

    def counted(self, run_id: str, stream: str) -> int:
        """Return the stream offset up to which the run's account has the stream's events."""
        state = self._memory.get(run_id)
        return max(state.streams.get(stream, 0), state.counted.get(stream, 0))

    async def apply_experiment(self, change: ExperimentChange) -> None:
        """Make the experiment and set its tags."""
        self._experiments.apply(change)

    def advance(self, run: RunRef, stream: str, end: int) -> None:
        """Nothing for this run up to *end*: only the position moves.

        A run that is not in memory stays where it is: a restart then reads a little more, and finds nothing to do.
        """
        state = self._memory.peek(run.run_id)
        if not self._holding.has(run.run_id):
            return
        if state is not None and state.experiment is not None and state.streams.get(stream, 0) < end:
            state.streams[stream] = end
            self._memory.touch(state)

    def checkpoint(self, *, force: bool = False) -> None:
        """Write the applied checkpoints that are due: a second after a run's last one, or now with *force*.

        Raises:
            OSError: one could not be written; the others were tried, and all are due again.
        """
        self._holding.refresh()
        self._memory.checkpoint(force=force)

    async def make_durable(self, *, all: bool = False) -> None:  # noqa: A002
        """Bring ended runs, and those not synced for a minute, to the device, then say so in their checkpoints.

        One call is done with before the next one begins. A cancelled caller leaves, what it began goes on: its thread
        could not be stopped, and would come between a later one's files.

        Raises:
            OSError: of one run; the others are durable, unless it was the sync.
        """
        await self._durability.make(every=all)

    async def rest(self) -> None:
        """Return when no ``make_durable`` is under way."""
        await self._durability.rest()

    @property
    def is_durable(self) -> bool:
        """Whether durable checkpoints cover all that was applied, of every run."""
        return not self._memory.undurable

    def is_settled(self, run: RunRef, stream: str) -> bool:
        """Whether every session of the run has ended and a durable checkpoint covers all that was applied."""
        try:
            # Its checkpoint, perhaps, was never made durable.
            state = self._holding.take(run.run_id, wish=False)
        except RunHeld:
            return False  # whoever carries it may not be done with it
        if state.lock.locked() or run.run_id in self._memory.undurable or run.run_id in self.fallen:
            return False
        if run.run_id in self._memory.expecting:
            return False
        if not state.ended or runs.wanted(state) != state.published:
            return False
        self._holding.release(run.run_id)
        return True

    # ------------------------------------------------------------------ the account

    def account(self, run_id: str) -> dict[str, Any]:
        """Return what became of everything logged to a run: see ``RunState.account``."""
        return self._memory.get(run_id).account()

    def note_damage(self, run: RunRef, points: int, events: int) -> None:
        """Points and other events of the run were in a damaged frame."""
        self._count(run, accepted=points, damaged=points, damaged_events=events)

    def note_lag(self, run: RunRef, lag_ms: int) -> None:
        """A batch of the run reached the store *lag_ms* after its oldest event was logged."""
        state = self._memory.get(run.run_id)
        state.counts["worst_lag_ms"] = max(state.counts["worst_lag_ms"], lag_ms)

    def close(self) -> None:
        """Write the applied checkpoints and close every file. The store may not be used after that."""
        try:
            self.checkpoint(force=True)
        finally:
            self._memory.close()
        self._holding.release_all()

    # ------------------------------------------------------------------ one apply, in the order of its steps

    async def _ensure_folder(self, state: RunState, run: RunRef, changes: RunChanges) -> bool:
        """Make the run's folder if need be; False if someone removed it while we carried it."""
        if state.experiment is not None and not state.gone:
            if os.path.isdir(state.folder):
                self._clean(state.experiment)
                return True
            self._memory.relocate(state)
        if state.gone:
            return False
        if state.experiment is None:
            experiment = self._experiments.ensure(run.experiment_id, run.experiment_name)
            found = self._experiments.find_run(run.run_id, experiment)
            experiment = found or experiment
            self._clean(experiment)
            values = runs.first_meta(run.run_id, experiment, changes)
            if found is None:
                await asyncio.to_thread(runs.make_folder, run.run_id, experiment, values)
            self._holding.take_new(state.run_id, experiment)
            if found is None and changes.starts:
                state.published = Published(1, values["start_time"], None, None, values["run_name"])
            state.experiment = experiment
            if found is not None:
                await asyncio.to_thread(runs.complete_folder, state, values)
            state.provisional = found is None and not changes.starts
            if found is None and state.unsynced is not None:
                state.unsynced.update((experiment.folder, os.path.dirname(experiment.folder)))
        return True

    def _clean(self, experiment: Experiment) -> None:
        """Once, remove what agents that died have left in an experiment, of its artifacts too."""
        if experiment.folder not in self._cleaned:
            self._cleaned.add(experiment.folder)
            runs.remove_leftovers(experiment, self._boot_id)

    def _expect_artifacts(self, state: RunState, changes: RunChanges, stream: str, staging: str, end: int) -> None:
        """Enter what is to be handed over; the latest of a path counts.

        Raises:
            StoreRefused: so much is on its way already that the stream has to wait.
        """
        if not changes.artifacts:
            return
        if len(state.expected) >= ARTIFACTS_WAITING_MAX:
            what = f"{len(state.expected)} artifacts are on their way to the run already"
            raise StoreRefused(what, state.folder, "wait: trainspool artifacts ls says how far they are")
        counts = end > state.counted.get(stream, 0)
        for artifact in changes.artifacts:
            if artifact.form == ROWS:
                continue
            one = Expected(artifact, stream, staging, counts)
            waiting, known = state.expected.get(artifact.path), state.artifacts.get(artifact.path)
            if (waiting is None or waiting.order < one.order) and (known is None or known < one.order):
                state.expected[artifact.path] = one
                self._memory.expecting[state.run_id] = None

    async def _grow_tables(
        self, state: RunState, changes: RunChanges, stream: str, staging: str, applied: Applied
    ) -> None:
        """Add rows to tables: each batch's to one table at once, as the table is written anew."""
        by_path: dict[str, list[Artifact]] = {}
        for artifact in changes.artifacts:
            if artifact.form == ROWS:
                by_path.setdefault(artifact.path, []).append(artifact)
        for path, rows in by_path.items():
            state.unsynced = None
            try:
                size = await asyncio.to_thread(tables.append, rows, stream, state.folder, staging, state.work)
            except Refused as error:
                applied.refused_events += 1
                state.note_problem(str(error))
                continue
            texts.write_logged_table(state, path)
            last = max(Order(one.time, stream, one.offset) for one in rows)
            state.held[path], state.unhashed[path] = Held(size, "encoded"), None
            self._memory.expecting[state.run_id] = None
            state.remember_artifact(path, max(last, state.artifacts.get(path, last)))

    async def _write_inputs(self, state: RunState, changes: RunChanges, stream: str, applied: Applied) -> None:
        for one in changes.inputs:
            try:
                await asyncio.to_thread(inputs.write, state, one, stream)
            except Refused as error:
                applied.refused_events += 1
                state.note_problem(str(error))

    def _write_texts(self, state: RunState, changes: RunChanges, stream: str, staging: str, applied: Applied) -> None:
        staged = []
        for tag in changes.staged_tags:
            try:
                staged.append(Text(tag.key, read_staged_text(tag.staged, staging, tag.size), tag.time, tag.offset))
            except Refused as error:
                applied.refused_events += 1
                state.note_problem(str(error))
        if changes.params:
            applied.refused_events += texts.write_params(state, changes.params, stream)
        if staged or changes.tags or changes.starts:
            applied.refused_events += texts.write_tags(state, texts.tag_events(changes, staged), stream)

    def _write_points(
        self,
        state: RunState,
        points: dict[str, Sequence[Point]],
        applied: Applied,
        written: list[_Written],
    ) -> None:
        files, unsynced, work, used = state.files, state.unsynced, state.work, self._memory.used
        for key, series in points.items():
            count = len(series)
            if not count:
                continue
            file = files.get(key)
            if file is None:
                if len(files) >= METRIC_KEYS_MAX:
                    applied.refused += count
                    state.note_problem(f"more than {METRIC_KEYS_MAX} metric keys: the rest is left out")
                    continue
                file = files[key] = MetricFile(texts.path_of(state, METRICS, key), self._memory.decoded)
                texts.note_unsynced(state, file.path)
            if unsynced is not None:
                unsynced.add(file.path)
            if count <= FEW_POINTS and file.fd >= 0:
                lines = series if isinstance(series, Lines) else Lines.of(series)
                written.append((file, None, file.length))
                used(file)
                if lines is not None and file.append_rising(lines):
                    applied.stored += count
                    continue
                written.pop()
            self._memory.open(file)
            admitted = file.admit(series)
            written.append((file, admitted, file.length))
            file.append(admitted, work)
            applied.stored += admitted.stored
            applied.folded += admitted.folded

    def _take_sessions(self, state: RunState, changes: RunChanges, stream: str) -> None:
        for start in changes.starts:
            state.sessions.started(stream, start)
        for end in changes.ends:
            state.sessions.ended(stream, end)
        if changes.epitaph is not None:
            state.sessions.epitaph(stream, changes.epitaph)

    def _commit(self, state: RunState, changes: RunChanges, stream: str, end: int, applied: Applied) -> None:
        if end > state.counted.get(stream, 0):
            counts = state.counts
            counts["accepted"] += applied.stored + applied.folded + applied.refused
            counts["stored"] += applied.stored
            counts["folded"] += applied.folded
            counts["refused"] += applied.refused
            counts["other_events"] += changes.other_events
            counts["refused_events"] += applied.refused_events
            counts["unknown_tail"] += changes.unknown_tail
            state.counted.pop(stream, None)
        if changes.gap is not None:
            known = state.gaps.get(stream, [0, 0])
            state.gaps[stream] = [max(known[0], changes.gap.points), max(known[1], changes.gap.events)]
        if stream in state.streams or len(state.streams) < STREAMS_MAX:
            state.streams[stream] = max(end, state.streams.get(stream, 0))
        else:
            state.note_problem(f"more than {STREAMS_MAX} streams in one run: a restart reads the others again")
        self._memory.touch(state)

    def _count(self, run: RunRef, **counts: int) -> None:
        state = self._holding.take(run.run_id)
        for name, count in counts.items():
            state.counts[name] = min(state.counts[name] + count, COUNT_END - 1)
        if state.experiment is not None:
            self._memory.touch(state)
