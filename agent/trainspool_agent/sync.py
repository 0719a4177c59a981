"""Carry over what is there, orphans included, then leave; or wait until the running agent has.

Then the same for the streams of other hosts in these spools, where their host has no agent: see ``takeover``.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainspool.spool import layout
from trainspool.spool.ringfolder import agent_folder, ring_folder
from trainspool_agent import cursor as cursors
from trainspool_agent import discover, health
from trainspool_agent.agentlock import AgentRunning, running_agent
from trainspool_agent.daemon import Agent
from trainspool_agent.discover import Place
from trainspool_agent.liveness import Life
from trainspool_agent.settings import Settings
from trainspool_agent.store.handover import Handover
from trainspool_agent.tail import Stream
from trainspool_agent.takeover import TakenStream, Takeover

POLL_INTERVAL_S = 0.2
HELD_PATIENCE_S = 3.0
STALLED_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Progress:
    """How far it is, in bytes of events and artifacts, and metric points; *artifacts* are still on their way."""

    done_bytes: int
    total_bytes: int
    points: int
    artifacts: int = 0


@dataclass(frozen=True)
class Problem:
    """Something that could not be carried, why, and what to do."""

    where: str
    what: str
    next_step: str


@dataclass(frozen=True)
class Others:
    """What became of other hosts' streams.

    Attributes:
        hosts: whose streams are not finished.
        streams: how many were carried up to now, as far as they can be read from here.
        left: how many their own host's agent carries.
        unread: how many end in something that cannot be read, yet.
    """

    hosts: list[str] = field(default_factory=list)
    streams: int = 0
    left: int = 0
    unread: int = 0
    bytes: int = 0
    points: int = 0


@dataclass(frozen=True)
class Report:
    """What a sync came to; of this host's streams, but for *others* and the problems."""

    streams: int = 0
    live: int = 0
    bytes: int = 0
    points: int = 0
    artifacts: int = 0
    artifact_bytes: int = 0
    seconds: float = 0.0
    by_agent: int | None = None
    """The pid of the agent that did it, None if this process did."""
    problems: list[Problem] = field(default_factory=list)
    others: Others = Others()
    stopped: bool = False
    """It was told to stop before the end."""


def sync(settings: Settings, spools: tuple[Path, ...], progress: Callable[[Progress], None]) -> Report:
    """Return when all that was there at the start is in the store, or cannot be.

    Args:
        settings: of the agent this process is for the while.
        spools: to carry beside the one in the settings.
        progress: called several times a second.

    Raises:
        OSError: the agent's folder cannot be used.
    """
    begun = time.monotonic()
    report = _of_this_host(settings, spools, progress, begun)
    if report.stopped:
        return report
    others, problems, stopped = _of_others(settings, spools, progress)
    took_s = time.monotonic() - begun
    return replace(report, others=others, problems=[*report.problems, *problems], seconds=took_s, stopped=stopped)


def _of_this_host(
    settings: Settings, spools: tuple[Path, ...], progress: Callable[[Progress], None], begun: float
) -> Report:
    while True:
        about = running_agent()
        try:
            if about is None:
                return _carry(settings, spools, progress, begun)
        except AgentRunning as error:
            about = error.about
        report = _wait(settings, spools, progress, begun, about)
        if report is not None:
            return report


def _carry(settings: Settings, spools: tuple[Path, ...], progress: Callable[[Progress], None], begun: float) -> Report:
    """Be the agent until everything is carried."""
    ends: dict[Place, int] = {}
    begins: dict[Place, int] = {}
    seen: dict[Place, Stream] = {}
    handovers: dict[str, Handover] = {}

    def look(agent: Agent) -> None:
        handovers.update(agent.stores.handovers())
        for place, stream in agent.streams.items():
            if place not in seen:
                seen[place] = stream
                begins[place], ends[place] = stream.cursor.offset, discover.stream_end(place)
        progress(_with_artifacts(_progress(seen, begins, ends), agent.health.artifacts))

    agent = Agent(settings, spools=spools, until_done=True, on_tick=look)
    asyncio.run(agent.run())
    look(agent)
    live = [stream for stream in seen.values() if stream.liveness.life is Life.ALIVE and not stream.ended]
    last = _progress(seen, begins, ends)
    problems = [problem for stream in seen.values() for problem in _problems_of(stream)]
    problems += [Problem(note["where"], note["error"], note["next_step"]) for note in agent.health.notes]
    problems += _waiting(agent.health.artifacts)
    counts, size = (sum(counts) for counts in zip((0, 0), *(one.published for one in handovers.values()), strict=True))
    seconds = time.monotonic() - begun
    counted = len(seen), len(live), last.done_bytes, last.points, counts, size, seconds
    return Report(*counted, None, problems, stopped=agent.stopped)


def _of_others(
    settings: Settings, spools: tuple[Path, ...], progress: Callable[[Progress], None]
) -> tuple[Others, list[Problem], bool]:
    """Carry the streams of hosts without an agent; return what became of them, and whether we were told to stop."""
    seen: dict[Place, TakenStream] = {}

    def look() -> None:
        begins = {place: stream.begin_offset for place, stream in seen.items()}
        progress(_progress(seen, begins, {place: stream.end_offset for place, stream in seen.items()}))

    takeover = Takeover(settings, (settings.spool, *spools), look)
    seen = takeover.streams
    asyncio.run(takeover.run())
    taken = [stream for stream in seen.values() if not stream.left_to_agent]
    problems = [problem for stream in taken for problem in _problems_of(stream)]
    problems += [Problem(*problem) for problem in takeover.problems]
    others = Others(
        sorted({place.host for place in seen}),
        len(taken),
        len(seen) - len(taken),
        sum(stream.unread_bytes > 0 for stream in taken),
        sum(stream.cursor.offset - stream.begin_offset for stream in taken),
        sum(stream.facts.points for stream in taken),
    )
    return others, problems, takeover.stopped


def _progress(seen: Mapping[Place, Stream], begins: dict[Place, int], ends: dict[Place, int]) -> Progress:
    done = sum(max(0, stream.cursor.offset - begins[place]) for place, stream in seen.items())
    total = sum(max(ends[place], stream.cursor.offset) - begins[place] for place, stream in seen.items())
    return Progress(done, max(done, total), sum(stream.facts.points for stream in seen.values()))


def _with_artifacts(so_far: Progress, artifacts: dict[str, dict[str, Any]]) -> Progress:
    done, size, waiting = (sum(one[key] for one in artifacts.values()) for key in ("done_bytes", "bytes", "waiting"))
    return Progress(so_far.done_bytes + done, so_far.total_bytes + size, so_far.points, waiting)


def _waiting(artifacts: dict[str, dict[str, Any]]) -> list[Problem]:
    """Artifacts that did not come to their place, by store, and why."""
    return [
        Problem(store, f"{about['waiting']} artifacts wait: {about['error'] or _LATE}", about["next_step"] or _LOOK)
        for store, about in artifacts.items()
    ]


def _problems_of(stream: Stream) -> list[Problem]:
    facts, where = stream.facts, str(stream.folder)
    found = []
    if facts.error is not None:
        found.append(Problem(where, facts.error, facts.next_step or _LOOK))
    if facts.damages or facts.damaged_events:
        lost = f"{facts.damaged_events} events with {facts.damaged_points} points"
        what = f"damaged in {facts.damages} places: {lost} are lost; the rest is stored"
        found.append(Problem(where, what, f"trainspool verify {where}"))
    if facts.unknown_kinds:
        what = f"events of kinds {sorted(facts.unknown_kinds)} are of a newer trainspool; they stay in the spool"
        found.append(Problem(where, what, "pip install --upgrade 'trainspool[agent]'"))
    if facts.malformed:
        what = f"{facts.malformed} events are malformed: {facts.malformed_sample}"
        found.append(Problem(where, what, f"trainspool verify {where}"))
    return found


# -- the agent does it


def _wait(
    settings: Settings,
    spools: tuple[Path, ...],
    progress: Callable[[Progress], None],
    begun: float,
    about: dict[str, object],
) -> Report | None:
    """Wait for the running agent to carry what is there now; None if it is gone before."""
    folder = agent_folder()
    everything = (settings.spool, *spools)
    for spool in everything:
        if str(spool) not in (about.get("spools") or ()):  # type: ignore[operator]
            _point_to(folder, spool)
    wanted = _wanted(everything)
    starts = {place: _reached(place, {}) for place in wanted}
    moved_at, last = time.monotonic(), None
    while True:
        facts, artifacts = _facts(folder)
        reached = {place: min(end, _reached(place, facts)) for place, end in wanted.items()}
        done = sum(reached.values()) - sum(min(starts[place], end) for place, end in wanted.items())
        total = sum(max(0, end - starts[place]) for place, end in wanted.items())
        progress(_with_artifacts(Progress(done, total, 0), artifacts))
        behind = [place for place, end in wanted.items() if reached[place] < end]
        so_far = done, [(one["waiting"], one["done_bytes"]) for one in artifacts.values()]
        if so_far != last:
            moved_at, last = time.monotonic(), so_far
        problems = [_why_behind(place, facts) for place in behind] + _waiting(artifacts)
        stalled_s = time.monotonic() - moved_at
        held = bool(problems) and not any(problem.what.endswith(_LATE) for problem in problems)
        if not problems or (held and stalled_s > HELD_PATIENCE_S) or stalled_s > STALLED_PATIENCE_S:
            pid = about.get("pid")
            live = sum(facts.get(place.name, {}).get("life") == "alive" for place in wanted)
            by_agent = pid if isinstance(pid, int) else 0
            return Report(
                len(wanted), live, done, seconds=time.monotonic() - begun, by_agent=by_agent, problems=problems
            )
        if running_agent() is None:
            return None
        time.sleep(POLL_INTERVAL_S)


_LATE = "the agent has not carried it yet"
_LOOK = "trainspool status"


def _why_behind(place: Place, facts: dict[str, dict[str, object]]) -> Problem:
    about = facts.get(place.name, {})
    error, next_step = about.get("error"), about.get("next_step")
    return Problem(str(place.folder), str(error or _LATE), str(next_step or _LOOK))


def _wanted(spools: tuple[Path, ...]) -> dict[Place, int]:
    """Every stream of this host that is not finished, and where it ends now."""
    host, rings = layout.host_name(), ring_folder()
    places = {place for spool in spools for place in discover.streams(spool, host)}
    if rings is not None:
        places |= {ring.place for ring in discover.rings(rings) if ring.place.host == host}
    return {place: discover.stream_end(place) for place in sorted(places) if not cursors.load(place.folder).finished}


def _reached(place: Place, facts: dict[str, dict[str, object]]) -> int:
    stored, cursor = facts.get(place.name, {}).get("stored"), cursors.load(place.folder)
    # What the agent says in its health file has the artifacts beside it; the cursor may be of later.
    return max(stored if isinstance(stored, int) else 0, cursor.offset if cursor.finished else cursor.stored)


def _facts(folder: Path) -> tuple[dict[str, dict[str, object]], dict[str, dict[str, Any]]]:
    """What the agent says of its streams, and of the artifacts on their way to its stores."""
    said = health.read(folder) or {}
    return {stream["stream"]: stream for stream in said.get("streams", [])}, said.get("artifacts", {})


def _point_to(folder: Path, spool: Path) -> None:
    """Let the running agent know of a spool, as processes without a ring file do."""
    pointers = folder / discover.POINTERS
    pointers.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.blake2b(str(spool).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    (pointers / f"{name}{discover.POINTER_SUFFIX}").write_bytes(str(spool).encode("utf-8", "surrogateescape"))
