"""What was said and accepted, and what a store has to hold for it: plain dictionaries, none of the code under test."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any

FINISHED, FAILED, KILLED, RUNNING = 3, 4, 5, 1
Identity = tuple[int, int, Any]


@dataclass
class Said:
    """One accepted event. *end*: the stream's length behind it."""

    kind: str  # points, params, tags, start, end, artifact, gap
    run: str
    time: int
    end: int
    what: Any = None


@dataclass
class StreamModel:
    """What one process said, in order, and how it ended: (status, reached) or None while it lives."""

    name: str
    said: list[Said] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    ended: int | None = None
    unknown_tail: bool = False

    def die(self, status: int, reached: int | None = None, *, unknown: bool = False) -> None:
        """The process is gone; *reached*: nobody will ever see what came behind."""
        self.ended, self.unknown_tail = status, unknown
        if reached is not None:
            self.said = [one for one in self.said if one.end <= reached]

    @property
    def last_time(self) -> int | None:
        return self.said[-1].time if self.said else None


def identity(ms: int, step: int, value: float) -> Identity:
    if math.isnan(value):
        return ms, step, "nan"
    if math.isinf(value):
        value = math.copysign(sys.float_info.max, value)
    return ms, step, value + 0.0


@dataclass
class RunModel:
    """What the store has to hold for one run."""

    accepted: int = 0
    points: dict[str, dict[Identity, str]] = field(default_factory=dict)  # with the line of the first of its stream
    params: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    status: int | None = None
    dropped: list[int] = field(default_factory=lambda: [0, 0])
    streams: set[str] = field(default_factory=set)
    unknown_tail: bool = False

    @property
    def distinct(self) -> int:
        return sum(map(len, self.points.values()))


def expected(streams: list[StreamModel]) -> dict[str, RunModel]:
    """Return every run as it has to be once all is carried, by run id."""
    runs: dict[str, RunModel] = {}
    ordered: dict[str, list[tuple[tuple[int, str, int], Said]]] = {}
    for stream in streams:
        for number, said in enumerate(stream.said):
            run = runs.setdefault(said.run, RunModel())
            run.streams.add(stream.name)
            ordered.setdefault(said.run, []).append(((said.time, stream.name, number), said))
            if said.kind == "points":
                _add_points(run, said)
        for run_id, (points, events) in stream.dropped.items():
            if run_id in runs and stream.name in runs[run_id].streams:
                runs[run_id].dropped[0] += points
                runs[run_id].dropped[1] += events
    for run_id, run in runs.items():
        run.unknown_tail = any(stream.unknown_tail for stream in streams if stream.name in run.streams)
        for _, said in sorted(ordered[run_id], key=lambda one: one[0]):
            if said.kind == "params":
                for key, value in said.what.items():
                    values = run.params.setdefault(key, [])
                    values += [value] if value not in values else []
            elif said.kind in ("tags", "start"):
                run.tags.update(said.what)
            elif said.kind == "artifact":
                run.artifacts.update(said.what)
        run.status = _status(run_id, streams)
    return runs


def _add_points(run: RunModel, said: Said) -> None:
    step, values = said.what
    ms = said.time // 1_000_000
    for key, value in values.items():
        run.accepted += 1
        run.points.setdefault(key, {}).setdefault(identity(ms, step, value), f"{ms} {value!r} {step}\n")


def _status(run_id: str, streams: list[StreamModel]) -> int | None:
    sessions: list[tuple[int, float, int]] = []
    for stream in streams:
        sessions += _sessions(run_id, stream)
    if not sessions:
        return None
    sessions.sort(key=lambda one: one[0])
    attempt: list[tuple[int, float, int]] = []
    until = -math.inf
    for session in sessions:
        if session[0] > until:
            attempt, until = [], -math.inf
        attempt.append(session)
        until = max(until, session[1])
    statuses = {status for _, _, status in attempt}
    return next(status for status in (RUNNING, FAILED, KILLED, FINISHED) if status in statuses)


def _sessions(run_id: str, stream: StreamModel) -> list[tuple[int, float, int]]:
    """(start, end, status) of each time the stream started the run."""
    found: list[tuple[int, float, int]] = []
    for said in stream.said:
        if said.run == run_id and said.kind == "start":
            found.append((said.time, math.inf, RUNNING))
        elif said.run == run_id and said.kind == "end" and found:
            opened = [number for number, (_, end, _) in enumerate(found) if end == math.inf]
            at = max(opened, default=len(found) - 1)  # the latest that is open, else the last end counts
            start = found[at][0]
            found[at] = start, max(said.time, start), said.what
    if stream.ended is not None:
        last = stream.last_time or 0
        found = [(s, max(last, s), stream.ended) if e == math.inf else (s, e, status) for s, e, status in found]
    return found
