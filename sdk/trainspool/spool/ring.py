"""The shared-memory buffer: append, drain; the only place that drops, and it counts.

An append is two statements, and each is one step of the interpreter that nothing can divide, neither another
thread nor a signal handler, a finalizer or a Ctrl-C::

    chunk.write(event)              # mmap.write: copy to the end and move the end, or ValueError when it does not fit
    chunk.tail[0] = chunk.position  # the commit: the store asks mmap.tell itself, so a commit never goes backwards

So there is no lock to take, to wait for or to leak (agent/docs/decisions/0001-append-without-a-lock.md). Interpreters
without a GIL get a chunk that does both under a lock.

Source: sdk/docs/spool-format.md, "Ring".
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainspool.spool import ringfile
from trainspool.spool.events import FILLER

RING_BYTES = 8 << 20
RING_BYTES_MIN = 256 << 10
RING_BYTES_MAX = ringfile.CHUNKS_MAX * ringfile.CHUNK_BYTES_MAX
FREE_MEMORY_SHARE = 8  # a ring takes at most this part of what is free
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14: page faults now rather than in a log call


class Chunk:
    """One lap over one stretch of the ring. ``write`` and ``tail`` are what the log call touches; any thread may.

    Does not survive fork: the child's copies are made harmless by ``Ring.abandon``.
    """

    __slots__ = ("base", "memory", "next", "position", "tail", "words", "write")

    def __init__(self, memory: mmap.mmap, words: memoryview, base: int, position: object = None) -> None:
        self.memory = memory
        self.words = words  # two words of the header: base, tail
        self.base = base
        self.write: Callable[[bytes], object] = memory.write
        self.tail: Any = words[1:]
        # A type per chunk, as Python looks special methods up on the type. A C function: no bytecode runs in between.
        self.position = position or type("Position", (), {"__slots__": (), "__index__": memory.tell})()
        self.next: Chunk = self

    def fill(self) -> None:
        """Commit the rest of the chunk as fillers; repeatable, and right beside other writers."""
        size = len(self.memory)
        while not self.refused and (rest := size - self.memory.tell()):
            with contextlib.suppress(ValueError):  # another thread's event took some of it: fill what is left now
                self.write(FILLER * rest)
        self.tail[0] = self.position

    def renewed(self, base: int) -> Chunk:
        """Return the next lap over a chunk that is full and drained. Only the pump does this.

        A thread may still hold this object, about to write: it is refused, and looks for the ring's present chunk.
        """
        self.refuse()
        self.words[1] = 0  # before the base: dying in between leaves an empty chunk, not old bytes under a new name
        self.memory.seek(0)
        self.words[0] = base
        return type(self)(self.memory, self.words, base, self.position)

    @property
    def refused(self) -> bool:
        """Whether this object's lap is over, or a fork made it another process's."""
        return self.write is _refuse

    def refuse(self) -> None:
        """Let every further append by this object fail, without touching the memory."""
        self.write, self.tail = _refuse, [0]

    def abandon(self) -> None:
        """``refuse`` in a forked child, where a thread that is not here may hold any lock."""
        self.refuse()


class FreeThreadedChunk(Chunk):
    """The same without a GIL: copy and commit under a lock, and the caller's own commit goes nowhere."""

    __slots__ = ("closed", "lock")

    def __init__(self, memory: mmap.mmap, words: memoryview, base: int, position: object = None) -> None:
        super().__init__(memory, words, base, position)
        self.lock, self.closed = threading.RLock(), False
        self.write, self.tail = self._write_and_commit, [0]

    def _write_and_commit(self, data: bytes) -> None:
        with self.lock:
            if self.closed:
                _refuse(data)
            self.memory.write(data)
            self.words[1] = self.memory.tell()

    def fill(self) -> None:
        with self.lock:
            super().fill()

    @property
    def refused(self) -> bool:
        return self.closed

    def refuse(self) -> None:
        with self.lock:
            self.closed = True

    def abandon(self) -> None:
        self.lock, self.closed = threading.RLock(), True
        self.words = memoryview(bytearray(16)).cast("Q")  # for a call that was past the question when it forked


def _refuse(_: bytes) -> object:
    raise ValueError("this ring takes no more")


def _chunk_class() -> type[Chunk]:
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return Chunk if has_gil else FreeThreadedChunk


class Ring:
    """A stream's ring. ``append`` and ``drop`` from any thread; the rest belongs to the pump.

    Args:
        stream: the stream's id; shape (16,) bytes.
        identity: msgpack map of the writer, at most 4096 bytes.
        folder: where the ring file is made; None for private memory, which a kill loses.
        ring_bytes: wanted size; at most 1/8 of the memory that is free, at least 256 KiB.
        base: the stream offset at which the ring begins.

    Raises:
        OSError: the file cannot be made, or there is no room for it; nothing is left behind.
    """

    def __init__(
        self, stream: bytes, identity: bytes, folder: Path | None, ring_bytes: int = RING_BYTES, base: int = 0
    ) -> None:
        self.path = folder / f"{stream.hex()}.ring" if folder else None
        chunk_bytes, count = _shape(folder, ring_bytes)
        self.ring_bytes = chunk_bytes * count
        self.chunk_bytes = chunk_bytes
        try:
            self._lay_out(*_map(self.path, chunk_bytes, count), stream, identity, base)
        except FileExistsError:
            raise
        except BaseException:  # Ctrl-C too: leave no file without a magic, which nobody would ever remove
            self.unlink()
            raise

    def _lay_out(self, header: mmap.mmap, memories: list[mmap.mmap], stream: bytes, identity: bytes, base: int) -> None:
        self._header: mmap.mmap | bytearray = header
        self.words = memoryview(header).cast("Q")
        self._lock = threading.RLock()
        self._dropped: deque[tuple[str, int, int]] = deque()
        self._counting = False
        self.successor: int | None = None
        self._next: Ring | None = None
        self.drop_slots: dict[str, int] = {}
        header[ringfile.IDENTITY_AT : ringfile.IDENTITY_AT + len(identity)] = identity
        self.chunks = self._make_chunks(memories, base)
        self.chunk = self.chunks[0]
        self._draining = self.chunk
        self.words[ringfile.WORDS_AT // 8 + ringfile.HEAD] = base
        fixed = (ringfile.VERSION, self.chunk_bytes, stream, len(memories), len(identity), zlib.crc32(identity))
        # The magic last: until it stands, nobody takes this file for a ring.
        header[8 : ringfile.FIXED.size] = ringfile.FIXED.pack(ringfile.MAGIC, *fixed)[8:]
        header[:8] = ringfile.MAGIC

    def _make_chunks(self, memories: list[mmap.mmap], base: int) -> list[Chunk]:
        make = _chunk_class()
        first_word = ringfile.CHUNK_TABLE_AT // 8
        chunks = []
        for index, memory in enumerate(memories):
            words = self.words[first_word + 2 * index : first_word + 2 * index + 2]
            words[0] = base + index * self.chunk_bytes
            chunks.append(make(memory, words, base + index * self.chunk_bytes))
        for chunk, following in zip(chunks, chunks[1:] + chunks[:1], strict=True):
            chunk.next = following
        return chunks

    # -- the logging side ---------------------------------------------------------------------------------------

    def append(self, data: bytes) -> bool:
        """Add whole events; False if the ring is full, and then nothing was added. Never waits for the disk."""
        chunk = self.chunk
        while True:
            try:
                chunk.write(data)
            except ValueError:
                following = self._rotate(chunk) if len(data) <= self.chunk_bytes else None
                if following is None:
                    return False
                chunk = following
            else:
                chunk.tail[0] = chunk.position
                return True

    def _rotate(self, full: Chunk) -> Chunk | None:
        """Go on to the next chunk; None if the pump has not drained it yet."""
        with self._lock:
            if self.chunk is not full:
                return self.chunk
            following = full.next
            if following.base != full.base + self.chunk_bytes:
                return None
            full.fill()
            # Only if a signal handler during the fill has not gone further: its chunks may have had their lap already.
            if self.chunk is full:
                self.chunk = following
            return self.chunk

    def drop(self, run_id: str, points: int, events: int) -> None:
        """Count what did not fit, in the header, so that the count outlives the process."""
        if self._next is not None:
            self._next.drop(run_id, points, events)
            return
        self._dropped.append((run_id, points, events))
        with self._lock:
            if self._counting:  # a signal handler inside the loop below, which goes on to count this one too
                return
            self._counting = True
            try:
                while self._dropped:
                    self._count(*self._dropped.popleft())
            finally:
                self._counting = False

    def _count(self, run_id: str, points: int, events: int) -> None:
        slot = self.drop_slots.get(run_id)
        if slot is None:
            slot = self.drop_slots[run_id] = min(len(self.drop_slots), ringfile.DROP_SLOTS - 1)
            if slot < ringfile.DROP_SLOTS - 1:
                at = ringfile.DROPS_AT + slot * ringfile.DROP_SLOT.size
                self._header[at : at + 32] = run_id.encode("ascii", "replace")[:32].ljust(32, b"\0")
        word = self._drop_words(slot)
        self.words[word] += points
        self.words[word + 1] += events

    @staticmethod
    def _drop_words(slot: int) -> int:
        return (ringfile.DROPS_AT + slot * ringfile.DROP_SLOT.size + 32) // 8

    # -- the pump's side ----------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        """The stream offset before which everything is in segments."""
        return self.words[ringfile.WORDS_AT // 8 + ringfile.HEAD]

    @property
    def end(self) -> int:
        """The stream offset behind the last committed byte."""
        if self.successor is not None:
            return self.successor
        chunk = self.chunk
        return chunk.base + chunk.words[1]

    @property
    def stored(self) -> int:
        """The stream offset before which everything is in the store, as the agent last said."""
        return self.words[ringfile.WORDS_AT // 8 + ringfile.STORED]

    def dropped(self, run_id: str) -> tuple[int, int]:
        """Points and events dropped for a run since the stream's birth."""
        slot = self.drop_slots.get(run_id)
        if slot is None:
            return 0, 0
        word = self._drop_words(slot)
        return self.words[word], self.words[word + 1]

    def committed(self) -> bytes:
        """Return what is committed and not drained, up to the end of one chunk; whole events."""
        chunk = self._draining
        begin = self.head - chunk.base
        return chunk.memory[begin : chunk.words[1]]

    def advance(self, count: int) -> None:
        """The first *count* bytes of ``committed()`` are in a segment; a chunk drained to its end is free again."""
        head = self.head + count
        self.words[ringfile.WORDS_AT // 8 + ringfile.HEAD] = head
        chunk = self._draining
        if head == chunk.base + self.chunk_bytes:
            self._rotate(chunk)  # if nobody has: an event may have ended exactly where the chunk does
            self._draining = chunk.next
            self._renew(chunk)

    def _renew(self, chunk: Chunk) -> None:
        index = self.chunks.index(chunk)
        renewed = chunk.renewed(chunk.base + self.ring_bytes)
        renewed.next = chunk.next
        self.chunks[index] = renewed
        self.chunks[index - 1].next = renewed  # from here on the chunk before may rotate into it

    def is_exhausted(self) -> bool:
        """Whether a replaced ring is drained to where the next ring begins."""
        return self.successor is not None and self.head >= self.successor

    def replace(self, stream: bytes, identity: bytes, folder: Path | None) -> Ring:
        """Return a new ring that continues this one, with its drop counts; appends go there from now on.

        Raises:
            OSError: no new ring can be made; this one goes on.
        """
        with self._lock:
            last = self.chunk
            new = Ring(stream, identity, folder, self.ring_bytes, last.base + self.chunk_bytes)
            for run_id in self.drop_slots:
                new.drop(run_id, *self.dropped(run_id))
            last.fill()
            self.path = None  # its file is gone, and the new one may have the same name
            self._next, self.successor = new, new.chunk.base
            self.chunk = new.chunk  # a thread that is about to rotate here finds itself in the new ring
        return new

    def take_back(self) -> None:
        """Refuse whoever holds the present chunk, so that every append comes through ``append`` from now on."""
        with self._lock:
            held = self.chunk
            again = type(held)(held.memory, held.words, held.base, held.position)
            again.next = held.next
            if isinstance(again, FreeThreadedChunk) and isinstance(held, FreeThreadedChunk):
                again.lock = held.lock
            index = self.chunks.index(held)
            self.chunks[index] = self.chunks[index - 1].next = self.chunk = again
            if self._draining is held:
                self._draining = again
            held.refuse()
            again.words[1] = again.memory.tell()  # what was written through the refused one, and maybe not committed

    def is_unlinked(self) -> bool:
        """Whether someone removed our file (logind does at logout): the memory still works, but would die with us."""
        if self.path is None:
            return False
        try:
            os.stat(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def unlink(self) -> None:
        """Remove the file; the mapping stays usable."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.path = None

    def abandon(self) -> None:
        """In a forked child: this is the parent's ring; never touch it again, not even from a call in progress."""
        for chunk in self.chunks:
            chunk.abandon()
        self._lock, self._header = threading.RLock(), bytearray(ringfile.HEADER_BYTES)
        self.words = memoryview(self._header).cast("Q")


def _shape(folder: Path | None, ring_bytes: int) -> tuple[int, int]:
    """Return chunk size and count for a ring of about *ring_bytes*."""
    if folder is not None:
        info = os.statvfs(folder)
        ring_bytes = min(ring_bytes, info.f_bavail * info.f_frsize // FREE_MEMORY_SHARE)
    ring_bytes = max(RING_BYTES_MIN, min(ring_bytes, RING_BYTES_MAX))
    unit = ringfile.CHUNK_BYTES_UNIT
    chunk_bytes = min(max(ring_bytes // 8 // unit * unit, unit), ringfile.CHUNK_BYTES_MAX)
    return chunk_bytes, min(ring_bytes // chunk_bytes, ringfile.CHUNKS_MAX)


def _map(path: Path | None, chunk_bytes: int, count: int) -> tuple[mmap.mmap, list[mmap.mmap]]:
    """Map header and chunks, each its own object: an mmap's end is what bounds an append."""
    if path is None:
        return mmap.mmap(-1, ringfile.HEADER_BYTES), [_populated(mmap.mmap(-1, chunk_bytes)) for _ in range(count)]
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    try:
        os.posix_fallocate(fd, 0, ringfile.HEADER_BYTES + count * chunk_bytes)  # else a full tmpfs is SIGBUS
        header = mmap.mmap(fd, ringfile.HEADER_BYTES, **options)
        offsets = (ringfile.HEADER_BYTES + index * chunk_bytes for index in range(count))
        return header, [_populated(mmap.mmap(fd, chunk_bytes, offset=at, **options)) for at in offsets]
    finally:
        os.close(fd)


def _populated(memory: mmap.mmap) -> mmap.mmap:
    with contextlib.suppress(OSError):  # an older kernel: the first lap pays a page fault every 4 KiB
        memory.madvise(_POPULATE_WRITE)
    return memory
