"""What became of everything a run logged: its checkpoint in the store, and what is still on its way there.

From offsets and counts, never estimated. Counts are of metric points, other events beside them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainspool.spool import events as ev
from trainspool.spool.items import Damage
from trainspool_agent import checkpoint
from trainspool_agent.liveness import boot_id
from trainspool_agent.look import artifacts
from trainspool_agent.look.findrun import RunAt, runs_in
from trainspool_agent.look.spool import SeenStream
from trainspool_agent.look.waiting import waiting
from trainspool_agent.store import meta
from trainspool_agent.store.attempts import Sessions, outcome
from trainspool_agent.store.changes import Artifact, RunChanges
from trainspool_agent.store.layout import META

KEYS = ("accepted", "stored", "folded", "dropped", "damaged", "unknown_tail", "worst_lag_ms")


@dataclass
class _Waiting:
    """What the spool and rings hold of the run that the store does not have yet."""

    points: int = 0
    events: int = 0
    damaged_points: int = 0
    damaged_events: int = 0
    artifacts: list[Artifact] = field(default_factory=list)
    sessions: Sessions = field(default_factory=Sessions)


def run_facts(run: RunAt, streams: list[SeenStream]) -> dict[str, Any]:
    """Return what is known of *run*, its ``account`` among it, as a JSON object.

    Args:
        streams: of every spool that may hold a part of it.
    """
    saved = _saved(run.folder)
    counts, positions = saved.get("counts", {}), saved.get("streams", {})
    gaps = {name: list(gap) for name, gap in saved.get("gaps", {}).items()}
    found, parts = _Waiting(), []
    for seen in streams:
        if seen.name in positions or (not seen.finished and any(one.run_id == run.run_id for one in runs_in(seen))):
            parts.append(_part(seen, positions.get(seen.name, 0)))
            if not seen.finished:
                _add_waiting(found, gaps, run.run_id, seen, positions.get(seen.name, 0))
    known = {part["stream"] for part in parts}
    parts += [{"stream": name, "life": "no longer in the spool"} for name in positions if name not in known]
    dropped_points, dropped_events = (sum(gap[index] for gap in gaps.values()) for index in (0, 1))
    unknown = bool(counts.get("unknown_tail")) or any(part.get("unknown_tail") for part in parts)
    account = {
        "accepted": counts.get("accepted", 0) + found.points + found.damaged_points,
        "stored": counts.get("stored", 0),
        "folded": counts.get("folded", 0),
        "dropped": dropped_points,
        "damaged": counts.get("damaged", 0) + found.damaged_points,
        "unknown_tail": unknown,
        "worst_lag_ms": counts.get("worst_lag_ms", 0),
    }
    return {
        **_about(run, found),
        "account": account,
        "waiting": {"points": found.points, "events": found.events},
        "refused": {"points": counts.get("refused", 0), "events": counts.get("refused_events", 0)},
        "other_events": {
            "accepted": counts.get("other_events", 0) + found.events,
            "dropped": dropped_events,
            "damaged": counts.get("damaged_events", 0) + found.damaged_events,
        },
        "artifacts": artifacts.counted(artifacts.state_of(run, saved or None), found.artifacts),
        "problems": list(saved.get("problems", [])),
        "streams": parts,
    }


def needs_a_person(facts: dict[str, Any]) -> bool:
    """Whether anything a run logged did not arrive, or may not have."""
    account, refused = facts["account"], facts["refused"]
    lost = account["dropped"] or account["damaged"] or account["unknown_tail"]
    return bool(lost or facts["problems"] or any(refused.values()))


def is_complete(facts: dict[str, Any]) -> bool:
    """Whether the store has the run's end and all that the spool has of it."""
    waits = facts["waiting"]["points"] or facts["waiting"]["events"] or facts["artifacts"]["waiting"]
    return facts["in_store"] and facts["status"] in ("FINISHED", "FAILED", "KILLED") and not waits


def _saved(folder: Path | None) -> dict[str, Any]:
    return (checkpoint.load(str(folder), boot_id()) if folder is not None else None) or {}


def _part(seen: SeenStream, position: int) -> dict[str, Any]:
    return {
        "stream": seen.name,
        "host": seen.place.host,
        "life": seen.life,
        "pid": seen.identity.get("pid"),
        "program": seen.identity.get("program"),
        "rank": seen.identity.get("rank"),
        "end": seen.end,
        "in_store": seen.end if seen.finished else position,
        "unknown_tail": seen.unknown_tail,
        "folder": str(seen.place.folder),
    }


def _add_waiting(found: _Waiting, gaps: dict[str, list[int]], run_id: str, seen: SeenStream, begin: int) -> None:
    for part in waiting(run_id, seen, begin):
        if isinstance(part, Damage):
            found.damaged_points += part.points
            found.damaged_events += part.events
        else:
            _add(found, gaps, seen.name, part)
    if run_id in seen.dropped:
        _drop(gaps, seen.name, *seen.dropped[run_id])


def _add(found: _Waiting, gaps: dict[str, list[int]], stream: str, changes: RunChanges) -> None:
    found.points += changes.point_count
    found.events += changes.other_events
    found.artifacts += changes.artifacts
    if changes.gap is not None:
        _drop(gaps, stream, changes.gap.points, changes.gap.events)
    for start in changes.starts:
        found.sessions.started(stream, start)
    for end in changes.ends:
        found.sessions.ended(stream, end)
    if changes.epitaph is not None:
        found.sessions.epitaph(stream, changes.epitaph)


def _drop(gaps: dict[str, list[int]], stream: str, points: int, events: int) -> None:
    """Both are totals since the stream's birth, so the larger one is the later one."""
    known = gaps.get(stream, [0, 0])
    gaps[stream] = [max(known[0], points), max(known[1], events)]


def _about(run: RunAt, found: _Waiting) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if run.folder is not None:
        with contextlib.suppress(OSError, meta.UnreadableMeta):
            values = meta.read(run.folder / META)
    spooled = outcome(found.sessions)
    status = values.get("status", spooled.status if spooled else None)
    return {
        "run_id": run.run_id,
        "name": values.get("run_name", run.name),
        "status": ev.STATUS_NAMES.get(status) if isinstance(status, int) else None,
        "lifecycle": values.get("lifecycle_stage"),
        "in_store": run.folder is not None,
        "store": run.store,
        "path": str(run.folder) if run.folder else None,
        "experiment_id": str(values["experiment_id"]) if "experiment_id" in values else None,
        "experiment": _experiment(run),
        "start_time": values.get("start_time", spooled.start_ms if spooled else None),
        "end_time": values.get("end_time", spooled.end_ms if spooled else None),
    }


def _experiment(run: RunAt) -> str | None:
    if run.folder is not None:
        with contextlib.suppress(OSError, meta.UnreadableMeta):
            return str(meta.read(run.folder.parent / META).get("name"))
    return run.ref.experiment_name if run.ref else None
