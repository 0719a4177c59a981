"""A stream made by hand: small verbs that append events, and the frames they make."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from trainspool.spool import events as ev
from trainspool_agent.compact import Batch, Dictionary, EventFrame, compact
from trainspool_agent.store.writer import FileStore

BOOT = "11111111-2222-3333-4444-555555555555"
T0 = 1_700_000_000_000_000_000
_streams = itertools.count(1)


class Stream:
    """Events of one process; ``frame()`` closes a frame, ``frames`` has them all."""

    def __init__(self, stream: str | None = None) -> None:
        self.id = stream or f"{next(_streams):032x}"
        self.frames: list[EventFrame] = []
        self._open: list[bytes] = []
        self._end = 0
        self._ids: dict[Any, int] = {}
        self.now = T0

    def event(self, *elements: Any) -> None:
        self._open.append(ev.pack(*elements))

    def raw(self, data: bytes) -> None:
        self._open.append(data)

    def frame(self) -> EventFrame:
        data = b"".join(self._open)
        made = EventFrame(self._end, self._end + len(data), data)
        self._open, self._end = [], made.end
        self.frames.append(made)
        return made

    def run(
        self, run_id: str, experiment: str | None = "exp", owner: bool = True, experiment_id: str | None = None
    ) -> int:
        number = self._ids.setdefault((run_id, owner), len(self._ids))
        self.event(ev.DEFINE_RUN, number, run_id, owner, "/store", experiment_id, experiment)
        return number

    def key(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = len(self._ids)
            self.event(ev.DEFINE_KEY, self._ids[name], name)
        return self._ids[name]

    def start(self, run: int, name: str | None = "a run", *, resume: bool = False, **tags: str) -> None:
        about = {"name": name, "user": "me", "tags": {"mlflow.user": "me", **tags}, "resume": resume}
        self.event(ev.START, run, self.tick(), about)

    def end(self, run: int, status: int = ev.FINISHED, reason: str | None = None) -> None:
        self.event(ev.END, run, self.tick(), status, reason)

    def point(self, run: int, key: str, value: float, step: int = 0, time: int | None = None) -> None:
        number = self.key(key)
        self.event(ev.POINT, run, number, self.tick() if time is None else time, step, value)

    def points(self, run: int, values: dict[str, float], step: int = 0, time: int | None = None) -> None:
        keys = [self.key(key) for key in values]
        packed = ev.doubles(len(values)).pack(*values.values())
        self.event(ev.POINTS, run, keys, self.tick() if time is None else time, step, packed)

    def params(self, run: int, time: int | None = None, **params: str) -> None:
        flat = [text for pair in params.items() for text in pair]
        self.event(ev.PARAMS, run, self.tick() if time is None else time, flat)

    def tags(self, run: int, tags: dict[str, str | None], time: int | None = None) -> None:
        flat = [text for pair in tags.items() for text in pair]
        self.event(ev.TAGS, run, self.tick() if time is None else time, flat)

    def artifact(self, run: int, path: str, staged: str, size: int = 0) -> None:
        self.event(ev.ARTIFACT, run, self.tick(), path, staged, size, 0o644)

    def media(self, run: int, path: str, staged: str, size: int, *, time: int | None = None, **about: Any) -> None:
        self.event(ev.MEDIA, run, self.tick() if time is None else time, path, staged, size, about)

    def dataset(self, run: int, *, time: int | None = None, tags: dict[str, str] | None = None, **more: Any) -> None:
        about = {
            "name": "digits",
            "digest": "5e1f",
            "source_type": "local",
            "source": "{}",
            "schema": None,
            "profile": None,
        }
        flat = [text for pair in (tags or {}).items() for text in pair]
        self.event(ev.INPUT, run, self.tick() if time is None else time, {**about, **more}, flat)

    def epitaph(self, status: int = ev.KILLED, reason: str | None = "killed by signal 9") -> None:
        self.event(ev.EPITAPH, self.tick(), status, reason)

    def tick(self) -> int:
        self.now += 7_000_000
        return self.now


def open_store(root: Path, boot: str = BOOT) -> FileStore:
    return FileStore(root, boot_id=boot)


async def feed_async(
    store: FileStore, stream: Stream, staging: Path, *, frames: list[EventFrame] | None = None,
    dictionary: Dictionary | None = None, size: int = 1,
) -> list[Batch]:  # fmt: skip
    """Carry *frames* of *stream* into *store*, *size* frames a batch, as the agent does."""
    dictionary = dictionary or Dictionary()
    batches = []
    todo = stream.frames if frames is None else frames
    for at in range(0, len(todo), size):
        batch = compact(todo[at : at + size], dictionary, stream.id, lambda run: store.position(run, stream.id))
        for change in batch.experiments:
            await store.apply_experiment(change)
        for run, changes in batch.runs.items():
            await store.apply(run, changes, stream.id, batch.end, staging)
        batches.append(batch)
    await store.handover.finish()
    return batches


def feed(store: FileStore, stream: Stream, staging: Path = Path("/nonexistent"), **how: Any) -> list[Batch]:
    return asyncio.run(feed_async(store, stream, staging, **how))


_OURS = (".trainspool", "trainspool.applied", "trainspool.durable", "trainspool.lease", "trainspool.lease.wanted")


def contents(root: Path, without: tuple[str, ...] = _OURS) -> dict[str, bytes]:
    """Return every file below *root* and its bytes, our own bookkeeping left out."""
    found = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not any(part in without for part in parts):
            found["/".join(parts)] = path.read_bytes()
    return found
