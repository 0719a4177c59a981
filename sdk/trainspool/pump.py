"""The one thread: ring → frame → segment, roll, sync.

The pump is where a stalled, full or broken disk is met. It never raises into training and never makes a log call wait:
what it cannot write stays in the ring, and it tries again at its next turn.

Source: design.md §2.1-2.2.
"""

from __future__ import annotations

import contextlib
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
from trainspool.spool.quota import Room
from trainspool.spool.ring import Ring
from trainspool.spool.segment import SegmentWriter
from trainspool.syncer import Syncer

TURN_INTERVAL_S = 0.1
SYNC_INTERVAL_S = 1.0
FRAME_BYTES = 128 << 10
SEGMENT_BYTES = 16 << 20
SEGMENT_AGE_S = 3600.0
SYNC_BACKOFF_S_MAX = 60.0
KEPT_BYTES_MAX = 8 << 20
HEARTBEAT_INTERVAL_S = 10.0
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
        self.room = Room(folder)
        self._housekeeping = housekeeping
        self._wake, self._stopping = threading.Event(), False
        self._turn_lock, self._turning = threading.Lock(), 0
        self._running = threading.Lock()
        self._lock_fd = -1
        self._locks_work = True
        self._writer: SegmentWriter | None = None
        self._unfinished: SegmentWriter | None = None  # a rewrite under way
        self._suspect = False  # what is kept must be written again, to a new segment, before anything else
        self._trusted: list[SegmentWriter] = []  # whose syncs count: opened since what is kept was last written again
        self._opened_at = self._sync_due = self._sync_backoff_s = self._complained_at = self._heartbeat_due = 0.0
        self._position = Kept(0, 0, 0, Piece(b"", 0, 0, [], []))
        self._dictionary: dict[bytes, bytes] = {}
        self._retired: list[bytes] = []
        self._kept: deque[Kept] = deque()
        self._kept_bytes = 0
        self._new_folders: list[str] = []
        self._syncer: Syncer | None = None
        self.started = False
        self.thread = threading.Thread(target=self._run, name="trainspool-pump", daemon=True)

    def start(self) -> bool:
        """Start the thread, again if that was interrupted; False if the interpreter starts none any more."""
        thread = threading.Thread(target=self._run, name="trainspool-pump", daemon=True)
        if not self.started:
            self.thread = thread
            try:
                thread.start()
            except RuntimeError:  # Python >= 3.12, at exit
                self.started = True
                return False
            self.started = True
        return True

    def wake(self) -> None:
        """Let the next turn begin now."""
        self._wake.set()

    def _run(self) -> None:
        if not self._running.acquire(blocking=False):
            return  # started twice: the first start was interrupted after it had done its work
        self.thread = threading.current_thread()
        while not self._stopping:
            self._wake.wait(TURN_INTERVAL_S)
            self._wake.clear()
            try:
                self.turn()
            except Exception:  # noqa: BLE001  a defect of ours must not end the only thread that writes
                warn("the pump met an error of its own; it goes on at its next turn", traceback=True)

    def turn(self) -> None:
        """Write what is committed; sync and roll if it is time. Never raises for the disk's reasons."""
        if self._turning == threading.get_ident():
            return  # a signal handler or finalizer within a turn of this thread, at exit
        with self._turn_lock:
            self._turning = threading.get_ident()
            try:
                self._housekeeping()
                self._mend_segment()
                # At the end the ring's rest goes to disk all the same: whoever finishes the stream would write it.
                full = None if self._stopping else self.room.refusal()
                if full is None:
                    self._drain()
                self._look_after_segment()
                if full is not None:
                    raise full
            except OSError as error:
                self._complain(error)
            else:
                self.error = None
            finally:
                self._turning = 0
        with self.turned:
            self.turned.notify_all()

    def finish(self, timeout: float) -> bool:
        """Stop the thread, write what is left and seal, within *timeout* seconds; whether all of it is in the spool.

        After True the caller may unlink the ring; ``turn`` still works, in the caller's thread, for what comes later.
        """
        deadline = time.monotonic() + timeout
        self._stopping = True
        self.wake()
        if self.thread.ident is not None:
            self.thread.join(timeout)
        if self.thread.is_alive():
            return False
        while True:
            self.turn()
            if self.drained() and self._seal_in_order():
                return True
            if time.monotonic() >= deadline or self.error is not None:
                return False

    def drain_now(self) -> bool:
        """In this thread: bring what is committed to a segment; whether it is there, or a turn under way sees to it."""
        while not self.drained():
            if self._turning == threading.get_ident():
                return True
            self.turn()
            if self.error is not None:
                return False
        return True

    def drained(self) -> bool:
        ring = self.rings[-1]
        return len(self.rings) == 1 and ring.head >= ring.end

    def drained_to(self, offset: int) -> bool:
        return self._position.offset >= offset

    def is_durable(self, offset: int) -> bool:
        """Whether the events before *offset*, and all staged files so far, are on the device."""
        waits = self._syncer is not None and not self._syncer.idle
        return self.synced_offset >= offset and not self.staged and not waits

    # -- ring → segment -----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Write what is committed now. Not what comes meanwhile: a turn must end, however fast others log."""
        end = self.rings[-1].end
        while True:
            ring = self.rings[0]
            if ring.head < self._position.offset:  # interrupted (Ctrl-C at exit) when all but this was done
                ring.advance(self._position.offset - ring.head)
            data = ring.committed() if ring.head < end else b""
            if data:
                self._write_all(ring, data)
            elif len(self.rings) > 1 and ring.is_exhausted():
                self.rings.popleft().unlink()
            else:
                return

    def _write_all(self, ring: Ring, data: bytes) -> None:
        pieces = _whole_pieces(data)
        writer = self._writer or self._open()
        # At once: every system call gives up the GIL, and beside a busy thread taking it back costs 5 ms.
        writer.append(*pieces)
        for piece in pieces:
            self._keep(piece)
            ring.advance(len(piece.data))

    def _keep(self, piece: Piece) -> None:
        before = self._position
        self._kept.append(Kept(before.offset, before.events_before, before.points_before, piece))
        self._kept_bytes += len(piece.data)
        while self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft().piece.data)
        for definition in piece.definitions:
            self._dictionary[_definition_name(definition)] = definition
        self._retired += (b"\x04" + msgpack.packb(run) for run in piece.ended)
        # Last, and at once: whoever finds the writer or what is kept ahead of it knows that this was interrupted.
        self._position = Kept(
            before.offset + len(piece.data),
            before.events_before + piece.events,
            before.points_before + piece.points,
            piece,
        )

    def _open(self) -> SegmentWriter:
        """Begin a segment where the stream stands."""
        writer = self._new_writer(self._position)
        for run in self._retired:  # ended before this segment; only now, as a frame may still have used them
            self._dictionary.pop(run, None)
        self._retired.clear()
        self._use(writer)
        return writer

    def _new_writer(self, at: Kept) -> SegmentWriter:
        """Make a segment that begins at *at*; folder and lock first, if this is the first one or they are gone."""
        if self._lock_fd < 0 or _folder_is_gone(self.folder):
            self._close_lock()
            files.fs.make_folder(f"{self.folder}/{STAGING}")
            self._lock_fd = lock.hold(self.folder)
            self._locks_work = lock.works(self._lock_fd)
            self._new_folders += (self.folder.rsplit("/", depth)[0] for depth in (1, 2, 3))
        definitions = list(self._dictionary.values())
        writer = SegmentWriter(
            self.folder, self.stream, self.identity, definitions, at.offset, at.events_before, at.points_before
        )
        self._new_folders.append(self.folder)
        return writer

    def _use(self, writer: SegmentWriter) -> None:
        self._writer, self._opened_at = writer, time.monotonic()
        self._trusted.append(writer)

    # -- the segment's health -----------------------------------------------------------------------------------

    def _mend_segment(self) -> None:
        """Before anything is added: is what was written still there and to be trusted? If not, write it again."""
        self._hear_syncer()
        writer = self._writer
        if writer is not None:
            interrupted = writer.offset != self._position.offset
            self._suspect = self._suspect or writer.broken or interrupted or _is_gone(writer)
        elif self._kept and _folder_is_gone(self.folder):
            self._suspect = True
        if self._suspect:
            self._rewrite()

    def _look_after_segment(self) -> None:
        """Roll, sync or show that we live, if it is time."""
        writer, now = self._writer, time.monotonic()
        if writer is None:
            return
        if writer.bytes >= SEGMENT_BYTES or now - self._opened_at >= SEGMENT_AGE_S:
            writer.seal()
            self._request_sync(writer, last=True)
            self._writer = None
        elif now >= self._sync_due and (self._syncer is None or self._syncer.idle) and (self._kept or self.staged):
            self._sync_due = now + max(SYNC_INTERVAL_S, self._sync_backoff_s)
            self._request_sync(writer, last=False)
        elif not self._locks_work and now >= self._heartbeat_due:
            self._heartbeat_due = now + HEARTBEAT_INTERVAL_S
            writer.heartbeat()

    def _request_sync(self, writer: SegmentWriter, *, last: bool) -> None:
        folders, self._new_folders = list(dict.fromkeys(self._new_folders)), []
        staged = [self.staged.popleft() for _ in range(len(self.staged))]
        self._syncs().request(writer, last=last, folders=folders, staged=staged)

    def _syncs(self) -> Syncer:
        if self._syncer is None:
            self._syncer = Syncer()
        return self._syncer

    def sync_now(self) -> None:
        """Ask for a sync at the next turn rather than in its own time; not of a device that fails them."""
        if not self._sync_backoff_s:
            self._sync_due = 0.0
        self.wake()

    def _hear_syncer(self) -> None:
        while self._syncer is not None and self._syncer.results:
            result = self._syncer.results.popleft()
            if result.error is not None:
                self._complain(result.error)
                self._suspect = True
                self._sync_backoff_s = min(max(1.0, 2 * self._sync_backoff_s), SYNC_BACKOFF_S_MAX)
                self._new_folders += result.folders
                self.staged.extend(result.staged)
            elif result.writer in self._trusted and not self._suspect:
                self._sync_backoff_s = 0.0
                self.synced_offset = max(self.synced_offset, result.offset)
                while self._kept and self._kept[0].offset + len(self._kept[0].piece.data) <= result.offset:
                    self._kept_bytes -= len(self._kept.popleft().piece.data)
                if result.last:
                    self._trusted.remove(result.writer)

    def _rewrite(self) -> None:
        """Leave a segment that cannot be trusted, and write what is not known to be on the device to a new one.

        After a failed sync the kernel may have dropped the pages and marked them clean, so trying again would lie
        (LWN, "PostgreSQL's fsync() surprise", 2018). If we die half-way, both files hold equal bytes: a reader skips.

        Raises:
            OSError: it failed; the next turn tries again, and drains nothing before.
        """
        left, self._writer = self._writer, None
        if left is not None:
            self._syncs().close(left)
        self._trusted.clear()
        while self._kept and self._kept[-1].offset >= self._position.offset:
            self._kept_bytes -= len(self._kept.pop().piece.data)
        if not self._kept:
            self._suspect = False
            return
        try:
            writer = self._continued() or self._new_writer(self._kept[0])
        except FileExistsError as error:  # the device has failed so often: what is kept stays where it is
            self._complain(error)
            self._kept.clear()
            self._kept_bytes, self._suspect = 0, False
            return
        self._unfinished = writer
        for kept in self._kept:
            if kept.offset >= writer.offset:
                writer.append(kept.piece)
        self._suspect, self._unfinished = False, None
        self._use(writer)
        warn("left %s, whose content is suspect; written again to %s", left and left.path, writer.path)

    def _continued(self) -> SegmentWriter | None:
        """Return what an earlier rewrite began, if it can go on: a full disk must not fill with attempts."""
        writer, self._unfinished = self._unfinished, None
        if writer is None or not (writer.broken or _is_gone(writer)):
            return writer
        self._syncs().close(writer)
        return None

    def _close_lock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            files.fs.close(fd)

    def _seal_in_order(self) -> bool:
        if self._writer is None and not self._position.offset:
            return True  # nothing was ever logged
        try:
            # Rolled just before: the seal needs a segment, as it alone says that no ring is missing.
            writer = self._writer or self._open()
            writer.seal(in_order=True)
        except OSError as error:
            self._complain(error)
            return False
        self._request_sync(writer, last=True)
        self._writer = None  # what comes later, from another exit handler, begins a new segment
        return True

    def _complain(self, error: OSError) -> None:
        """Remember why the spool takes nothing; say it once a minute, not ten times a second."""
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
        writers = [writer.fd for writer in (self._writer, self._unfinished) if writer is not None]
        for fd in (self._lock_fd, *writers):
            if fd >= 0:
                with contextlib.suppress(OSError):  # the pump was just closing it
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
