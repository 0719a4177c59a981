"""One stream on its way through a replay: its frames become batches, and what there is to say of it at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from trainspool.spool.items import Damage
from trainspool_agent.compact import Batch, Dictionary, EventFrame, compact
from trainspool_agent.health import explain
from trainspool_agent.replay.guard import Carried
from trainspool_agent.replay.selection import Selection
from trainspool_agent.replay.source import Parts, Source

BATCH_BYTES = 192 << 10  # of events
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


@dataclass(frozen=True)
class Note:
    """Something a person should know; a *problem* if the store is not all that the spools could give."""

    where: str
    what: str
    next_step: str
    problem: bool = True


class ReplayedStream:
    """One stream's frames and batches."""

    def __init__(self, source: Source, selection: Selection, cuts: set[int]) -> None:
        """*cuts*: stream offsets that no batch is to span."""
        self.source, self.selection, self.parts = source, selection, Parts(source)
        self.dictionary = Dictionary()
        self.damages: list[Damage] = []
        self.refused: dict[str, Exception] = {}
        self._cuts = cuts
        self._frames: list[EventFrame] = []
        self._bytes = self._malformed = 0
        self._sample = ""
        self._unknown: set[int] = set()
        self._epitaph = False

    def learn(self, definitions: bytes) -> None:
        try:
            self.dictionary.learn(definitions)
        except _MALFORMED as error:
            self._malformed += 1
            self._sample = self._sample or str(error)[:160]

    def add(self, frame: EventFrame) -> Iterator[Batch]:
        """Take a frame; yield a batch when enough have come. None spans a position: what is in the store stays out.

        A position is inside a frame if what is a frame now was in a ring when it was replayed before.
        """
        begin = frame.offset
        for end in (*sorted(cut for cut in self._cuts if begin < cut < frame.end), frame.end):
            events = frame.events[begin - frame.offset : end - frame.offset]
            self._frames.append(EventFrame(begin, end, events))
            self._bytes += len(events)
            if self._bytes >= BATCH_BYTES or end in self._cuts:
                yield from self.flush()
            begin = end

    def flush(self) -> Iterator[Batch]:
        """Yield a batch of the frames that are left, if there are any."""
        frames, self._frames, self._bytes = self._frames, [], 0
        if frames:
            yield compact(frames, self.dictionary, self.source.name, self.selection.position)

    def note(self, batch: Batch) -> None:
        self._malformed += batch.malformed
        self._sample = self._sample or batch.malformed_sample
        self._unknown |= batch.unknown_kinds.keys()
        self._epitaph = self._epitaph or batch.epitaph is not None

    def notes(self, guard: Carried) -> Iterator[Note]:
        """Say what is not as it could be."""
        where = str(self.source.folder)
        if self.parts.error is not None:
            yield Note(where, *explain(self.parts.error))
        if self.damages:
            events, points = (sum(getattr(one, name) for one in self.damages) for name in ("events", "points"))
            what = f"{events} events with {points} points are damaged; the rest is in the store"
            yield Note(where, what, f"trainspool verify {where}")
        if self._malformed:
            what = f"{self._malformed} events are malformed and left out: {self._sample}"
            yield Note(where, what, f"trainspool verify {where}")
        if self._unknown:
            what = f"events of kinds {sorted(self._unknown)} are of a newer trainspool; they stay in the spool"
            yield Note(where, what, "pip install --upgrade 'trainspool[agent]', then replay again with --again")
        for run_id, error in self.refused.items():
            yield Note(f"run {run_id}", *explain(error))
        if self.parts.begin:
            what = f"what it held before offset {self.parts.begin} is not there: retention, or a copy of a part"
            yield Note(where, what, "none is needed if that is in the store", problem=False)
        left_open = {self.dictionary.runs[number] for number in self.dictionary.open_owned()}
        kept = sorted(run.run_id for run in left_open if self.selection.takes(run))
        if kept and not self._epitaph:
            what = f"no epitaph: its process lives, or nobody finished its stream; RUNNING stay {', '.join(kept)}"
            yield Note(where, what, "trainspool sync where it ran, then replay again", problem=False)
        carried = sorted({run.run_id for run in self.dictionary.runs.values() if self.selection.is_carried(run)})
        if carried:
            what = f"left out, for the agent (pid {guard.pid}) carries them into this store now: {', '.join(carried)}"
            yield Note(where, what, "wait for the agent (trainspool status), or end it, then replay again")
