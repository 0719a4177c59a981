"""What a spool and its rings hold, found without an agent; nothing is changed, nobody's lock is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from trainspool.errors import SpoolError
from trainspool.spool import layout, lock
from trainspool.spool.ringfile import HEADER_BYTES, RingView, read_ring
from trainspool.spool.ringfolder import agent_folder
from trainspool_agent import cursor, discover, liveness
from trainspool_agent.discover import Place
from trainspool_agent.liveness import Process
from trainspool_agent.look.frames import StreamFrames
from trainspool_agent.look.walk import segment_end

LIVE, DEAD, ENDED, UNKNOWN = "live", "dead", "ended", "unknown"
_UNREADABLE = (OSError, SpoolError, ValueError, TypeError, msgpack.exceptions.UnpackException)


@dataclass
class SeenStream:
    """One stream as it stands. Offsets and sizes in bytes.

    Attributes:
        life: ``live``; ``dead``: its process is gone and nobody has finished the stream; ``ended``; ``unknown``:
            another host's or container's, and not sealed.
        written: in segments; ``end``: behind the last committed event, ring included.
        stored: everything before it is in the store; the agent's word, from ring or cursor.
        dropped: run id → (points, events), totals since the stream's birth; known while it has a ring.
    """

    place: Place
    identity: dict[str, Any] = field(default_factory=dict)
    rings: list[Path] = field(default_factory=list)
    life: str = UNKNOWN
    segments: int = 0
    spool_bytes: int = 0
    written: int = 0
    end: int = 0
    stored: int = 0
    events: int = 0
    points: int = 0
    ring_bytes: int | None = None
    dropped: dict[str, tuple[int, int]] = field(default_factory=dict)
    damaged_points: int = 0
    damaged_events: int = 0
    unknown_tail: bool = False
    sealed: bool = False
    finished: bool = False
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def in_ring(self) -> int:
        return self.end - self.written

    @property
    def waiting(self) -> int:
        """Bytes that are not in the store yet."""
        return 0 if self.finished else max(0, self.end - self.stored)

    def frames(self, begin: int = 0) -> StreamFrames:
        return StreamFrames(self.place.folder, self.place.stream, self.rings, begin)


def ring_places() -> tuple[Path | None, list[discover.Ring]]:
    """Return the agent's folder, where rings are, and the rings in it; None if it cannot be had."""
    try:
        folder = agent_folder()
    except OSError:
        return None, []
    return folder, discover.rings(folder)


def spools_in_use(chosen: Path | None, default: Path) -> list[Path]:
    """Return *chosen* alone, else the default spool and those that rings and ringless processes point to."""
    if chosen is not None:
        return [chosen]
    folder, rings = ring_places()
    pointed = discover.pointed_spools(folder) if folder else []
    return list(dict.fromkeys([default, *(ring.place.spool for ring in rings), *pointed]))


def seen_streams(spool: Path) -> list[SeenStream]:
    """Return every stream of *spool*, of all hosts, those that are in a ring alone among them."""
    rings: dict[Place, Path] = {ring.place: ring.path for ring in ring_places()[1] if ring.place.spool == spool}
    places = dict.fromkeys([*_places(spool), *rings])
    return [look_at(place, rings.get(place)) for place in sorted(places)]


def _places(spool: Path) -> Iterator[Place]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for host in sorted(os.listdir(spool / layout.STREAMS)):
            if layout.is_safe_name(host):
                yield from discover.streams(spool, host)


def look_at(place: Place, ring: Path | None = None) -> SeenStream:
    """Return what is known of one stream; what cannot be read is named in ``trouble``."""
    seen = SeenStream(place)
    if ring is not None:
        seen.rings.append(ring)
    try:
        if place.folder.is_dir():
            discover.check_folder(place)
            seen.identity = discover.read_identity(place.folder) or {}
            _look_at_segments(seen)
            _look_at_cursor(seen)
    except (OSError, SpoolError) as error:
        seen.trouble = str(error)
    recorded = seen.identity.get("ring")
    if isinstance(recorded, str) and recorded.endswith(f"/{place.name}{layout.RING_SUFFIX}"):
        seen.rings.append(Path(recorded))
    has_ring = _look_at_ring(seen)
    seen.life = _life(seen, has_ring)
    # Sealed means drained. A dead process's ring that is gone, and no seal, leaves an end that nobody knows.
    seen.unknown_tail = seen.unknown_tail or (seen.life == DEAD and not has_ring and not seen.sealed)
    return seen


def _look_at_segments(seen: SeenStream) -> None:
    names = layout.segments(seen.place.folder)
    seen.segments = len(names)
    for name in names:
        with contextlib.suppress(OSError):
            seen.spool_bytes += os.stat(seen.place.folder / str(name)).st_size
    for name in reversed(names):
        end = segment_end(seen.place.folder / str(name))
        if end is not None:
            seen.sealed = seen.sealed or (end.sealed and name == names[-1])
            seen.written = seen.end = max(seen.end, end.offset)
        if end is not None and end.counted:
            seen.events, seen.points = end.events, end.points
            return


def _look_at_cursor(seen: SeenStream) -> None:
    known = cursor.load(seen.place.folder)
    seen.finished, seen.unknown_tail = known.finished, known.unknown_tail
    seen.stored = known.offset
    seen.damaged_points, seen.damaged_events = known.damaged_points, known.damaged_events


def _look_at_ring(seen: SeenStream) -> bool:
    for path in seen.rings:
        with contextlib.suppress(*_UNREADABLE):
            view = read_ring(path)
            with contextlib.closing(view):
                if view.stream == seen.place.stream:
                    _take_ring(seen, view)
                    return True
    return False


def _take_ring(seen: SeenStream, view: RingView) -> None:
    seen.identity = seen.identity or view.identity
    seen.end = max(seen.end, view.end)
    seen.written = max(seen.written, min(view.head, seen.end))
    seen.stored = max(seen.stored, view.stored)
    seen.ring_bytes = os.fstat(view.fd).st_size - HEADER_BYTES
    seen.dropped = view.drops


def _life(seen: SeenStream, has_ring: bool) -> str:
    if seen.finished or (seen.sealed and not has_ring):
        return ENDED
    process = liveness.process_of(seen.identity) if seen.identity else Process.ELSEWHERE
    if process is Process.ELSEWHERE:
        return _life_by_lock(seen)
    return LIVE if process is Process.RUNS else DEAD


def _life_by_lock(seen: SeenStream) -> str:
    """Another container's process, or another boot's: its lock can tell, if this is its host."""
    if seen.place.host != layout.host_name():
        return UNKNOWN
    held = lock.is_held(seen.place.folder / layout.LOCK)
    return UNKNOWN if held is None else LIVE if held else DEAD


def matching(streams: list[SeenStream], text: str) -> list[SeenStream]:
    """Return the streams whose id begins with *text*."""
    return [seen for seen in streams if seen.name.startswith(text.lower())]
