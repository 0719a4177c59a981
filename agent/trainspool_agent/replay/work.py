"""Compaction ahead of the store: frames go out to worker processes, batches come back in their order.

Where batches are made does not matter, as compaction is a pure function; that they are applied in the stream's order
does. Workers also make the text of the points, which is half of all the work there is (`repr` of floats).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import msgpack

from trainspool.errors import TrainspoolError
from trainspool_agent.compact import Batch, Dictionary, EventFrame, RunRef, compact
from trainspool_agent.replay.guard import is_store

AHEAD = 3  # tasks that may wait at one worker: bounds memory
NEVER = 1 << 63
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


@dataclass(frozen=True)
class Selection:
    """Which runs' events of a stream are wanted, and from where on.

    Attributes:
        wanted: run ids; None: all.
        agents_runs: run ids that the running agent has in hand, if their recorded store is *store*.
        store: the store that is replayed to.
        carried: the agent has the whole stream in hand.
        positions: run id → stream offset up to which the store has the run's events.
    """

    wanted: frozenset[str] | None = None
    agents_runs: frozenset[str] = frozenset()
    store: str = ""
    carried: bool = False
    positions: dict[str, int] = field(default_factory=dict)

    def takes(self, run: RunRef) -> bool:
        return (self.wanted is None or run.run_id in self.wanted) and not self.is_carried(run)

    def is_carried(self, run: RunRef) -> bool:
        """Whether the run is left to the agent."""
        return (self.carried or run.run_id in self.agents_runs) and is_store(run.store, self.store)

    def position(self, run: RunRef) -> int:
        return self.positions.get(run.run_id, 0) if self.takes(run) else NEVER


class Begin(NamedTuple):
    stream: str
    selection: Selection


class Task(NamedTuple):
    definitions: bytes
    frames: list[EventFrame]


class Compactor(Protocol):
    """Frames in, batches out, in order. ``begin`` a stream, ``add`` its frames, ``finish`` it, then the next."""

    def begin(self, stream: str, selection: Selection) -> None: ...

    def add(self, task: Task) -> Iterator[Batch]:
        """Take frames; yield batches that are ready, of these frames or earlier ones."""

    def drain(self) -> Iterator[Batch]:
        """Yield the batches that are still to come of all frames added."""

    def finish(self, definitions: bytes) -> set[RunRef]:
        """Return the runs that the stream owns and has not ended. Only after ``drain``."""


class Inline:
    """Compaction in this very process: for small spools."""

    def begin(self, stream: str, selection: Selection) -> None:
        self._work = _Work(Begin(stream, selection))

    def add(self, task: Task) -> Iterator[Batch]:
        yield self._work.compact(task)

    def drain(self) -> Iterator[Batch]:
        yield from ()

    def finish(self, definitions: bytes) -> set[RunRef]:
        return self._work.open_runs(definitions)


class Workers:
    """Compaction in *count* processes. Each sees every definition, and a part of the frames. Close it."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that our threads may hold
        self._ends: list[Connection[Any, Any]] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)
        self._behind: list[bytes] = [b""] * count  # definitions that a worker has not seen yet
        self._turn = 0
        self._awaited: deque[Connection[Any, Any]] = deque()

    def begin(self, stream: str, selection: Selection) -> None:
        self._behind = [b""] * len(self._ends)
        for end in self._ends:
            self._send(end, Begin(stream, selection))

    def add(self, task: Task) -> Iterator[Batch]:
        if task.definitions:
            self._behind = [known + task.definitions for known in self._behind]
        end = self._ends[self._turn]
        self._send(end, Task(self._behind[self._turn], task.frames))
        self._behind[self._turn] = b""
        self._turn = (self._turn + 1) % len(self._ends)
        self._awaited.append(end)
        while len(self._awaited) >= AHEAD * len(self._ends) or (self._awaited and self._awaited[0].poll()):
            yield self._receive(self._awaited.popleft())

    def drain(self) -> Iterator[Batch]:
        while self._awaited:
            yield self._receive(self._awaited.popleft())

    def finish(self, definitions: bytes) -> set[RunRef]:
        for end, behind in zip(self._ends, self._behind, strict=True):
            self._send(end, behind + definitions)
        # A run's end was seen by one worker alone, so that only what all of them have open is.
        return set.intersection(*(self._receive(end) for end in self._ends))

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join()

    def _send(self, end: Connection[Any, Any], what: Any) -> None:
        try:
            end.send(what)
        except OSError as error:
            raise WorkerEnded from error

    def _receive(self, end: Connection[Any, Any]) -> Any:
        try:
            return end.recv()
        except (EOFError, OSError) as error:
            raise WorkerEnded from error


class WorkerEnded(TrainspoolError):
    """A worker process is gone: killed by someone, or for its memory."""

    def __str__(self) -> str:
        return "a worker process was killed. Kept: all that is in the store. Next: the same command again"


class _Work:
    """One stream's part in one process."""

    def __init__(self, begin: Begin) -> None:
        self._begin, self._dictionary = begin, Dictionary()

    def compact(self, task: Task) -> Batch:
        self._learn(task.definitions)
        return compact(task.frames, self._dictionary, self._begin.stream, self._begin.selection.position)

    def open_runs(self, definitions: bytes) -> set[RunRef]:
        self._learn(definitions)
        runs = self._dictionary.runs
        return {runs[number] for number in self._dictionary.open_owned()}

    def _learn(self, definitions: bytes) -> None:
        with contextlib.suppress(*_MALFORMED):  # whoever reads the stream counts them
            self._dictionary.learn(definitions)


def _serve(end: Connection[Any, Any]) -> None:
    """A worker's life: until its pipe closes. Tasks are taken in by a thread, so that neither side waits for both."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that owns us
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_take_in, args=(end, tasks), daemon=True).start()
    work: _Work | None = None
    while (task := tasks.get()) is not None:
        if isinstance(task, Begin):
            work = _Work(task)
            continue
        assert work is not None
        answer = work.compact(task) if isinstance(task, Task) else work.open_runs(task)
        try:
            end.send(answer)
        except OSError:
            return


def _take_in(end: Connection[Any, Any], tasks: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            tasks.put(end.recv())
    tasks.put(None)
