"""Frames of one stream from an offset onward; tells a torn tail from damage.

Source: sdk/docs/spool-format.md, "Torn tail or damage?". Plain `pread` on one kept descriptor; nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainspool.errors import SpoolError, UnknownFormatVersion
from trainspool.spool import frame, trimmed
from trainspool.spool.frame import HEADER_BYTES, Header
from trainspool.spool.items import Damage, Frame, Item, Opened, counts_within, definitions_in, identity_in
from trainspool.spool.layout import SegmentName
from trainspool.spool.listing import Listing
from trainspool.spool.reach import Reach
from trainspool.spool.segment import ENDED_IN_ORDER
from trainspool.spool.segmentview import READ_BYTES, SegmentView

WALK_BYTES = 4096
STEPS_MAX = 1024  # frames, damages, segments in one call: a stream of nothing else must not keep the others waiting
NEIGHBOURS = 8  # segments on either side that may hold the same frames: a rewrite reaches back 8 MiB


class StreamReader:
    """Reads one stream in order. Not thread safe; keeps at most one descriptor; survives neither fork nor exec.

    Args:
        folder: the stream's folder.
        stream: its id, 16 raw bytes.
        offset: where to begin, the end of some frame read before.
        writer_alive: whether someone may still be writing; then a bad last frame means "not yet".
        from_afar: the writer is on another host, whose writes come here late and in any order: until a segment's seal
            has come, whatever is bad in it is "not yet".
    """

    def __init__(
        self,
        folder: Path,
        stream: bytes,
        offset: int = 0,
        *,
        writer_alive: Callable[[], bool],
        from_afar: bool = False,
    ) -> None:
        self.folder, self.stream, self.offset = Path(folder), stream, offset
        self.identity: dict[str, Any] = {}
        self.ended = False
        """The last segment is sealed, and all of it is read."""
        self.counts: tuple[int, int] | None = (0, 0) if offset == 0 else None
        """Events and points before `offset`, None until a frame says so."""
        self.in_order = False
        """A seal said that its process left in order, its ring drained."""
        self.keep_last = False
        """Whether to keep `last_events`: the events of the last sound data frame met, known before or not."""
        self.last_events = b""
        self._bad: tuple[Path, int, str] | None = None
        self._sealed_at = -1
        self._writer_alive, self._from_afar = writer_alive, from_afar
        self._segment: SegmentView | None = None
        self._listing = Listing(self.folder)
        self._first: SegmentName | None = None
        self._known: list[SegmentName] = []
        self._opened_at = 0
        self._started = False
        self._relearn = False
        self._reaches: dict[SegmentName, Reach] = {}

    @property
    def path(self) -> Path:
        """The segment being read, else the folder: where to look when something is wrong."""
        return self._segment.path if self._segment else self.folder

    @property
    def unread_bytes(self) -> int:
        """What stands behind the last whole frame of the segment being read: a torn tail, more to come, or damage."""
        return max(0, self._segment.size() - self._segment.at) if self._segment else 0

    def read(self, limit_bytes: int = READ_BYTES) -> list[Item]:
        """Return what is there now, in order, about *limit_bytes* of events at most; empty if there is nothing new.

        Raises:
            UnknownFormatVersion: the next frame is of another version; everything before it was returned earlier.
            UnsafeSpool: the next segment is a link, or not the folder owner's.
            OSError: the disk.
        """
        items: list[Item] = []
        until = self.offset + limit_bytes
        self.ended = False
        try:
            if self._segment is None and not self._begin():
                return items
            assert self._segment is not None
            self._segment.forget()
            for _ in range(STEPS_MAX):
                if self.offset >= until or not (self._step(items, limit_bytes) or self._stuck(items)):
                    return items
                if items and self._segment.is_spent:
                    return items  # what may come behind it costs a look at the folder: for the call that finds no more
            items = items or [Opened(self.identity, b"", self.path)]  # there is more: come again
        except (frame.UnknownVersion, SpoolError, OSError) as error:
            if not items:
                raise self._explained(error) from error
        return items

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    # -- one frame

    def _step(self, items: list[Item], read_bytes: int = READ_BYTES) -> bool:
        """Take the frame at hand; False if no whole and sound frame stands there."""
        segment = self._segment
        assert segment is not None
        header = segment.header(read_bytes)
        if header is None or header.stream != self.stream:
            return False
        body = segment.look(segment.at + HEADER_BYTES, header.body_length, read_bytes)
        if len(body) < header.body_length or not frame.body_is_sound(header, body):
            return False
        self._take(header, body, items)
        segment.at += HEADER_BYTES + header.body_length
        return True

    def _take(self, header: Header, body: memoryview, items: list[Item]) -> None:
        segment = self._segment
        assert segment is not None
        counted = header.kind not in (frame.IDENTITY, frame.DICTIONARY)  # those stand before a segment's first count
        if counted and header.offset > self.offset and not self._is_trimmed(header):
            items.append(self._lose(header))
        if header.kind == frame.DATA:
            self._take_data(header, body, items)
        elif header.kind == frame.IDENTITY:
            self.identity = identity_in(body)
            items.append(Opened(self.identity, b"", segment.path))
        elif header.kind == frame.DICTIONARY:
            items.append(Opened(self.identity, bytes(body), segment.path))
        elif header.kind == frame.SEAL:
            segment.sealed, self._sealed_at = True, header.offset
            self.in_order = self.in_order or bytes(body) == ENDED_IN_ORDER
        if counted and self.counts is None and header.kind != frame.DATA and header.offset == self.offset:
            self.counts = header.events_before, header.points_before

    def _take_data(self, header: Header, body: memoryview, items: list[Item]) -> None:
        definitions = bytes(body[: header.definitions_length])
        data = body[header.definitions_length :]
        if self.keep_last and header.end >= self.offset:
            self.last_events = bytes(data)
        after = header.events_before + header.events, header.points_before + header.points
        if header.end > self.offset:
            known = self.offset - header.offset
            before = self.counts or counts_within(header, data[:known])
            if known > 0:  # what its first part defines may be used in the second
                definitions += definitions_in(data[:known])
            new = bytes(data[known:])
            count = max(0, after[0] - before[0]), max(0, after[1] - before[1])
            items.append(Frame(self.offset, header.end, definitions, new, *count))
            self.offset, self.counts, self._bad = header.end, after, None
            self._relearn, self._started = False, True
            return
        if self._relearn:
            definitions += definitions_in(data)
        if definitions:
            items.append(Opened(self.identity, definitions, self.path))
        if header.end == self.offset:
            self.counts = self.counts or after

    def _is_trimmed(self, behind: Header) -> bool:
        """Whether retention took what is missing, perhaps while we were on our way there; then we go on behind it."""
        if self._bad is not None or trimmed.offset(self.folder) < behind.offset:
            return False
        self.offset, self.counts = behind.offset, (behind.events_before, behind.points_before)
        return True

    def _lose(self, behind: Header) -> Damage:
        """Go on at *behind*, the next thing that can be read and knows its counts; what lies between is lost."""
        assert self._segment is not None
        path, at, reason = self._bad or (self._segment.path, self._segment.at, "events are missing")
        before, after = self.counts, (behind.events_before, behind.points_before)
        lost = (max(0, after[0] - before[0]), max(0, after[1] - before[1])) if before else (0, 0)
        begin, self.offset, self.counts, self._bad = self.offset, behind.offset, after, None
        return Damage(path, at, begin, behind.offset, *lost, reason, exact=before is not None)

    # -- what to do where no sound frame stands

    def _stuck(self, items: list[Item]) -> bool:
        """Wait (False), go on in another segment, or name the damage and go on behind it (True)."""
        segment = self._segment
        assert segment is not None
        # The folder first, then the file again: the writer may have filled this one and begun the next since we looked.
        names = self._listing.names()
        segment.forget()
        if self._step(items, WALK_BYTES):
            return True
        if self._from_afar and not segment.has_seal(self.stream):
            return self._go_on(names, items, unfinished=True)
        left = segment.size() - segment.at
        header = segment.header()
        if header is not None and header.stream == self.stream:
            if left < HEADER_BYTES + header.body_length:
                return self._go_on(names, items)
            return self._bad_body(header, names, items)
        if left <= 0 or (left < HEADER_BYTES and self._is_header_start(segment, left)):
            return self._go_on(names, items)
        return self._bad_header(names, items)

    def _is_header_start(self, segment: SegmentView, length: int) -> bool:
        data = bytes(segment.look(segment.at, length))
        return (frame.MAGIC + bytes([frame.VERSION])).startswith(data[:5]) and self.stream.startswith(data[8:24])

    def _go_on(self, names: list[SegmentName], items: list[Item], *, unfinished: bool = False) -> bool:
        """At a segment's end: the next one that begins at or before our offset, or the gap before the next, or wait.

        *unfinished*: the rest of this one is on its way to us, so that before the next one there is no gap yet.
        """
        segment = self._segment
        assert segment is not None
        later = bisect_right(names, segment.name)
        if later < len(names) and names[later].offset <= self.offset:
            return self._open(names[later])
        if later == len(names):
            # A rewrite that began before us may reach further: it was cut short and we began here, or it is new. Or a
            # power cut took what stood before this one, and whoever drained the stream then went on there.
            began = self._first == segment.name or not segment.sealed
            rewritten = self._is_rewritten(segment.name, names) if self._writer_alive() else began
            if rewritten and self._bridge(names)[0]:
                return True
            self.ended = segment.sealed or (self._sealed_at == self.offset and not self._writer_alive())
            return False
        # Its first frame will be beyond our offset, and so the loss is named.
        return self._bridge(names)[0] or (not unfinished and self._open(names[later]))

    def _is_rewritten(self, name: SegmentName, names: list[SegmentName]) -> bool:
        """Whether a living writer may go on in a segment that sorts before *name*: a sync failed after a roll."""
        overlapping = name.offset < self._opened_at
        if overlapping or names is self._known:
            return overlapping
        return not set(names[: bisect_left(names, name)]) <= set(self._known)

    def _bad_body(self, header: Header, names: list[SegmentName], items: list[Item]) -> bool:
        segment = self._segment
        assert segment is not None
        at, end = segment.at, segment.at + HEADER_BYTES + header.body_length
        if header.kind in (frame.IDENTITY, frame.DICTIONARY) and self._learn_earlier(names):
            return True
        if header.kind == frame.DATA and header.end > self.offset:
            bridged, pending = self._bridge(names)
            if bridged:
                return True
            last = segment.name == names[-1] and end >= segment.size()
            if (last or pending) and self._writer_alive():
                return False
            begin, before = self.offset, self.counts or (header.events_before, header.points_before)
            after = header.events_before + header.events, header.points_before + header.points
            self.offset, self.counts, self._bad = header.end, after, None
            lost = max(0, after[0] - before[0]), max(0, after[1] - before[1])
            items.append(Damage(segment.path, at, begin, header.end, *lost, "checksum mismatch"))
        elif header.kind != frame.DATA:
            if segment.name == names[-1] and end >= segment.size() and self._writer_alive():
                return False
            what = f"checksum mismatch of a frame of kind {frame.KIND_NAMES[header.kind]}"
            items.append(Damage(segment.path, at, self.offset, self.offset, 0, 0, what))
        segment.at = end
        return True

    def _bad_header(self, names: list[SegmentName], items: list[Item]) -> bool:
        segment = self._segment
        assert segment is not None
        at, last = segment.at, segment.name == names[-1]
        if at == 0 and self._learn_earlier(names):
            return True
        header = segment.resynchronise(self.stream)
        if header is not None and header.offset <= self.offset:
            items.append(Damage(segment.path, at, self.offset, self.offset, 0, 0, "no valid frame header"))
            return True
        resumed, segment.at = segment.at, at
        bridged, pending = self._bridge(names)
        if bridged:
            return True
        if (pending or (last and header is None)) and self._writer_alive():
            return False
        segment.at = resumed
        self._bad = segment.path, at, "no valid frame header"  # the next frame with counts says how much it was
        if header is None and last:
            what = "no valid frame header, and nothing behind it"
            items.append(Damage(segment.path, at, self.offset, self.offset, 0, 0, what, exact=False))
        return True

    # -- from segment to segment

    def _begin(self) -> bool:
        names = self._listing.names()
        if not names:
            return False
        begin = trimmed.offset(self.folder)
        if begin > self.offset:
            self.offset, self.counts = begin, None
        reaching = [name for name in names if name.offset <= self.offset]
        self._first = reaching[-1] if reaching else names[0]
        return self._open(self._first)

    def _open(self, name: SegmentName) -> bool:
        segment = SegmentView(self.folder, name, os.stat(self.folder).st_uid)
        self.close()
        self._segment, self._known, self._opened_at = segment, self._listing.names(), self.offset
        return True

    def _bridge(self, names: list[SegmentName]) -> tuple[bool, bool]:
        """Go on in another segment that holds our offset soundly, as after a failed sync.

        Returns:
            Whether there is one; and whether the last segment may yet come to hold it.
        """
        assert self._segment is not None
        here = self._segment.name
        index = bisect_left(names, here)
        near = names[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
        others = [name for name in near if name.offset <= self.offset and name != here]
        for name in sorted(others, key=lambda other: (other < here, other)):
            known = self._reaches.get(name)
            if (
                known
                and name != names[-1]
                and not known.places_of(self.offset)
                and known.is_of(self.folder / str(name))
            ):
                continue
            segment = SegmentView(self.folder, name, os.stat(self.folder).st_uid)
            try:
                reach = self._reach_of(segment)
                if any(self._is_sound_at(segment, at) for at in reach.places_of(self.offset)):
                    return self._open(name), False
            finally:
                segment.close()
            if name == names[-1] and reach.end <= self.offset:
                return False, True
        return False, False

    def _reach_of(self, segment: SegmentView) -> Reach:
        reach, size = self._reaches.pop(segment.name, None) or Reach(), segment.size()
        if size < reach.size:
            reach = Reach()
        if size != reach.size:
            segment.at, reach.size = reach.at, size
            with contextlib.suppress(frame.UnknownVersion):
                for header in self._walk(segment):
                    reach.note(header, segment.at)
        self._reaches[segment.name] = reach
        while len(self._reaches) > 2 * NEIGHBOURS + 1:
            del self._reaches[next(iter(self._reaches))]
        return reach

    def _walk(self, segment: SegmentView) -> Iterator[Header]:
        """Yield every valid header of a segment from where it stands, whatever its body is."""
        while segment.look(segment.at, 1, WALK_BYTES):
            header = segment.header(WALK_BYTES)
            if header is None or header.stream != self.stream:
                segment.resynchronise(self.stream)
                continue
            yield header
            segment.at += HEADER_BYTES + header.body_length

    @staticmethod
    def _is_sound_at(segment: SegmentView, at: int) -> bool:
        segment.at = at
        header = segment.header()
        if header is None:
            return False
        body = segment.look(at + HEADER_BYTES, header.body_length)
        return len(body) == header.body_length and frame.body_is_sound(header, body)

    def _learn_earlier(self, names: list[SegmentName]) -> bool:
        """A segment lost its dictionary and we began in it: go through the one before it, for meanings alone."""
        assert self._segment is not None
        earlier = [name for name in names if name < self._segment.name]
        if self._started or not earlier:
            self._started = True
            return False
        self._started = self._relearn = True
        return self._open(earlier[-1])

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, frame.UnknownVersion):
            return error
        at = self._segment.at if self._segment else 0
        what = f"a frame of format version {error.args[0]}, this trainspool reads version {frame.VERSION}"
        kept = "everything before it is read, the segment stays as it is"
        return UnknownFormatVersion(what, self.path, at, kept, "pip install --upgrade 'trainspool[agent]'")
