"""The one thread: ring → frame → segment, roll, sync.

The pump is where a stalled, full or broken disk is met. It never raises into training and never makes a log call wait:
what it cannot write stays in the ring, and it tries again at its next turn.

Source: design.md §2.1-2.2.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgpack

from trainspool.complaints import warn
from trainspool.spool import files, lock
from trainspool.spool.events import Piece, pieces
from trainspool.spool.layout import STAGING
from trainspool.spool.ring import Ring
from trainspool.spool.segment import SegmentWriter
from trainspool.syncer import Syncer

TURN_INTERVAL_S = 0.1
SYNC_INTERVAL_S = 1.0
FRAME_BYTES = 128 << 10
SEGMENT_BYTES = 16 << 20
SEGMENT_AGE_S = 3600.0
KEPT_BYTES_MAX = 8 << 20
COMPLAINT_INTERVAL_S = 60.0


class Kept(NamedTuple):
    """A frame since the last good sync, to be written again if a sync fails."""

    offset: int
    events_before: int
    points_before: int
    piece: Piece


class Pump:
    """Carries one stream's ring into its segments. ``turn`` and ``finish`` from any thread; not for use after fork.

    Args:
        folder: the stream's folder; made at the first turn that has something to write.
        stream: the stream's id; shape (16,) bytes.
        identity: msgpack map of the writer.
        ring: where events come from; ``rings`` takes further ones if it has to be replaced.
        housekeeping: called at every turn, in the pump's thread.
    """

    def __init__(
        self, folder: str, stream: bytes, identity: bytes, ring: Ring, housekeeping: Callable[[], None]
    ) -> None:
        self.folder, self.stream, self.identity = folder, stream, identity
        self.rings: deque[Ring] = deque((ring,))
        self.error: OSError | None = None
        self.staged: deque[str] = deque()
        self.synced_offset = 0
        self.turned = threading.Condition()
        self._housekeeping = housekeeping
        self._wake, self._stopping = threading.Event(), False
        self._turn_lock = threading.Lock()
        self._lock_fd = -1
        self._writer: SegmentWriter | None = None
        self._opened_at = self._sync_due = self._complained_at = 0.0
        self._position = Kept(0, 0, 0, Piece(b"", 0, 0, [], []))
        self._dictionary: dict[bytes, bytes] = {}
        self._retired: list[bytes] = []
        self._kept: deque[Kept] = deque()
        self._kept_bytes = 0
        self._new_folders: list[str] = []
        self._syncer: Syncer | None = None
        self.thread = threading.Thread(target=self._run, name="trainspool-pump", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def wake(self) -> None:
        """Let the next turn begin now."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(TURN_INTERVAL_S)
            self._wake.clear()
            try:
                self.turn()
            except Exception:  # noqa: BLE001  a defect of ours must not end the only thread that writes
                warn("the pump met an error of its own; it goes on at its next turn", traceback=True)

    def turn(self) -> None:
        """Write what is committed; sync and roll if it is time. Never raises for the disk's reasons."""
        with self._turn_lock:
            try:
                self._housekeeping()
                self._drain()
                self._look_after_segment()
            except OSError as error:
                self._complain(error)
            else:
                self.error = None
        with self.turned:
            self.turned.notify_all()

    def finish(self, timeout: float) -> bool:
        """Stop the thread, write what is left and seal, within *timeout* seconds; whether all of it is in the spool.

        After True the caller may unlink the ring; ``turn`` still works, in the caller's thread, for what comes later.
        """
        deadline = time.monotonic() + timeout
        self._stopping = True
        self.wake()
        self.thread.join(timeout)
        if self.thread.is_alive():
            return False
        while True:
            self.turn()
            if self.drained() and self._seal_in_order():
                return True
            if time.monotonic() >= deadline or self.error is not None:
                return False

    def drained(self) -> bool:
        ring = self.rings[-1]
        return len(self.rings) == 1 and ring.head >= ring.end

    def drained_to(self, offset: int) -> bool:
        return self._position.offset >= offset

    # -- ring → segment -----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while True:
            ring = self.rings[0]
            data = ring.committed()
            if data:
                self._write_all(ring, data)
            elif len(self.rings) > 1 and ring.is_exhausted():
                self.rings.popleft().unlink()
            else:
                return

    def _write_all(self, ring: Ring, data: bytes) -> None:
        for piece in _whole_pieces(data):
            writer = self._writer or self._open()
            writer.append(piece)
            self._keep(piece)
            ring.advance(len(piece.data))

    def _keep(self, piece: Piece) -> None:
        before = self._position
        self._kept.append(Kept(before.offset, before.events_before, before.points_before, piece))
        self._kept_bytes += len(piece.data)
        while self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft().piece.data)
        self._position = Kept(
            before.offset + len(piece.data),
            before.events_before + piece.events,
            before.points_before + piece.points,
            piece,
        )
        for definition in piece.definitions:
            self._dictionary[_definition_name(definition)] = definition
        self._retired += (b"\x04" + msgpack.packb(run) for run in piece.ended)

    def _open(self) -> SegmentWriter:
        """Begin a segment where the stream stands; the folder and the lock first, if this is the first one."""
        if self._lock_fd < 0:
            files.fs.make_folder(f"{self.folder}/{STAGING}")
            self._lock_fd = lock.hold(self.folder)
            parents = [self.folder, *(self.folder.rsplit("/", depth)[0] for depth in (1, 2, 3))]
            self._new_folders += parents
        at = self._position
        writer = self._new_writer(at)
        for run in self._retired:  # ended before this segment; only now, as a frame may still have used them
            self._dictionary.pop(run, None)
        self._retired.clear()
        self._writer, self._opened_at = writer, time.monotonic()
        return writer

    def _new_writer(self, at: Kept) -> SegmentWriter:
        definitions = list(self._dictionary.values())
        writer = SegmentWriter(
            self.folder, self.stream, self.identity, definitions, at.offset, at.events_before, at.points_before
        )
        self._new_folders.append(self.folder)
        return writer

    # -- the segment's health -----------------------------------------------------------------------------------

    def _look_after_segment(self) -> None:
        self._hear_syncer()
        writer, now = self._writer, time.monotonic()
        if writer is None:
            return
        if writer.broken or _is_gone(writer):
            self._rewrite()
        elif writer.bytes >= SEGMENT_BYTES or now - self._opened_at >= SEGMENT_AGE_S:
            writer.seal()
            self._request_sync(writer, last=True)
            self._writer = None
        elif now >= self._sync_due and (self._syncer is None or self._syncer.idle) and self._kept:
            self._sync_due = now + SYNC_INTERVAL_S
            self._request_sync(writer, last=False)

    def _request_sync(self, writer: SegmentWriter, *, last: bool) -> None:
        if self._syncer is None:
            self._syncer = Syncer()
        folders, self._new_folders = list(dict.fromkeys(self._new_folders)), []
        staged = [self.staged.popleft() for _ in range(len(self.staged))]
        self._syncer.request(writer, last=last, folders=folders, staged=staged)

    def sync_now(self) -> None:
        """Ask for a sync at the next turn rather than in its own time."""
        self._sync_due = 0.0
        self.wake()

    def _hear_syncer(self) -> None:
        while self._syncer is not None and self._syncer.results:
            result = self._syncer.results.popleft()
            if result.error is not None:
                self._complain(result.error)
                self._rewrite()
                continue
            self.synced_offset = max(self.synced_offset, result.offset)
            while self._kept and self._kept[0].offset + len(self._kept[0].piece.data) <= result.offset:
                self._kept_bytes -= len(self._kept.popleft().piece.data)

    def _rewrite(self) -> None:
        """Leave a segment that cannot be trusted, and write what is not known to be on the device to a new one.

        After a failed sync the kernel may have dropped the pages and marked them clean, so trying again would lie
        (LWN, "PostgreSQL's fsync() surprise", 2018). If we die half-way, both files hold equal bytes: a reader skips.
        """
        suspect, self._writer = self._writer, None
        if not self._kept:
            return
        if _folder_is_gone(self.folder):
            self._lock_fd = self._close_lock()
            files.fs.make_folder(f"{self.folder}/{STAGING}")
            self._lock_fd = lock.hold(self.folder)
        writer = self._new_writer(self._kept[0])
        for kept in self._kept:
            writer.append(kept.piece)
        self._writer, self._opened_at = writer, time.monotonic()
        warn("left %s, whose content is suspect; written again to %s", suspect and suspect.path, writer.path)

    def _close_lock(self) -> int:
        if self._lock_fd >= 0:
            files.fs.close(self._lock_fd)
        return -1

    def _seal_in_order(self) -> bool:
        if self._writer is None:
            return True
        try:
            self._writer.seal(in_order=True)
        except OSError as error:
            self._complain(error)
            return False
        self._request_sync(self._writer, last=True)
        self._writer = None  # what comes later, from another exit handler, begins a new segment
        return True

    def _complain(self, error: OSError) -> None:
        """Remember why the spool takes nothing; say it once a minute, not ten times a second."""
        writer = self._writer
        if writer is not None and writer.broken:
            self._writer = None
        self.error = error
        now = time.monotonic()
        if now - self._complained_at >= COMPLAINT_INTERVAL_S or not self._complained_at:
            self._complained_at = now
            ring = self.rings[-1]
            warn(
                "cannot write the spool in %s: %s. Training goes on; the last %d KiB wait in memory, "
                "and are dropped and counted beyond that. Next: make room or rights there; trainspool doctor",
                self.folder,
                error,
                ring.ring_bytes >> 10,
            )

    def close_after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent, and unlock nothing."""
        for fd in (self._lock_fd, self._writer.fd if self._writer else -1):
            if fd >= 0:
                os.close(fd)


def _whole_pieces(data: bytes) -> list[Piece]:
    try:
        return list(pieces(data, FRAME_BYTES))
    except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException):
        # Foreign code wrote into our memory. The bytes go to disk as they are, and the agent names the damage.
        warn("the ring holds bytes that are no events; kept as they are", traceback=True)
        return [Piece(data, 0, 0, [], [])]


def _definition_name(definition: bytes) -> bytes:
    """Kind and id, as packed: the two elements behind the array header."""
    kind, number, *_ = msgpack.unpackb(definition, unicode_errors="surrogateescape", strict_map_key=False)
    return bytes((kind,)) + bytes(msgpack.packb(number))


def _is_gone(writer: SegmentWriter) -> bool:
    return os.fstat(writer.fd).st_nlink == 0


def _folder_is_gone(folder: str) -> bool:
    return not os.path.isdir(folder)
