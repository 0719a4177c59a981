"""Streams wherever they lie, read in order without touching them: segments, then what a ring on this host still holds.

Nothing here writes, locks or waits, so copies and read-only media do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from trainspool.errors import SpoolError
from trainspool.spool import events as ev
from trainspool.spool import layout
from trainspool.spool.items import Damage, Frame, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfile import RingView, read_ring
from trainspool_agent import discover
from trainspool_agent.compact import EventFrame
from trainspool_agent.look import reading, walk
from trainspool_agent.look.spool import ring_places

DEPTH_MAX = 4  # from the folder named down to a stream: spool, streams, host, stream
READ_BYTES = 1 << 20
RING_PIECE_BYTES = 128 << 10
RING_TRIES = 5
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


class Source(NamedTuple):
    """One stream: where it lies, its id, and the rings on this host that may hold its end."""

    folder: Path
    name: str
    rings: tuple[Path, ...] = ()

    @property
    def segment_bytes(self) -> int:
        sizes = 0
        for name in layout.segments(self.folder):
            with contextlib.suppress(OSError):
                sizes += os.stat(self.folder / str(name)).st_size
        return sizes


class Defined(NamedTuple):
    """Definitions that hold from here on."""

    definitions: bytes


Part = Defined | EventFrame | Damage


def find(places: Iterable[Path]) -> list[Source]:
    """Return the streams below *places*: spools, copies of them or of parts of them, single streams; oldest first.

    Raises:
        SpoolError: a place holds no stream.
        OSError: a place cannot be read.
    """
    _, rings = ring_places()
    found: dict[Path, Source] = {}
    for place in places:
        folders = list(_stream_folders(place.absolute(), DEPTH_MAX))
        in_rings = [ring.place.folder for ring in rings if ring.place.spool == place.absolute()]
        if not folders and not in_rings:
            raise SpoolError("no stream", place, 0, "everything", "name a spool, a copy of one, or a stream's folder")
        for folder in dict.fromkeys([*folders, *in_rings]):
            name = _name_of(folder)
            if name is not None:
                own = tuple(ring.path for ring in rings if ring.place.name == name)
                found[folder] = Source(folder, name, own)
    return sorted(found.values(), key=_birth)


def _stream_folders(folder: Path, depth: int) -> Iterator[Path]:
    if layout.is_stream_name(folder.name) or layout.segments(folder):
        yield folder
    elif depth:
        with os.scandir(folder) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in below:
            yield from _stream_folders(folder / name, depth - 1)


def _name_of(folder: Path) -> str | None:
    """The stream's id: the folder's name, else, in a copy by another name, what its first frame says."""
    if layout.is_stream_name(folder.name):
        return folder.name
    for segment in layout.segments(folder):
        with contextlib.suppress(OSError, SpoolError):
            return reading.stream_in(folder / str(segment))
    return None


def _birth(source: Source) -> tuple[int, str, str]:
    """Streams that write to one run are then applied about as they were written."""
    wall: Any = 0
    with contextlib.suppress(OSError):
        wall = (discover.read_identity(source.folder) or {}).get("wall")
    return wall if isinstance(wall, int) else 0, source.name, str(source.folder)


class Parts:
    """What one stream holds now, in order. Iterate ``read`` once, then look at the rest."""

    def __init__(self, source: Source) -> None:
        names = layout.segments(source.folder)
        self.source, self.begin = source, names[0].offset if names else 0
        """*begin*: where the oldest segment that is left begins."""
        self.error: Exception | None = None
        """Why reading stopped before the end: another format version, a refused file, the disk."""
        self._reader = StreamReader(
            source.folder, bytes.fromhex(source.name), self.begin, writer_alive=lambda: not self._is_sealed()
        )
        self.offset = self.begin

    def read(self) -> Iterator[Part]:
        try:
            yield from self._segments()
            yield from self._ring()
        except (SpoolError, OSError) as error:
            self.error = error
        finally:
            self._reader.close()

    def _is_sealed(self) -> bool:
        """Whether nothing will be added, so that an unreadable end is damage rather than "not yet"."""
        names = layout.segments(self.source.folder)
        end = walk.segment_end(self.source.folder / str(names[-1])) if names else None
        return end is not None and end.sealed

    def _segments(self) -> Iterator[Part]:
        while items := self._reader.read(READ_BYTES):
            for item in items:
                if isinstance(item, Frame):
                    if item.definitions:
                        yield Defined(item.definitions)
                    yield EventFrame(item.offset, item.end, item.events)
                elif isinstance(item, Opened):
                    if item.dictionary:
                        yield Defined(item.dictionary)
                else:
                    yield item
                self.offset = self._reader.offset

    def _ring(self) -> Iterator[Part]:
        """The ring's rest. What is drained and overwritten while we read is taken from the segments instead."""
        for _ in range(RING_TRIES):
            view = self._open_ring()
            if view is None:
                return
            with contextlib.closing(view):
                begin = self._reader.offset
                chunks = list(view.committed(begin))
                if view.head <= begin:
                    yield from self._ring_frames(begin, chunks, view.path)
                    return
            yield from self._segments()

    def _open_ring(self) -> RingView | None:
        for path in self.source.rings:
            with contextlib.suppress(OSError, SpoolError, *_MALFORMED):
                view = read_ring(path)
                if view.stream.hex() == self.source.name:
                    return view
                view.close()
        return None

    def _ring_frames(self, begin: int, chunks: list[bytes], path: Path) -> Iterator[Part]:
        for chunk in chunks:
            try:
                for piece in ev.pieces(chunk, RING_PIECE_BYTES):
                    end = begin + len(piece.data)
                    yield EventFrame(begin, end, piece.data)
                    if piece.definitions:
                        yield Defined(b"".join(piece.definitions))
                    begin = self.offset = end
            except _MALFORMED as error:
                self.error = SpoolError(
                    f"a ring whose events are unreadable ({error})", path, 0, "what stands before", "trainspool verify"
                )
                return
