"""What the processes that this one began have logged, and the store may not have yet: a read waits for that, too.

The workers of a pool return, and their parent reads their runs: it is to find them. Looked at are the rings of the
processes that run, below this one, and the streams of those that left since it began.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from trainspool import ancestry, autostart
from trainspool.errors import SpoolError
from trainspool.spool import layout
from trainspool.spool.ringfile import RingView, read_ring
from trainspool.spool.ringfolder import ring_folder
from trainspool.spool.segmentview import SegmentView
from trainspool.stream import WAIT_POLL_S, stream

WAIT_S = 5.0


class Behind(NamedTuple):
    """A stream of another process, and how far the store has to come: an offset in it."""

    name: str
    folder: str
    ring: Path | None
    end: int


class Others:
    """What is known of the other streams of this host. Any thread may look; starts anew after a fork."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pid, self._began_ns = os.getpid(), ancestry.began_ns()
        self._ours: dict[str, bool] = {}
        self._done: set[str] = set()  # left, and all of it stored; or older than this process
        self._given_up: dict[str, int] = {}  # how far the store had come when it was waited for in vain

    def behind(self) -> list[Behind]:
        """Return the streams that the store does not have all of, up to what is logged now."""
        if self._pid != os.getpid():
            self._start()
        rings = ring_folder()
        paths = list(rings.glob(f"*{layout.RING_SUFFIX}")) if rings is not None else []
        found = [one for path in paths if path.stem != stream.id.hex() and (one := self._of_ring(path)) is not None]
        found += self._that_left({path.stem for path in paths})
        return [one for one in found if self._given_up.get(one.name, -1) != _stored(one)]

    def wait(self, behind: list[Behind]) -> bool:
        """Wait until the store has these, for WAIT_S at most; whether it has. Not where no agent carries them."""
        deadline = time.monotonic() + WAIT_S
        while behind := [one for one in behind if _stored(one) < one.end]:
            if time.monotonic() >= deadline or not stream.agent.is_coming(stream.configured()):
                self._given_up.update((one.name, _stored(one)) for one in behind)
                return False
            time.sleep(WAIT_POLL_S)
        return True

    def _of_ring(self, path: Path) -> Behind | None:
        try:
            with read_ring(path) as view:
                if view.stored >= (end := view.end) or not self._is_ours(path.stem, view):
                    return None
                about = view.identity
                folder = layout.stream_folder(str(about["spool"]), str(about["host"]), path.stem)
                return Behind(path.stem, str(folder), path, end)
        except (OSError, SpoolError, LookupError):
            return None  # it is gone, or no ring of ours

    def _is_ours(self, name: str, view: RingView) -> bool:
        known = self._ours.get(name)
        if known is None:
            pid, wall = view.identity.get("pid"), view.identity.get("wall")
            if isinstance(pid, int) and os.path.exists(f"/proc/{pid}"):
                known = ancestry.descends(pid, self._pid)
            else:  # of one that is gone nobody can say who began it; what it left comes soon
                known = isinstance(wall, int) and wall >= self._began_ns
            self._ours[name] = known
        return known

    def _that_left(self, with_rings: set[str]) -> list[Behind]:
        found = []
        parent = f"{stream.configured().spool}/{layout.STREAMS}/{layout.host_name()}"
        try:
            if os.stat(parent).st_mtime_ns < self._began_ns:
                return []  # no stream was born since
            entries = [entry for entry in os.scandir(parent) if entry.name not in self._done]
        except OSError:
            return []
        for entry in entries:
            if entry.name not in with_rings and entry.name != stream.id.hex() and layout.is_stream_name(entry.name):
                end = self._end_of(entry)
                if end and autostart.stored_offset(entry.path) < end:
                    found.append(Behind(entry.name, entry.path, None, end))
                elif end is not None:
                    self._done.add(entry.name)
        return found

    def _end_of(self, entry: os.DirEntry[str]) -> int | None:
        """Return where a stream ends; 0 if it ended before this process began, None if nobody has sealed it yet."""
        try:
            if entry.stat().st_mtime_ns < self._began_ns:
                return 0
            names = layout.segments(entry.path)
            if not names:
                return None
            segment = SegmentView(Path(entry.path), names[-1], os.stat(entry.path).st_uid)
        except (OSError, SpoolError):
            return None
        try:
            seal = segment.seal(bytes.fromhex(entry.name))
            return None if seal is None else seal.offset
        finally:
            segment.close()


def _stored(one: Behind) -> int:
    """Return how far the store has come with a stream; its ring says so while there is one."""
    if one.ring is not None:
        try:
            with read_ring(one.ring) as view:
                return view.stored
        except (OSError, SpoolError):
            pass  # its process left meanwhile
    return autostart.stored_offset(one.folder)


others = Others()
