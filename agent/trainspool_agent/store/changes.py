"""What a batch asks of a store: plain values, the interface that other stores will share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainspool_agent.store.lines import Point


class Text(NamedTuple):
    """A param or tag as logged; *value* None deletes a tag. *offset* ends the event in its stream."""

    key: str
    value: str | None
    time: int
    offset: int


class Start(NamedTuple):
    """An owner's ``start_run``; *time* in ns."""

    time: int
    offset: int
    name: str | None
    user: str | None
    tags: dict[str, str]
    resume: bool


class End(NamedTuple):
    """How a session ended: *status* is MLflow's number, *time* in ns."""

    time: int
    offset: int
    status: int
    reason: str | None


UNKNOWN = "is unknown"  # how the reason of an epitaph ends when a tail is: so a replay knows it too


def leaves_unknown_tail(reason: str | None) -> bool:
    """Whether an epitaph's reason says that nobody knows what the process held last."""
    return bool(reason) and str(reason).endswith(UNKNOWN)


ROWS = "rows"  # the form of media that is no artifact of its own, but a part of a table


class Artifact(NamedTuple):
    """A staged file and where it belongs below the run's artifacts."""

    path: str
    staged: str
    size: int
    mode: int
    time: int
    offset: int
    how: str = ""  # it was captured
    mtime_ns: int = 0  # of a linked one, at the call
    fingerprint: bytes = b""
    about: dict[str, Any] | None = None  # of media: what the staged file holds, and what is to be made of it

    @property
    def form(self) -> str | None:
        """Of media: what is to be made of the staged file."""
        return None if self.about is None else str(self.about["form"])


class Input(NamedTuple):
    """A dataset that the run used, in MLflow's words, and the tags of that use."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None
    profile: str | None
    tags: dict[str, str]
    time: int
    offset: int


class StagedTag(NamedTuple):
    """A tag whose value is the UTF-8 text of a staged file; *size* of it in bytes, -1 if nobody said."""

    key: str
    staged: str
    time: int
    offset: int
    size: int = -1


class Gap(NamedTuple):
    """What a stream dropped for a run, totals since the stream's birth."""

    points: int
    events: int


@dataclass(slots=True, repr=False)  # asyncio shows what it carries: a repr of all points takes seconds
class RunChanges:
    """One run's part of a batch, each list in the stream's order."""

    points: dict[str, Sequence[Point]] = field(default_factory=dict)
    params: list[Text] = field(default_factory=list)
    tags: list[Text] = field(default_factory=list)
    staged_tags: list[StagedTag] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    epitaph: End | None = None
    unknown_tail: bool = False  # what its stream held last is not known
    artifacts: list[Artifact] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    gap: Gap | None = None
    other_events: int = 0  # that carry no points

    @property
    def point_count(self) -> int:
        return sum(map(len, self.points.values()))

    @property
    def may_show(self) -> bool:
        """Whether this may change the run's status, times or name."""
        return bool(self.starts or self.ends or self.tags or self.staged_tags or self.epitaph is not None)

    @property
    def first_ms(self) -> int | None:
        """A time at which the run was alive: the start of a run whose start event is not here."""
        if self.starts:
            return min(start.time for start in self.starts) // 1_000_000
        times = [points[0][0] for points in self.points.values() if points]
        for events in (self.params, self.tags, self.artifacts, self.inputs):
            times += [event.time // 1_000_000 for event in events[:1]]
        return min(times, default=None)


class ExperimentChange(NamedTuple):
    """An experiment to exist, with these tags; *time* in ns."""

    time: int
    offset: int
    store: str
    experiment_id: str | None
    name: str | None
    tags: dict[str, str | None]
