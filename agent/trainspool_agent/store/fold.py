"""One metric file: append whole lines, and tell a point that is already there.

Exact, with bounded memory: a point behind the largest (ms, step) is new without a look; any other is looked for in the
blocks of the file whose range holds its (ms, step).
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trainspool_agent import files
from trainspool_agent.store.files import place_if_new, temporary_in
from trainspool_agent.store.limits import BLOCK_BYTES, RECOVERY_POINTS_MAX
from trainspool_agent.store.lines import Lines, Place, Point, bytes_of
from trainspool_agent.store.points import (
    BEFORE_ALL,
    LINE,
    Block,
    DecodedBlocks,
    Identity,
    identities,
    identity,
    range_of,
)

Span = tuple[int, int]  # of bytes in the file


class Admitted(NamedTuple):
    """What of some points goes into the file, and what became of all of them."""

    data: bytes
    new: Sequence[Point]
    ordered: bool  # *new* rises, from behind all that is in the file
    stored: int  # *new*, and what is in the file already, written by us before a crash
    folded: int = 0
    claimed: Sequence[tuple[Identity, Span]] = ()
    stretch: Span | None = None  # claimed as it stands


class MetricFile:
    """One key of one run. *length*, *top*: the whole lines known, and their largest (ms, step)."""

    __slots__ = (
        "_blocks",
        "_claims",
        "_decoded",
        "_indexed",
        "_loaded",
        "_unranked",
        "_unread",
        "fd",
        "length",
        "path",
        "top",
    )

    def __init__(
        self,
        path: str,
        decoded: DecodedBlocks,
        length: int = 0,
        top: Place = BEFORE_ALL,
        unclaimed: Sequence[int] = (),
    ) -> None:
        self.path, self.length, self.top, self.fd = path, length, top, -1
        self._decoded = decoded
        self._blocks: list[Block] = []
        self._indexed = 0  # how much of the file the blocks cover
        self._loaded = False
        # Lines past the checkpoint that no event has claimed yet, and the stretches of them that are still to be read.
        self._claims: dict[Identity, Span] = {}
        self._unread: list[Span] = list(zip(unclaimed[::2], unclaimed[1::2], strict=True))
        self._unranked = list(self._unread)  # stretches of them that *top* may know nothing of

    def open(self) -> bool:
        """Open the file, learn what was appended by others or before a crash; False if it does not exist yet."""
        try:
            self.fd = files.fs.open_to_append(self.path)
        except FileNotFoundError:
            self._forget()
            self._loaded = True
            return False
        try:
            self.learn_growth()
        except OSError:
            self.close()
            raise
        return self.fd >= 0

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            files.fs.close(fd)

    def learn_growth(self) -> None:
        """Take note of lines that we did not just write: another writer's, or ours from before a crash."""
        size, begin = os.lseek(self.fd, 0, os.SEEK_END), self.length
        if size == begin:
            self._loaded = True
            return
        if size < begin:  # someone cut or replaced it
            self._forget()
        size = self._mended(self.length, size)
        if size == 0:
            # An empty metric file makes the experiment unreadable, so it goes; the next point makes it anew.
            files.fs.unlink(self.path)
            self.close()
            self._forget()
            return
        self._unranked.append((self.length, size))
        self.length = size
        if self._loaded:
            self._rank()
        elif begin < size:
            self._unread.append((begin, size))
        self._loaded = True

    def admit(self, points: Sequence[Point]) -> Admitted:
        """Tell which of *points* are to be written. Writes nothing; what it claims, ``unclaim`` gives back."""
        known = not self._unread and points[0][:2] <= self.top
        lines = None if known else points if isinstance(points, Lines) else Lines.of(points)
        if lines is not None and self._unread and (admitted := self._admit_as_written(lines)) is not None:
            return admitted
        self._rank()
        if lines is not None and lines.low > self.top:
            return Admitted(lines.data, lines, True, len(lines))
        return self._admit_one_by_one(list(points))

    def append(self, admitted: Admitted, work: str) -> None:
        """Write the new lines at once; a new file is made in folder *work*, for an empty one is never to be seen.

        Raises:
            OSError: nothing was written.
        """
        data = admitted.data
        if not data:
            return
        if self.fd < 0 and self._create(data, work):
            begin = 0
        else:
            if self.fd < 0:  # MLflow has made it since we looked: behind what it wrote
                self.fd = files.fs.open_to_append(self.path)
            self._write(data)
            begin = os.lseek(self.fd, 0, os.SEEK_CUR) - len(data)
        if begin != self.length:
            self._learn_what_came_between()
            return
        self.length += len(data)
        new = admitted.new
        low, high = (new[0][:2], new[-1][:2]) if admitted.ordered else range_of(point[:2] for point in new)
        if self._indexed == begin and len(data) <= BLOCK_BYTES:
            self._extend(begin, self.length, low, high)
        self.top = max(self.top, high)

    def append_rising(self, lines: Lines) -> bool:
        """Append a few points that rise from behind all others: what a live run does, hence the short way.

        False: nothing was done, as it is not so.

        Raises:
            OSError: nothing was written.
        """
        begin, fd, data, top = self.length, self.fd, lines.data, lines.high
        if lines.low <= self.top or fd < 0 or self._indexed != begin or os.lseek(fd, 0, os.SEEK_END) != begin:
            return False
        self._write(data)
        end = os.lseek(fd, 0, os.SEEK_CUR)
        if end - begin != len(data):
            self._learn_what_came_between()
            return True
        self.length, self.top = end, top
        blocks = self._blocks
        if blocks and end - (last := blocks[-1]).begin <= BLOCK_BYTES:  # its low is lower
            last.end, last.high, self._indexed = end, max(top, last.high), end
        elif len(data) <= BLOCK_BYTES:
            blocks.append(Block(begin, end, lines.low, top))
            self._indexed = end
        return True

    def _write(self, data: bytes) -> None:
        try:
            _write_whole(self.fd, data, self.length)
        except OSError:
            self._loaded = False  # whole lines of ours may be there, if what was begun could not be cut off, either
            raise

    def _learn_what_came_between(self) -> None:
        """Take note of another writer's lines, and of ours behind them."""
        try:
            self.learn_growth()
        except OSError:
            self._loaded = False  # the same points come again, and are to find these lines their own
            raise

    def unclaim(self, admitted: Admitted | None, begin: int) -> None:
        """The same events come again: what they put behind *begin*, and what they claimed, is free again."""
        if admitted is not None:
            self._claims.update(admitted.claimed)
            if admitted.stretch is not None:
                self._give_back(admitted.stretch)
        if begin < self.length:
            self._unread.append((begin, self.length))

    def unclaimed(self) -> list[int]:
        """Return the bytes that events may still claim, as begin, end, begin, end, …: a checkpoint keeps them."""
        spans: list[int] = []
        for begin, end in sorted([*self._claims.values(), *self._unread]):
            if spans and spans[-1] == begin:
                spans[-1] = end
            else:
                spans += (begin, end)
        return spans

    def _admit_as_written(self, lines: Lines) -> Admitted | None:
        """Claim *lines* where they stand next among what is to be claimed, as they do when a batch comes again.

        What was begun may end among them; the rest then is new. None: nothing was done, as it is not so.
        """
        begin, end = self._unread[0]
        data = lines.data[: end - begin]
        if self.fd < 0 or os.pread(self.fd, len(data), begin) != data:
            return None
        stretch = begin, begin + len(data)
        claimed, rest = lines.cut(len(data))
        self._take(self._unread, stretch)
        self._take(self._unranked, stretch)
        self.top = max(self.top, claimed.high)
        if rest is None:
            return Admitted(b"", (), True, len(lines), stretch=stretch)
        self._rank()
        if rest.low > self.top:
            return Admitted(rest.data, rest, True, len(lines), stretch=stretch)
        self._give_back(stretch)
        return None

    @staticmethod
    def _take(spans: list[Span], stretch: Span) -> None:
        """Take *stretch* off the first span, if that begins like it."""
        if spans and spans[0][0] == stretch[0] and stretch[1] <= spans[0][1]:
            spans[:1] = [(stretch[1], spans[0][1])] if stretch[1] < spans[0][1] else []

    def _give_back(self, stretch: Span) -> None:
        begin, end = stretch
        if self._unread and self._unread[0][0] == end:
            end = self._unread.pop(0)[1]
        self._unread.insert(0, (begin, end))

    def _rank(self) -> None:
        """Have *top* know all that is in the file."""
        for span in self._unranked:
            for _, data in self._whole_lines(*span):
                self.top = max(self.top, max((point[:2] for point in identities(data)), default=BEFORE_ALL))
        self._unranked.clear()

    def _admit_one_by_one(self, points: list[Point]) -> Admitted:
        self._read_claims()
        candidates = [identity(*point) for point in points]
        doubtful = {candidate for candidate in candidates if candidate[:2] <= self.top}
        held = self._held(doubtful - self._claims.keys()) if doubtful else {}
        seen: set[Identity] = set()
        new: list[Point] = []
        claimed: list[tuple[Identity, Span]] = []
        for point, candidate in zip(points, candidates, strict=True):
            if self._unread and candidate in held:
                self._read_claims(upto=held[candidate])
            span = self._claims.pop(candidate, None)
            if span is not None:
                claimed.append((candidate, span))
                seen.add(candidate)
            elif candidate not in seen and candidate not in held:
                seen.add(candidate)
                new.append(point)
        stored = len(new) + len(claimed)
        return Admitted(bytes_of(new), new, False, stored, len(points) - stored, claimed)

    def _held(self, doubtful: set[Identity]) -> dict[Identity, int]:
        """Return which of *doubtful* the file holds, and where their block ends."""
        held: dict[Identity, int] = {}
        if self.fd < 0 or not doubtful:
            return held
        self._index()
        places = sorted({candidate[:2] for candidate in doubtful})
        for block in self._blocks:
            at = bisect_left(places, block.low)
            if at < len(places) and places[at] <= block.high:
                for found in doubtful & self._decoded.get(self.fd, block):
                    held.setdefault(found, block.end)
        return held

    def _index(self) -> None:
        for begin, data in self._whole_lines(self._indexed, self.length):
            low, high = range_of(point[:2] for point in identities(data))
            self._extend(begin, begin + len(data), low, high)

    def _extend(self, begin: int, end: int, low: Place, high: Place) -> None:
        last = self._blocks[-1] if self._blocks else None
        if last is not None and end - last.begin <= BLOCK_BYTES:
            last.end, last.low, last.high = end, min(last.low, low), max(last.high, high)
        else:
            self._blocks.append(Block(begin, end, low, high))
        self._indexed = end

    def _read_claims(self, upto: int = 0) -> None:
        """Read the lines to be claimed: as many as memory has room for, and all that begin before *upto*."""
        while self._unread and self.fd >= 0:
            begin, end = self._unread[0]
            if begin >= upto and len(self._claims) >= RECOVERY_POINTS_MAX:
                return
            del self._unread[0]
            for at, data in self._whole_lines(begin, end):
                for line in LINE.finditer(data):
                    for point in identities(line[0] + b"\n"):
                        self._claims[point] = at + line.start(), at + line.end() + 1
                if at + len(data) < end:
                    self._unread.insert(0, (at + len(data), end))
                break

    def _whole_lines(self, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield stretches of whole lines, about BLOCK_BYTES each, and where they begin."""
        size = BLOCK_BYTES
        while begin < end:
            data = os.pread(self.fd, min(size, end - begin), begin)
            cut = data.rfind(b"\n") + 1
            if cut == 0 and len(data) == size and size < end - begin:
                size *= 2  # an endless line: not ours, but to be got over
                continue
            if not data:
                return
            yield begin, data[: cut or len(data)]
            begin += cut or len(data)
            size = BLOCK_BYTES

    def _mended(self, begin: int, end: int) -> int:
        """Cut a torn last line, and lines of NULs that a power cut left behind *begin*; return the new end."""
        tail = b""
        at = end
        while at > 0 and b"\n" not in tail:
            at = max(at - BLOCK_BYTES, 0)
            tail = os.pread(self.fd, end - at, at)
        whole = at + tail.rfind(b"\n") + 1
        if whole < end:
            files.fs.truncate(self.fd, whole)
        for start, data in self._whole_lines(min(begin, whole), whole):
            if b"\0" in data:
                rest = os.pread(self.fd, whole - start, start)
                kept = b"".join(line for line in rest.splitlines(keepends=True) if b"\0" not in line)
                files.fs.truncate(self.fd, start)
                _write_whole(self.fd, kept, start)
                return start + len(kept)
        return whole

    def _create(self, data: bytes, work: str) -> bool:
        """Make the file with *data* in it, unless someone else has made it: whether it is ours."""
        temporary = temporary_in(work)
        fd, placed = files.fs.create_shared(temporary), False
        try:
            _write_whole(fd, data, 0)
            placed = place_if_new(temporary, self.path)
        finally:
            if not placed:
                files.fs.close(fd)
                with contextlib.suppress(OSError):
                    files.fs.unlink(temporary)
        if placed:
            self.fd = fd
        return placed

    def _forget(self) -> None:
        self.length, self.top, self._indexed = 0, BEFORE_ALL, 0
        self._blocks.clear()
        self._claims.clear()
        self._unread.clear()
        self._unranked.clear()


def _write_whole(fd: int, data: bytes, length: int) -> None:
    """Append *data* with one write, or leave the file at *length*, as it was, and raise."""
    if not data:
        return
    written = files.fs.append(fd, data)
    if written != len(data):  # the device is full: half a line would read as another number
        files.fs.truncate(fd, length)
        raise OSError(28, os.strerror(28))
