"""One segment file: create, append, seal.

Source: sdk/docs/spool-format.md, "Files" and "Frame".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from trainspool.spool import files, frame
from trainspool.spool.events import Piece
from trainspool.spool.layout import SegmentName

ATTEMPTS_MAX = 256
DICTIONARY_FRAME_BYTES = 512 << 10
ENDED_IN_ORDER = b"\xc3"  # msgpack true: the body of the last seal of a process that left in order


class SegmentWriter:
    """Appends frames to one new segment. One thread at a time; not for use after fork.

    Args:
        folder: the stream's folder.
        stream: the stream's id; shape (16,) bytes.
        identity: msgpack map of the writer.
        dictionary: every definition in use before *offset*, each one packed event.
        offset: stream offset of the first event byte that will be appended.
        events_before, points_before: the stream's counts before *offset*.

    Raises:
        OSError: the file cannot be made; what was made of it is removed or left as a torn, harmless one.
    """

    def __init__(
        self,
        folder: str,
        stream: bytes,
        identity: bytes,
        dictionary: Iterable[bytes],
        offset: int,
        events_before: int,
        points_before: int,
    ) -> None:
        self.stream, self.offset = stream, offset
        self.events_before, self.points_before = events_before, points_before
        self.path, self.fd = _create(folder, offset)
        self.bytes = 0
        self.broken = False  # the file's end is not known to be a frame's end: use no more
        self._repeat = b""
        try:
            self._mark(frame.IDENTITY, identity)
            for definitions in _batches(dictionary):
                self._mark(frame.DICTIONARY, definitions)
        except OSError:
            files.fs.close(self.fd)
            with contextlib.suppress(OSError):
                files.fs.unlink(self.path)
            raise

    def append(self, *pieces: Piece) -> None:
        """Write a data frame for each of *pieces*, all of them at once.

        Raises:
            OSError: nothing of it counts; the file was cut back to its last frame, or else ``broken`` is set.
        """
        frames: list[bytes] = []
        repeat, offset, events, points = self._repeat, self.offset, self.events_before, self.points_before
        for piece in pieces:
            frames.append(
                frame.encode(
                    frame.DATA,
                    self.stream,
                    offset,
                    definitions=repeat,
                    events=piece.data,
                    events_before=events,
                    points_before=points,
                    event_count=piece.events,
                    point_count=piece.points,
                )
            )
            repeat = b"".join(piece.definitions)
            offset, events, points = offset + len(piece.data), events + piece.events, points + piece.points
        self._write(b"".join(frames))
        self._repeat, self.offset, self.events_before, self.points_before = repeat, offset, events, points

    def heartbeat(self) -> None:
        """Write an empty frame that says the writer lives. Raises OSError as ``append`` does."""
        self._mark(frame.HEARTBEAT)

    def seal(self, *, in_order: bool = False) -> None:
        """Say that the segment will not grow; *in_order* if its process leaves and its ring is drained."""
        self._mark(frame.SEAL, ENDED_IN_ORDER if in_order else b"")

    def sync(self) -> None:
        """Bring the file's content to the device. Raises OSError; then never trust this file's cache again."""
        files.fs.sync(self.fd)

    def close(self) -> None:
        files.fs.close(self.fd)

    def _mark(self, kind: int, body: bytes = b"") -> None:
        before, points = self.events_before, self.points_before
        self._write(
            frame.encode(kind, self.stream, self.offset, events=body, events_before=before, points_before=points)
        )

    def _write(self, data: bytes) -> None:
        try:
            files.fs.write(self.fd, data)
        except OSError:
            # Part of it may be there. Cut it off, so that what follows stands where a reader looks for it.
            try:
                files.fs.truncate(self.fd, self.bytes)
            except OSError:
                self.broken = True
            raise
        self.bytes += len(data)


def _create(folder: str, offset: int) -> tuple[str, int]:
    for attempt in range(ATTEMPTS_MAX):
        path = f"{folder}/{SegmentName(offset, attempt)}"
        try:
            return path, files.fs.create(path)
        except FileExistsError:
            continue
    raise FileExistsError(f"{ATTEMPTS_MAX} segments begin at offset {offset} in {folder}")


def _batches(dictionary: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for definition in dictionary:
        batch.append(definition)
        size += len(definition)
        if size >= DICTIONARY_FRAME_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)
