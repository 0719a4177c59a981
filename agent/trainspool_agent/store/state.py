"""What the store knows of one run, in memory and in its checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

from trainspool.spool.events import shown
from trainspool.spool.layout import STAGING, is_stream_name
from trainspool_agent import checkpoint
from trainspool_agent.store.attempts import Session, Sessions
from trainspool_agent.store.changes import Artifact
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.fold import MetricFile
from trainspool_agent.store.layout import METRICS, escaped_key, legal_key
from trainspool_agent.store.limits import ARTIFACTS_REMEMBERED, PROBLEM_CHARACTERS_MAX, PROBLEMS_MAX
from trainspool_agent.store.points import DecodedBlocks
from trainspool_agent.store.versions import Order, Versions, Winner

_Kind = TypeVar("_Kind")
COUNT_END = 1 << 63  # what msgpack and every reader can hold
_DIGITS_MAX = 40
_COUNTS = (
    "accepted", "stored", "folded", "damaged", "unknown_tail", "worst_lag_ms", "refused",
    "other_events", "damaged_events", "refused_events",
)  # fmt: skip


class Published(NamedTuple):
    """What ``meta.yaml`` and our own tags say of the run by our hand."""

    status: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    reason: str | None = None
    name: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Expected:
    """An artifact that an event asks for and that is not in its place yet; *counts*: the account has its event anew."""

    artifact: Artifact
    stream: str
    staging: str
    counts: bool

    @property
    def order(self) -> Order:
        return Order(self.artifact.time, self.stream, self.artifact.offset)


class Held(NamedTuple):
    """An artifact in its place: *how* it was captured, its BLAKE3 *digest* once known,
    whether others share its bytes."""

    size: int
    how: str
    digest: str | None = None
    shared: bool = False
    copy_of: str = ""  # the staged file, where the store's is a copy of it


@dataclass(slots=True, eq=False)
class RunState:
    """One run. The lock is held while its files change; a checkpoint is taken only when it is free."""

    run_id: str
    experiment: Experiment | None = None  # None: the run is not in the store yet
    streams: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)  # where behind its position a stream is in *counts* already
    files: dict[str, MetricFile] = field(default_factory=dict)
    params: dict[str, Versions] = field(default_factory=dict)
    tags: dict[str, Winner] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)
    gaps: dict[str, list[int]] = field(default_factory=dict)
    artifacts: dict[str, Order] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    expected: dict[str, Expected] = field(default_factory=dict)
    unhashed: dict[str, Expected | None] = field(default_factory=dict)  # of those held, not looked for; what they were
    inputs: dict[str, Order] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    problems_told: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    name: str | None = None  # as last set by an event
    published: Published = field(default_factory=Published)
    shown: bool = False  # *published* is what should be
    provisional: bool = False  # made before its start event was seen: its start time is a guess
    gone: bool = False  # removed by someone while we carried it
    serial: int = 0  # of the state: rises with every change
    durable_serial: int = -1
    applied_at: float = float("-inf")  # monotonic seconds, of the last checkpoint of each kind
    durable_at: float = float("-inf")
    suspect: bool = False  # a sync of its files failed: a later one proves nothing
    unsynced: set[str] | None = field(default_factory=set)  # None: unknown, everything
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def folder(self) -> str:
        assert self.experiment is not None
        return f"{self.experiment.folder}/{self.run_id}"

    @property
    def work(self) -> str:
        assert self.experiment is not None
        return self.experiment.work

    @property
    def ended(self) -> bool:
        return all(session.end is not None for session in self.sessions)

    def remember_artifact(self, path: str, order: Order) -> None:
        """The artifact at *path* is decided on up to *order*; of very many the oldest are forgotten."""
        self.artifacts[path] = order
        while len(self.artifacts) > ARTIFACTS_REMEMBERED:
            oldest = next(iter(self.artifacts))
            del self.artifacts[oldest]
            self.held.pop(oldest, None)
            self.unhashed.pop(oldest, None)

    def note_problem(self, text: str) -> None:
        """Keep a problem for the run's tag ``trainspool.problem``; each is told once."""
        text = text[:PROBLEM_CHARACTERS_MAX]
        if text not in self.problems and len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)

    def account(self) -> dict[str, Any]:
        """Return what became of everything logged to the run, in metric points; other events beside them."""
        return {
            **self.counts,
            "unknown_tail": bool(self.counts["unknown_tail"]),
            "dropped": sum(gap[0] for gap in self.gaps.values()),
            "dropped_events": sum(gap[1] for gap in self.gaps.values()),
            "problems": list(self.problems),
        }

    def encode(self, boot_id: str) -> bytes:
        """Return this state as a checkpoint."""
        return checkpoint.encode(
            {
                "version": checkpoint.VERSION,
                "boot": boot_id,
                "serial": self.serial,
                "streams": self.streams,
                "counted": self.counted,
                "metrics": {
                    key: [file.path[len(self.folder) + 1 :], file.length, *map(str, file.top), file.unclaimed()]
                    for key, file in self.files.items()
                },
                "params": self.params,
                "tags": self.tags,
                "sessions": [asdict(session) for session in self.sessions],
                "gaps": self.gaps,
                "artifacts": self.artifacts,
                "held": self.held,
                "expected": [[*one.artifact, one.stream, one.staging, one.counts] for one in self.expected.values()],
                "inputs": self.inputs,
                "problems": self.problems,
                "counts": self.counts,
                "name": self.name,
                "published": self.published,
                "provisional": self.provisional,
            }
        )


def restored(run_id: str, experiment: Experiment, saved: dict[str, Any] | None, decoded: DecodedBlocks) -> RunState:
    """Return a run's state from its checkpoint; without one it starts at position 0, and folds what it finds.

    A checkpoint whose checksum is right and whose content means nothing is none: others may write where it lies.
    """
    if saved is not None:
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
            return _filled(RunState(run_id, experiment, unsynced=None), saved, decoded)
    return RunState(run_id, experiment, unsynced=None)


def _filled(state: RunState, saved: dict[str, Any], decoded: DecodedBlocks) -> RunState:
    state.serial = _number(saved["serial"])
    state.streams, state.counted = _numbers(saved["streams"]), _numbers(saved.get("counted", {}))
    state.files = {key: _metric_file(state, key, fields, decoded) for key, fields in saved["metrics"].items()}
    state.params = {
        key: {_text(value): _order(order) for value, order in versions.items()}
        for key, versions in saved["params"].items()
    }
    state.tags = {
        _text(key): Winner(_order(order), _optional(bytes, digest)) for key, (order, digest) in saved["tags"].items()
    }
    state.sessions = Sessions(map(_session, saved["sessions"]))
    state.gaps = {
        _text(stream): [_integer(points), _integer(events)] for stream, (points, events) in saved["gaps"].items()
    }
    state.artifacts = {_text(path): _order(order) for path, order in saved["artifacts"].items()}
    state.held = {_text(path): _held(*fields) for path, fields in saved.get("held", {}).items()}
    state.unhashed = {path: None for path, held in state.held.items() if held.digest is None}
    for fields in saved.get("expected", []):
        one = _expected(*fields)
        state.expected[one.artifact.path] = one
    state.inputs = {_text(name): _order(order) for name, order in saved.get("inputs", {}).items()}
    state.problems = [_text(problem) for problem in saved["problems"]]
    state.counts.update(_numbers(saved["counts"]))
    state.name = _optional(str, saved["name"])
    status, start_ms, end_ms, reason, name = saved["published"]
    times = _optional(int, start_ms), _optional(int, end_ms)
    state.published = Published(_optional(int, status), *times, _optional(str, reason), _optional(str, name))
    state.provisional = bool(saved["provisional"])
    return state


def _metric_file(state: RunState, key: str, fields: list[Any], decoded: DecodedBlocks) -> MetricFile:
    path, length, ms, step, unclaimed = fields
    if path not in (f"{METRICS}/{legal_key(key)}", f"{METRICS}/{escaped_key(key)}"):
        raise ValueError(f"no metric file: {shown(path)}")
    if len(ms) > _DIGITS_MAX or len(step) > _DIGITS_MAX:
        raise ValueError("no place in a metric file")
    spans = [_number(at) for at in unclaimed]
    return MetricFile(f"{state.folder}/{path}", decoded, _number(length), (int(ms), int(step)), spans)


def _held(size: Any, how: Any, digest: Any, shared: Any, copy_of: Any = "") -> Held:
    return Held(_number(size), _text(how), _optional(str, digest), bool(shared), _text(copy_of))


def _expected(
    path: Any, staged: Any, size: Any, mode: Any, time: Any, offset: Any, how: Any, mtime_ns: Any, known: Any,
    about: Any, stream: Any, staging: Any, counts: Any,
) -> Expected:  # fmt: skip
    if type(known) is not bytes or type(about) not in (dict, type(None)) or not is_stream_name(_text(stream)):
        raise TypeError("no artifact that is expected")
    # Whoever may write to the store may write this, and has no business with our other files.
    if os.path.normpath(_text(staging)) != staging or not staging.startswith("/"):
        raise ValueError("no staging folder")
    if staging.split("/")[-2:] != [stream, STAGING]:
        raise ValueError("not the staging folder of that stream")
    said = _text(path), _text(staged), _integer(size), _integer(mode), _integer(time), _integer(offset)
    return Expected(Artifact(*said, _text(how), _integer(mtime_ns), known, about), stream, staging, bool(counts))


def _session(fields: dict[str, Any]) -> Session:
    session = Session(**fields)
    for number in (session.offset, session.start, session.status, session.end_offset, session.end or 0):
        _integer(number)
    _text(session.stream)
    _optional(str, session.reason)
    return session


def _order(fields: list[Any]) -> Order:
    time, stream, offset = fields
    return Order(_integer(time), _text(stream), _integer(offset))


def _numbers(found: dict[Any, Any]) -> dict[str, int]:
    return {_text(name): _number(number) for name, number in found.items()}


def _number(value: Any) -> int:
    if not 0 <= _integer(value) < COUNT_END:
        raise ValueError(f"not a count: {value}")
    return int(value)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"not an integer: {shown(value)}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"not a text: {shown(value)}")
    return value


def _optional(kind: type[_Kind], value: Any) -> _Kind | None:
    if value is not None and type(value) is not kind:
        raise TypeError(f"not what it should be: {shown(value)}")
    return value
