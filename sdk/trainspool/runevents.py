"""A run's part in the stream: its definition, and its events on their way into the ring.

Source: sdk/docs/spool-format.md, "Events".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from trainspool.entities import Experiment
from trainspool.spool import events
from trainspool.stream import stream

if TYPE_CHECKING:
    from trainspool.run import Run

_time_ns = time.time_ns


class RunEvents:
    """What every kind of log call of a run rests on. Any thread; a forked child goes on as a guest."""

    def __init__(self, run_id: str, experiment: Experiment, store: str, *, owner: bool) -> None:
        self.run_id = run_id
        self.told_experiment, self.store, self.owner = experiment, store, owner
        if owner:
            stream.owned.add(self)
        # Fork and end put new dictionaries here, so what an interrupted call still adds to the old ones means nothing.
        self._series: dict[str, bytes] = {}
        self._numbered: tuple[object, int] = (None, 0)  # the series for which the stream knows the run's number
        self._keysets: dict[tuple[str, ...], tuple[bytes, Any]] = {}
        self._end: int | None = None
        self.start_time = _time_ns() // 1_000_000

    def _now_ns(self) -> int:
        """Return now, or the start where that is ahead of the clock: what was begun with does not come last."""
        return max(_time_ns(), self.start_time * 1_000_000)

    @property
    def experiment(self) -> Experiment:
        """The run's experiment; of a run that was resumed, as the store has it."""
        return self.told_experiment

    def _log(self, kind: int, *elements: Any) -> bool:
        """Append one event of this run, with the run's definition if the stream needs it."""
        while True:
            generation = stream.ensure()
            series = self._series
            run, definitions = self._definition()
            data = definitions + events.pack(kind, run, *elements)
            if stream.generation != generation:
                continue
            appended = stream.append(self, data)
            if appended:
                self._defined(run, series)
            elif stream.generation != generation:
                continue
            return appended

    def _log_surely(self, kind: int, *elements: Any) -> None:
        """Append an event that decides the run's life; if the ring is full, as soon as there is room."""
        if not self._try(kind, *elements):
            stream.owed.append(lambda: self._try(kind, *elements))

    def _try(self, kind: int, *elements: Any) -> bool:
        generation = stream.ensure()
        series, ring = self._series, stream.ring
        run, definitions = self._definition()
        if kind in (events.START, events.END) and not self.owner:
            return True  # forked meanwhile: starting and ending is the parent's
        if not ring.append(definitions + events.pack(kind, run, *elements)):
            return stream.generation != generation
        self._defined(run, series)
        return True

    def log_gap(self) -> bool:
        """Say how much of this run was dropped so far; whether there was room to say it."""
        points, dropped = stream.ring.dropped(self.run_id)
        return self._try(events.GAP, _time_ns(), points, dropped)

    def _definition(self) -> tuple[int, bytes]:
        """Return the run's id in the stream, and its definition if the stream has none."""
        series, number = self._numbered
        if series is self._series:
            return number, b""
        number = next(stream.run_numbers)
        experiment = self.told_experiment
        where = (self.store, experiment.experiment_id, experiment.name or None)
        owner = self.owner and self._end is None
        return number, events.pack(events.DEFINE_RUN, number, self.run_id, owner, *where)

    def _defined(self, number: int, series: object) -> None:
        self._numbered = (series, number)
        if series is self._series:
            stream.runs[self.run_id] = cast("Run", self)

    def _forget(self) -> None:
        """The stream may drop its definition of a run that it ended; using it again defines it anew."""
        self._series, self._keysets = {}, {}
        stream.runs.pop(self.run_id, None)

    def after_fork_in_child(self) -> None:
        """The parent's ids mean nothing in the child's stream, and the run is the parent's to end."""
        self.owner = False
        self._forget()
