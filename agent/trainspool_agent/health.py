"""Lag, drops, last error: for probes and for `trainspool status`.

The agent writes `health.json` beside its lock, in memory: one JSON object, replaced by rename, at most once a second.
"""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trainspool.errors import SpoolError, TrainspoolError
from trainspool_agent.store.errors import StoreRefused

FILE = "health.json"
WRITE_INTERVAL_S = 1.0
NOTES_MAX = 50


@dataclass
class StreamFacts:
    """What is known of one stream. Offsets in bytes, times in ns, lag in ms."""

    stream: str
    spool: str
    host: str
    life: str = "alive"
    pid: int | None = None
    program: str = ""
    rank: int | None = None
    written: int = 0
    stored: int = 0
    lag_ms: int = 0
    worst_lag_ms: int = 0
    events: int = 0
    points: int = 0
    open_runs: list[str] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    damages: int = 0
    damaged_events: int = 0
    damaged_points: int = 0
    unknown_tail: bool = False
    unknown_kinds: dict[int, int] = field(default_factory=dict)
    malformed: int = 0
    malformed_sample: str = ""
    error: str | None = None
    next_step: str | None = None
    held_since: int | None = None

    def hold(self, error: BaseException) -> None:
        """The stream goes no further for now, because of *error*."""
        self.error, self.next_step = explain(error)
        self.held_since = self.held_since or time.time_ns()

    def release(self) -> None:
        self.error = self.next_step = self.held_since = None


class Health:
    """Everything the agent says of itself. One task at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.agent: dict[str, Any] = {"pid": os.getpid(), "started": time.time_ns(), "spools": []}
        self.streams: dict[str, StreamFacts] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        """By store: how far the artifacts are that are on their way to it."""
        self.finished = 0
        self.notes: list[dict[str, Any]] = []
        self._written_at = 0.0
        self._last = b""

    def note(self, where: str, error: BaseException) -> None:
        """Something that belongs to no stream we carry went wrong at *where*; said once per place."""
        what, next_step = explain(error)
        self.notes = [note for note in self.notes if note["where"] != where][-NOTES_MAX + 1 :]
        self.notes.append({"where": where, "error": what, "next_step": next_step, "time": time.time_ns()})

    def clear(self, where: str) -> None:
        self.notes = [note for note in self.notes if note["where"] != where]

    def write(self, *, force: bool = False) -> None:
        """Replace the file if something changed and the last time is a second ago.

        Raises:
            OSError: it is as it was.
        """
        now = time.monotonic()
        if not force and now - self._written_at < WRITE_INTERVAL_S:
            return
        facts = {**self.agent, "finished_streams": self.finished, "notes": self.notes}
        if self.artifacts:
            facts["artifacts"] = self.artifacts
        facts["streams"] = [vars(stream) for stream in self.streams.values()]
        text = _encoded(facts)
        self._written_at = now
        if text == self._last:
            return
        temporary = f"{self.path}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(text)
        os.rename(temporary, self.path)
        self._last = text


def _encoded(facts: dict[str, Any]) -> bytes:
    """JSON: of a hundred streams once a second, a fifth of what an idle agent did while `json` made it."""
    try:
        return msgspec.json.encode(facts)
    except UnicodeEncodeError:
        return json.dumps(facts).encode()  # a name that is not UTF-8: escaped


def read(folder: Path) -> dict[str, Any] | None:
    """Return what the agent last said of itself, or None; whether it still runs is for its lock to say."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def explain(error: BaseException) -> tuple[str, str]:
    """Return what went wrong and what a person can do about it."""
    if isinstance(error, SpoolError | StoreRefused):
        return str(error), error.next_step
    if isinstance(error, OSError):
        return str(error), _next_step(error)
    if isinstance(error, TrainspoolError):
        return str(error), "trainspool status"
    return f"{type(error).__name__}: {error}", "please report it with the agent's log; the spool keeps every event"


def _next_step(error: OSError) -> str:
    where = error.filename or "the store"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"make room on the file system of {where}; the agent goes on by itself"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"let user {os.getuid()} write {where}; the agent goes on by itself"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files (ulimit -n, LimitNOFILE=)"
    return f"look at the device under {where}; the agent tries again by itself"
