"""Sessions → attempts → the run's status; pure.

A session is one stream's ``start_run`` … end of a run. Sessions that overlap in time are one attempt. The run shows its
latest attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainspool.spool.events import FAILED, FINISHED, KILLED, RUNNING
from trainspool_agent.store.changes import End, Start
from trainspool_agent.store.limits import SESSIONS_MAX


@dataclass(slots=True)
class Session:
    """One owner's part in a run; *offset* is where its start event ends in *stream*. Times in ns."""

    stream: str
    offset: int
    start: int
    end: int | None = None
    status: int = RUNNING
    reason: str | None = None
    end_offset: int = 0
    by_epitaph: bool = False


class Outcome(NamedTuple):
    """What a run's sessions say about it; times in ms."""

    status: int
    start_ms: int
    end_ms: int | None
    reason: str | None


def outcome(sessions: Iterable[Session]) -> Outcome | None:
    """Return the run's status from all its *sessions*, in whatever order they came; None if there are none."""
    ordered = sorted(sessions, key=lambda session: (session.start, session.stream, session.offset))
    if not ordered:
        return None
    latest = _latest_attempt(ordered)
    start_ms = ordered[0].start // 1_000_000
    if any(session.end is None for session in latest):
        return Outcome(RUNNING, start_ms, None, None)
    end_ms = max(session.end or 0 for session in latest) // 1_000_000
    for status in (FAILED, KILLED):
        # The first to fail says why: the others often fell with it.
        failed = [session for session in latest if session.status == status]
        if failed:
            first = min(failed, key=lambda session: (session.end or 0, session.stream, session.offset))
            return Outcome(status, start_ms, end_ms, first.reason)
    return Outcome(FINISHED, start_ms, end_ms, None)


def _latest_attempt(ordered: Sequence[Session]) -> list[Session]:
    attempt: list[Session] = []
    until: float = float("-inf")
    for session in ordered:
        if session.start > until:
            attempt, until = [], float("-inf")
        attempt.append(session)
        until = max(until, float("inf") if session.end is None else session.end)
    return attempt


class Sessions:
    """The sessions of one run: takes starts and ends in any order of streams, each stream's own in order."""

    def __init__(self, known: Iterable[Session] = ()) -> None:
        self._by_start = {(session.stream, session.offset): session for session in known}
        self.refused = 0

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_start.values())

    def started(self, stream: str, start: Start) -> None:
        key = (stream, start.offset)
        if key in self._by_start:
            return
        if len(self._by_start) >= SESSIONS_MAX and not self._forget_one():
            self.refused += 1
            return
        self._by_start[key] = Session(stream, start.offset, start.time)

    def ended(self, stream: str, end: End) -> None:
        """Of what is open the latest ends; nothing open: the last explicit end counts. Ends without a start don't."""
        begun = [s for s in self._by_start.values() if s.stream == stream and s.offset < end.offset]
        if any(s.end_offset == end.offset and not s.by_epitaph for s in begun):
            return  # it comes again
        opened = [s for s in begun if s.end is None or s.by_epitaph]
        if begun:
            session = max(opened or begun, key=lambda session: session.offset)
            if opened or session.end_offset <= end.offset:
                _close(session, end, by_epitaph=False)

    def epitaph(self, stream: str, end: End) -> None:
        """The process is gone: whatever it had open ends so."""
        for session in self._by_start.values():
            if session.stream == stream and session.offset < end.offset and session.end is None:
                _close(session, end, by_epitaph=True)

    def _forget_one(self) -> bool:
        """Drop an ended session that decides nothing: neither the first nor of the latest attempt."""
        ordered = sorted(self._by_start.values(), key=lambda s: (s.start, s.stream, s.offset))
        latest = {(s.stream, s.offset) for s in _latest_attempt(ordered)}
        for session in ordered[1:]:
            if session.end is not None and (session.stream, session.offset) not in latest:
                del self._by_start[session.stream, session.offset]
                return True
        return False


def _close(session: Session, end: End, *, by_epitaph: bool) -> None:
    session.end, session.status, session.reason = max(end.time, session.start), end.status, end.reason
    session.end_offset, session.by_epitaph = end.offset, by_epitaph
