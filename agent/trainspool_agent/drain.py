"""What a dead process left in its ring goes into its stream, with an epitaph behind it.

Whoever calls this holds the stream's lock. Killed anywhere, the next holder finds a consistent stream and goes on:
the ring is unlinked last, frames written twice have equal bytes at equal offsets, an epitaph that stands is not
written again.

Source: design.md §2.2, "Drain"; sdk/docs/spool-format.md, sections 5 and 7.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from trainspool.errors import SpoolError
from trainspool.spool import events, files, layout
from trainspool.spool.items import Damage, Frame, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfile import RingView, read_ring
from trainspool.spool.segment import SegmentWriter
from trainspool_agent.compact import Dictionary
from trainspool_agent.discover import Place
from trainspool_agent.liveness import boot_id
from trainspool_agent.store.changes import UNKNOWN

PIECE_BYTES = 128 << 10
SURVEY_BYTES = 1 << 20
SEGMENTS_TRIED_MAX = 8  # backwards, for the last event: some are empty, but not all of them
DEFINITIONS_BYTES_MAX = 128 << 20

log = logging.getLogger("trainspool.agent")


class Drained(NamedTuple):
    """What became of a dead process's stream."""

    end: int
    """Stream offset behind the epitaph."""
    unknown_tail: bool
    """Its ring was out of reach and it did not leave in order: nobody knows what it held."""


class Survey:
    """A stream's end, as its segments have it: where, counts, meanings, the last event.

    Args:
        place: the stream.
        begin: the end of some frame; from there on, what the segments hold is looked for.
    """

    def __init__(self, place: Place, begin: int = 0) -> None:
        self.identity: dict[str, Any] = {}
        self.definitions: dict[tuple[int, int], bytes] = {}
        self.last_time = self._weight = 0
        self.has_epitaph = self.sealed = self.in_order = False
        self.lost_count = False  # events are missing that nobody can count
        self.offset, self.counts = begin, (0, 0)
        names = [name.offset for name in layout.segments(place.folder)]
        # A segment without an event in it does not say what was last: then the one before, and so on.
        earlier = dict.fromkeys([begin, *reversed([offset for offset in names if offset < begin])])
        for offset in islice(earlier, SEGMENTS_TRIED_MAX):
            if self._read(StreamReader(place.folder, place.stream, offset, writer_alive=lambda: False)):
                return

    def _read(self, reader: StreamReader) -> bool:
        """Read to the end; whether the last event and the counts there are known."""
        reader.keep_last = True
        try:
            while items := reader.read(SURVEY_BYTES):
                for item in items:
                    self._take(item)
        finally:
            reader.close()
        self.identity = self.identity or reader.identity
        self.offset, self.counts = max(self.offset, reader.offset), reader.counts or self.counts
        self.sealed, self.in_order = reader.ended, reader.in_order
        self.learn(reader.last_events)
        return reader.offset == 0 or (bool(reader.last_events) and reader.counts is not None)

    def _take(self, item: Frame | Opened | Damage) -> None:
        if isinstance(item, Opened):
            self.identity = item.identity or self.identity
            self.learn(item.dictionary)
        elif isinstance(item, Frame):
            self.learn(item.definitions)  # those in its events are repeated by the next frame, or last and learned so

    def learn(self, data: bytes) -> None:
        """Take note of what *data*, a run of events, means for the end of the stream; stop where it is malformed."""
        with contextlib.suppress(ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException):
            for event in events.decode(data):
                self._learn_event(event)

    def _learn_event(self, event: list[Any]) -> None:
        kind = event[0]
        if kind in events.DEFINITIONS:
            packed = events.pack(*event)
            self._weight += len(packed) - len(self.definitions.get((kind, event[1]), b""))
            if self._weight <= DEFINITIONS_BYTES_MAX:  # beyond that no reader of ours knows them either
                self.definitions[kind, event[1]] = packed
            return
        self.has_epitaph = kind == events.EPITAPH
        timeless = kind in (events.EPITAPH, events.EXPERIMENT)
        time = event[1 if timeless else 3 if kind <= events.POINTS else 2]
        if type(time) is int:
            self.last_time = time


def drain(
    place: Place, identity: dict[str, Any], ring_paths: Iterable[Path], begin: int = 0, stored: int = 0
) -> Drained:
    """Bring the stream of a dead process to its end. Blocks on the disk: call it in a thread.

    Args:
        place: the stream; the caller holds its lock.
        identity: who wrote it, in case no segment says so.
        ring_paths: where its ring may be.
        begin: the end of some frame; the nearer to the stream's end, the less has to be read.
        stored: up to where a store has the stream.

    Raises:
        OSError: nothing is lost; call again.
    """
    ring = _open_ring(place, ring_paths)
    try:
        survey = Survey(place, begin)
        survey.identity = survey.identity or identity
        rest = _rest_of(ring, survey) if ring else []
        done = survey.has_epitaph and survey.sealed and not rest
        if ring is None and not survey.has_epitaph:
            # After a power cut a store may hold more than the spool. Last words go behind that: a store would not take
            # them for new otherwise, and the run would never end.
            survey.offset = max(survey.offset, stored)
        unknown = survey.lost_count or (ring is None and not survey.in_order and not survey.has_epitaph)
        end = survey.offset if done else _write(place, survey, rest, ring, unknown=unknown)
        if ring is not None:
            # Only now: until here the ring is the one place that has these events for sure.
            files.fs.unlink(str(ring.path))
        return Drained(end, unknown)
    finally:
        if ring is not None:
            ring.close()


def _open_ring(place: Place, paths: Iterable[Path]) -> RingView | None:
    for path in paths:
        try:
            view = read_ring(path)
        except FileNotFoundError:
            continue
        except (SpoolError, ValueError, msgpack.exceptions.UnpackException) as error:
            log.error("ring cannot be used stream=%s error=%r", place.name, str(error))
            continue
        if view.stream == place.stream:
            return view
        view.close()
    return None


def _rest_of(ring: RingView, survey: Survey) -> list[events.Piece]:
    """What the ring holds and no segment does, cut into frames; from before ``head`` if a segment lost its tail.

    What is no run of events stays out: it is named in the log, and the ring's file is kept beside.
    """
    begin = survey.offset
    chunks = list(ring.committed(begin))
    if not chunks and ring.head > begin:
        # Drained once, gone from the segments since, and overwritten in the ring: the reader will name the gap.
        begin = survey.offset = ring.head
        survey.lost_count = True
        chunks = list(ring.committed(begin))
    pieces: list[events.Piece] = []
    try:
        for chunk in chunks:
            pieces += events.pieces(chunk, PIECE_BYTES)
    except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException) as error:
        kept = f"{ring.path}.damaged"
        files.fs.link(str(ring.path), kept)
        log.error("ring is damaged stream=%s offset=%d kept=%s error=%r", ring.stream.hex(), begin, kept, str(error))
    return pieces


def _write(place: Place, survey: Survey, rest: list[events.Piece], ring: RingView | None, *, unknown: bool) -> int:
    """Write the rest, what was dropped, and the epitaph into a segment of its own, seal and sync it."""
    definitions = list(survey.definitions.values())
    files.fs.make_folder(str(place.folder / layout.STAGING))
    packed = msgpack.packb(survey.identity, unicode_errors="surrogateescape")
    writer = SegmentWriter(str(place.folder), place.stream, packed, definitions, survey.offset, *survey.counts)
    try:
        for piece in rest:
            survey.learn(piece.data)
            writer.append(piece)
        if rest or not survey.has_epitaph:
            # One frame: either both or neither, so that nothing ever stands behind an epitaph.
            writer.append(_last_words(survey, ring.drops if ring else {}, unknown=unknown))
        writer.seal()
        writer.sync()
        files.fs.sync_folder(str(place.folder))
        return writer.offset
    finally:
        writer.close()


def _last_words(survey: Survey, drops: dict[str, tuple[int, int]], *, unknown: bool) -> events.Piece:
    """The dropped counts of every run (totals: repeating them is harmless), then the epitaph."""
    said = list(_gaps(survey, drops))
    status, reason = _cause(survey, unknown=unknown)
    said.append(events.pack(events.EPITAPH, survey.last_time or survey.identity.get("wall", 0), status, reason))
    return events.Piece(b"".join(said), len(said), 0, [], [])


def _gaps(survey: Survey, drops: dict[str, tuple[int, int]]) -> Iterable[bytes]:
    dictionary = Dictionary()
    with contextlib.suppress(ValueError, TypeError, LookupError):
        dictionary.learn(b"".join(survey.definitions.values()))
    numbers = {run.run_id: number for number, run in dictionary.runs.items()}
    for run_id, (points, dropped_events) in drops.items():
        if run_id in numbers and (points or dropped_events):
            yield events.pack(events.GAP, numbers[run_id], survey.last_time, points, dropped_events)


def _cause(survey: Survey, *, unknown: bool) -> tuple[int, str]:
    identity = survey.identity
    program = os.path.basename(str(identity.get("program") or "")) or "unknown program"
    process = f"process {identity.get('pid')} ({program}) on host {identity.get('host')}"
    if unknown and identity.get("boot") != boot_id():
        return events.KILLED, f"{process} was running when the host stopped; what had not reached the disk {UNKNOWN}"
    if unknown:
        return events.KILLED, f"{process} is gone and its ring with it; what it held last {UNKNOWN}"
    if survey.in_order:
        return events.FINISHED, f"{process} ended in order"
    return events.KILLED, f"{process} is gone without ending its runs"
