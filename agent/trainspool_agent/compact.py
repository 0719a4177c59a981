"""events → one batch of store changes; a pure function, so replay is trivial to test.

Source: sdk/docs/spool-format.md, "Events".
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainspool.spool import events as ev
from trainspool_agent.columns import RunPoints
from trainspool_agent.dictionary import Dictionary, RunRef
from trainspool_agent.intake import HANDLERS, MALFORMED, end_of, experiment_of, float_of
from trainspool_agent.store.changes import End, ExperimentChange, RunChanges, leaves_unknown_tail
from trainspool_agent.store.limits import UNKNOWN_KINDS_MAX
from trainspool_agent.store.lines import Point, Row

__all__ = ["Batch", "Dictionary", "Epitaph", "EventFrame", "RunRef", "compact"]

Epitaph = End
_STEP_END = 1 << 63
_NS_PER_MS = 1_000_000


class EventFrame(NamedTuple):
    """The events of one data frame; *offset* and *end* are stream offsets."""

    offset: int
    end: int
    events: bytes


@dataclass(slots=True, repr=False)
class Batch:
    """What contiguous frames of one stream ask of the store."""

    stream: str
    begin: int
    end: int
    runs: dict[RunRef, RunChanges] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    """By run id: the position that this batch was made for. Where the store has another one by now, it is no use."""
    known: set[RunRef] = field(default_factory=set)
    """Runs of which something was left out, as their store has it already."""
    experiments: list[ExperimentChange] = field(default_factory=list)
    epitaph: Epitaph | None = None
    events: int = 0
    points: int = 0
    unknown_kinds: dict[int, int] = field(default_factory=dict)
    malformed: int = 0
    malformed_sample: str = ""


def compact(
    frames: Sequence[EventFrame], dictionary: Dictionary, stream: str, position: Callable[[RunRef], int]
) -> Batch:
    """Fold the events of contiguous *frames* into one batch of changes per run.

    Args:
        frames: in the stream's order; may be empty.
        dictionary: what the stream defined before *frames*; learns what they define.
        stream: the stream's id, hex.
        position: the stream offset up to which a run's events are in its store already; an event's end, or 0.

    Events of a run that end at or before its position are left out. Events that break the format are
    counted and left out too: their frame was sound, so they were written so.
    """
    batch = Batch(stream, frames[0].offset if frames else 0, frames[-1].end if frames else 0)
    folding = _Folding(batch, dictionary, position)
    collecting = gc.isenabled()
    gc.disable()  # a collection for every 700 tuples, none of them garbage, takes a quarter of all time
    try:
        for frame in frames:
            folding.fold_frame(frame)
        folding.finish()
    finally:
        if collecting:
            gc.enable()
    return batch


def count_kind(counts: dict[int, int], kind: int, count: int) -> None:
    """Add to the *counts* of unknown kinds; those beyond a few are counted together, as -1."""
    if kind not in counts and len(counts) >= UNKNOWN_KINDS_MAX:
        kind = -1
    counts[kind] = counts.get(kind, 0) + count


class _Sink:
    """Where one run's points go. Its tables fill themselves: key number → append, key set → bytes of a row, append."""

    __slots__ = ("appends", "changes", "points", "sets")

    def __init__(self, changes: RunChanges, points: RunPoints, dictionary: Dictionary) -> None:
        self.changes, self.points = changes, points
        self.appends = _Appends(points, dictionary.keys)
        self.sets = _Sets(points, dictionary.keysets)
        points.caches += (self.appends, self.sets)


class _Appends(dict[int, Callable[[Point], None]]):
    def __init__(self, points: RunPoints, keys: dict[int, str]) -> None:
        self._points, self._keys = points, keys

    def __missing__(self, key: int) -> Callable[[Point], None]:
        append = self._points.of_key(self._keys[key])
        self[key] = append
        return append


_Set = tuple[int, Callable[[Row], None]]


class _Sets(dict[int, _Set]):
    def __init__(self, points: RunPoints, keysets: dict[int, tuple[str, ...]]) -> None:
        self._points, self._keysets = points, keysets

    def __missing__(self, keyset: int) -> _Set:
        names = self._keysets[keyset]
        append = self._points.of_keys(names)
        made = self[keyset] = 8 * len(names), append
        return made


class _Sinks(dict[int, "_Sink | None"]):
    """Run number → sink, or None while the run's events are in the store already."""

    def __init__(self, make: Callable[[int], tuple[_Sink | None, bool]]) -> None:
        self._make = make

    def __missing__(self, run: int) -> _Sink | None:
        sink, lasts = self._make(run)
        if lasts:
            self[run] = sink
        return sink

    def close(self) -> None:
        """Not to be used any more: whoever made it is not referred to."""
        self.clear()
        del self._make


class _Folding:
    """One call of ``compact``."""

    def __init__(self, batch: Batch, dictionary: Dictionary, position: Callable[[RunRef], int]) -> None:
        self._batch, self._dictionary, self._position = batch, dictionary, position
        self._positions = batch.positions
        self._refs: dict[str, RunRef] = {}
        self._points: dict[str, RunPoints] = {}
        self._sinks = _Sinks(self._make_sink)
        self._frame = EventFrame(0, 0, b"")
        self._reader: Any = None  # at the event being folded

    def fold_frame(self, frame: EventFrame) -> None:
        self._frame = frame
        for run in [run for run, sink in self._sinks.items() if sink is None]:
            del self._sinks[run]  # applied up to a frame before this one, perhaps
        reader = self._reader = ev.unpacker(frame.events)
        stuck_at = -1
        while True:
            try:
                self._fold_events(reader)
                break
            except MALFORMED as error:
                self._note_malformed(error, frame.offset + reader.tell())
                if reader.tell() == stuck_at:
                    return  # the reader itself cannot go on: what follows in this frame has no meaning
                stuck_at = reader.tell()
        try:
            ev.check_complete(reader)
        except MALFORMED as error:
            self._note_malformed(error, frame.end)

    def finish(self) -> None:
        """Put the points into the batch, and let go of what refers to itself: no collection may come for long."""
        self._sinks.close()
        for ref, changes in self._batch.runs.items():
            changes.points = self._points.pop(ref.run_id).finished()

    def _fold_events(self, reader: Any) -> None:
        """The hot loop: a point, or a batch of points, costs one tuple and no call of ours."""
        sinks, integer, number, octets, events = self._sinks, int, float, bytes, 0
        try:
            for event in filter(None, reader):  # fillers are nil
                kind = event[0]
                if kind == 1:
                    _, run, keyset, time, step, values = event if len(event) == 6 else event[:6]
                    if not time.__class__ is step.__class__ is integer or not -_STEP_END <= step < _STEP_END:
                        raise ValueError("time or step is no 64-bit integer")
                    events += 1
                    sink = sinks[run]
                    if sink is None:
                        continue
                    size, append = sink.sets[keyset] if keyset.__class__ is integer else self._inline(sink, keyset)
                    if values.__class__ is not octets or len(values) != size:
                        raise ValueError("as many values as keys are needed")
                    append((time // _NS_PER_MS, step, values))
                elif kind == 0:
                    _, run, key, time, step, value = event if len(event) == 6 else event[:6]
                    if not time.__class__ is step.__class__ is integer or not -_STEP_END <= step < _STEP_END:
                        raise ValueError("time or step is no 64-bit integer")
                    if value.__class__ is not number:
                        value = float_of(value)
                    events += 1
                    sink = sinks[run]
                    if sink is not None:
                        sink.appends[key]((time // _NS_PER_MS, step, value))
                else:
                    events += self._fold_other(event, self._frame.offset + reader.tell())
        finally:
            self._batch.events += events

    def _inline(self, sink: _Sink, keyset: list[int]) -> _Set:
        keys = self._dictionary.keys
        names = tuple(keys[key] for key in keyset)
        return 8 * len(names), sink.points.of_keys(names)

    def _make_sink(self, run: int) -> tuple[_Sink | None, bool]:
        """Return a run's sink, and whether that holds for the rest of the frame.

        A position is inside a frame if what is a frame now was in a ring when it was replayed.
        """
        ref = self._dictionary.runs[run]
        applied = self._positions.get(ref.run_id)
        if applied is None:
            applied = self._positions[ref.run_id] = self._position(ref)
        if self._frame.end <= applied or self._frame.offset + self._reader.tell() <= applied:
            self._batch.known.add(ref)
            return None, self._frame.end <= applied
        points = self._points.setdefault(ref.run_id, RunPoints())
        return _Sink(self._changes_of(ref), points, self._dictionary), True

    def _changes_of(self, ref: RunRef) -> RunChanges:
        """One RunChanges per run id, under the owner's reference if there is one: a run's position covers all of it."""
        runs = self._batch.runs
        known = self._refs.setdefault(ref.run_id, ref)
        if known != ref and ref.owner and not known.owner:
            self._refs[ref.run_id] = ref
            runs[ref] = runs.pop(known)
            known = ref
        return runs.setdefault(known, RunChanges())

    def _fold_other(self, event: list[Any], offset: int) -> int:
        """Fold an event that is not made of points; return how many events it counts as."""
        kind = event[0]
        if type(kind) is not int:
            raise ValueError(f"not an event: {ev.shown(event)}")
        if kind in ev.DEFINITIONS:
            self._dictionary.define(event)
            if kind == ev.DEFINE_RUN:
                self._sinks.pop(event[1], None)
            return 0
        if kind == ev.EPITAPH:
            self._fold_epitaph(end_of(event[1:4], offset))
        elif kind == ev.EXPERIMENT:
            self._batch.experiments.append(experiment_of(event[1:6], offset))
        elif kind in HANDLERS:
            self._fold_run_event(kind, event, offset)
        else:
            count_kind(self._batch.unknown_kinds, kind, 1)
        return 1

    def _fold_run_event(self, kind: int, event: list[Any], offset: int) -> None:
        sink = self._sinks[event[1]]
        if kind == ev.END:
            self._dictionary.end(event[1])
        if sink is not None:
            HANDLERS[kind](sink.changes, event[2:], offset)
            sink.changes.other_events += 1

    def _fold_epitaph(self, epitaph: Epitaph) -> None:
        self._batch.epitaph = epitaph
        unknown_tail = leaves_unknown_tail(epitaph.reason)
        for run in list(self._dictionary.open_owned()):
            sink = self._sinks[run]
            if sink is not None:
                sink.changes.epitaph = epitaph
        for run in list(self._dictionary.open()) if unknown_tail else ():  # a guest's last points are as unknown
            sink = self._sinks[run]
            if sink is not None:
                sink.changes.unknown_tail = True

    def _note_malformed(self, error: Exception, offset: int) -> None:
        self._batch.malformed += 1
        if not self._batch.malformed_sample:
            self._batch.malformed_sample = f"{type(error).__name__} at offset {offset}: {str(error)[:160]}"
