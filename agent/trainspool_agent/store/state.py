"""What the store knows of one run, in memory and in its checkpoint."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from trainspool_agent import checkpoint
from trainspool_agent.store.attempts import Session, Sessions
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.fold import MetricFile
from trainspool_agent.store.layout import METRICS
from trainspool_agent.store.limits import PROBLEM_CHARACTERS_MAX, PROBLEMS_MAX
from trainspool_agent.store.points import DecodedBlocks
from trainspool_agent.store.versions import Order, Versions, Winner

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
                "problems": self.problems,
                "counts": self.counts,
                "name": self.name,
                "published": self.published,
                "provisional": self.provisional,
            }
        )


def restored(run_id: str, experiment: Experiment, saved: dict[str, Any] | None, decoded: DecodedBlocks) -> RunState:
    """Return a run's state from its checkpoint; without one it starts at position 0, and folds what it finds."""
    state = RunState(run_id, experiment, unsynced=None)
    if saved is None:
        return state
    state.serial = saved["serial"]
    state.streams = saved["streams"]
    state.counted = saved.get("counted", {})
    for key, (path, length, ms, step, unclaimed) in saved["metrics"].items():
        if path.startswith(f"{METRICS}/"):
            state.files[key] = MetricFile(f"{state.folder}/{path}", decoded, length, (int(ms), int(step)), unclaimed)
    state.params = {
        key: {value: Order(*order) for value, order in versions.items()} for key, versions in saved["params"].items()
    }
    state.tags = {key: Winner(Order(*order), digest) for key, (order, digest) in saved["tags"].items()}
    state.sessions = Sessions(Session(**session) for session in saved["sessions"])
    state.gaps = saved["gaps"]
    state.artifacts = {path: Order(*order) for path, order in saved["artifacts"].items()}
    state.problems = saved["problems"]
    state.counts.update(saved["counts"])
    state.name = saved["name"]
    state.published = Published(*saved["published"])
    state.provisional = saved["provisional"]
    return state
