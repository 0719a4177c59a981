"""What runs a set of streams holds: for choosing among them, and for saying what a replay would do. Reads all of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from trainspool.spool import events as ev
from trainspool.spool.experiments import DEFAULT_NAME
from trainspool_agent.compact import Dictionary, EventFrame, RunRef
from trainspool_agent.replay.source import Defined, Parts, Source

_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


@dataclass
class FoundRun:
    """One run, over all streams looked at. Times in ns.

    Attributes:
        began: its first start; without one the time of its first event.
        experiments: names and ids by which its streams know its experiment.
        new_points: of *points*, those behind the positions known.
        missing: staged files that its events name and that are not there.
    """

    run_id: str
    began: int | None = None
    started: bool = False
    experiments: set[str] = field(default_factory=set)
    points: int = 0
    new_points: int = 0
    events: int = 0
    missing: set[str] = field(default_factory=set)

    def saw(self, event: list[Any]) -> None:
        """Take note of when it began."""
        kind = event[0]
        when = event[3 if kind <= ev.POINTS else 2]
        starts = kind == ev.START
        if type(when) is int and (self.began is None or (starts and (not self.started or when < self.began))):
            self.began, self.started = when, starts


@dataclass(frozen=True)
class Wanted:
    """Which runs, each taken whole. Several kinds of condition must hold together. Times in ns.

    Attributes:
        runs: ids, or beginnings of ids; empty: all.
        experiments: names or ids; empty: all.
        since, until: it began at or after *since*, and before *until*.
    """

    runs: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None

    @property
    def everything(self) -> bool:
        return self == Wanted()

    def takes(self, run: FoundRun) -> bool:
        if self.runs and not run.run_id.startswith(self.runs):
            return False
        if self.experiments and run.experiments.isdisjoint(self.experiments):
            return False
        if self.since is not None and (run.began is None or run.began < self.since):
            return False
        return self.until is None or (run.began is not None and run.began < self.until)


Positions = Callable[[str, str], int]  # run id, stream → offset up to which the store has it


def survey(
    sources: Iterable[Source], positions: Positions, progress: Callable[[Source, int], None]
) -> dict[str, FoundRun]:
    """Return the runs of *sources* by id; what cannot be read is passed over, for the replay says so.

    Args:
        progress: called with the stream at hand and how many bytes of it are done.
    """
    found: dict[str, FoundRun] = {}
    for source in sources:
        parts, looking = Parts(source), _Survey(source, positions, found)
        for part in parts.read():
            if isinstance(part, Defined):
                looking.learn(part.definitions)
            elif isinstance(part, EventFrame):
                looking.take(part)
                progress(source, part.end - parts.begin)
    return found


class _Survey:
    def __init__(self, source: Source, positions: Positions, found: dict[str, FoundRun]) -> None:
        self._source, self._positions, self._found = source, positions, found
        self._dictionary = Dictionary()
        self._runs: dict[int, tuple[FoundRun, int]] = {}  # the run, and up to where its events are in the store

    def learn(self, definitions: bytes) -> None:
        with contextlib.suppress(*_MALFORMED):
            self._dictionary.learn(definitions)

    def take(self, frame: EventFrame) -> None:
        reader, stuck_at = ev.unpacker(frame.events), -1
        while True:
            try:
                for event in reader:
                    if event is not None:
                        self._event(event, frame.end)
                return
            except _MALFORMED:
                if reader.tell() == stuck_at:
                    return
                stuck_at = reader.tell()

    def _event(self, event: list[Any], end: int) -> None:
        kind = event[0]
        if kind in ev.DEFINITIONS:
            self._dictionary.define(event)
            return
        if kind in (ev.EPITAPH, ev.EXPERIMENT) or kind >= len(ev.KIND_NAMES):
            return
        run, position = self._runs.get(event[1]) or self._run(event[1])
        if run.began is None or kind == ev.START:
            run.saw(event)
        run.events += 1
        points = ev.points_in(event)
        run.points += points
        if end > position:
            run.new_points += points
            if kind in ev.NAMING_STAGED:
                staged = f"{self._source.folder}/staging/{event[4]}"
                if not os.path.lexists(staged):
                    run.missing.add(staged)

    def _run(self, number: int) -> tuple[FoundRun, int]:
        ref = self._dictionary.runs[number]
        run = self._found.setdefault(ref.run_id, FoundRun(ref.run_id))
        run.experiments |= names_of_experiment(ref)
        self._runs[number] = run, self._positions(ref.run_id, self._source.name)
        return self._runs[number]


def names_of_experiment(ref: RunRef) -> set[str]:
    """Return the names by which a person may mean a run's experiment."""
    names = {name for name in (ref.experiment_id, ref.experiment_name) if name}
    return names or ({DEFAULT_NAME} if ref.owner else set())
