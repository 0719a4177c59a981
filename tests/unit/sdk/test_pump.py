"""Pump: whatever the disk does, every accepted event is in the segments in the end, once and in order."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import spooled
from failing_files import FailingFiles

from trainspool import pump as pump_module
from trainspool.pump import Pump
from trainspool.spool import events, files, layout
from trainspool.spool.items import Damage, Frame, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.ring import Ring

STREAM = bytes(range(16))
IDENTITY = events.pack({"format": 1, "pid": 1})[1:]
RUN = events.pack(events.DEFINE_RUN, 0, "run", True, "/store", None, None)
SHORT_CUTS = ("ENOSPC", "EIO", "EROFS", "short")


def point(step: int, key: int = 0) -> bytes:
    return events.pack(events.POINT, 0, key, 10**18, step, 0.5)


class Pumping:
    """A ring and a pump whose thread does not run: turns happen when the test says so."""

    def __init__(self, folder: Path, rings: Path | None = None, ring_bytes: int = 256 << 10) -> None:
        self.folder = folder
        self.ring = Ring(STREAM, IDENTITY, rings, ring_bytes)
        self.pump = Pump(str(folder), STREAM, IDENTITY, self.ring, lambda: None)
        self.logged = 0

    def log(self, count: int = 40) -> None:
        for _ in range(count):
            definition = (
                events.pack(events.DEFINE_KEY, self.logged, f"key {self.logged}") if self.logged % 7 == 0 else b""
            )
            key = self.logged - self.logged % 7
            first = RUN if self.logged == 0 else b""
            assert self.ring.append(first + definition + point(self.logged, key))
            self.logged += 1

    def turn(self) -> None:
        self.pump.turn()
        syncer = self.pump._syncer
        spooled.until(lambda: syncer is None or syncer.idle)

    def settle(self, turns: int = 60) -> None:
        """Turn until all is in segments."""
        for _ in range(turns):
            self.turn()
            if self.pump.drained() and self.pump.error is None:
                return
        raise AssertionError(f"not drained after {turns} turns: {self.pump.error}")

    def close(self) -> None:
        if self.pump.thread.is_alive():
            self.pump.finish(5.0)
        self.pump.close_after_fork()
        self.ring.unlink()


def read(folder: Path) -> tuple[list[int], list[Damage], StreamReader]:
    """Return the steps in the stream, what is damaged, and the reader; every key must be known where it is used."""
    reader = StreamReader(folder, STREAM, writer_alive=lambda: False)
    found: list[int] = []
    damage: list[Damage] = []
    keys: set[int] = set()
    while items := reader.read():
        for item in items:
            known = (
                item.dictionary if isinstance(item, Opened) else item.definitions if isinstance(item, Frame) else b""
            )
            data = known + (item.events if isinstance(item, Frame) else b"")
            for event in events.decode(data):
                if event[0] == events.DEFINE_KEY:
                    keys.add(event[1])
                elif event[0] == events.POINT:
                    assert event[2] in keys
                    found.append(event[4])
            if isinstance(item, Damage):
                damage.append(item)
    reader.close()
    return found, damage, reader


@pytest.fixture
def fs(monkeypatch: pytest.MonkeyPatch) -> FailingFiles:
    made = FailingFiles()
    monkeypatch.setattr(files, "fs", made)
    monkeypatch.setattr(pump_module, "SYNC_INTERVAL_S", 0.0)
    monkeypatch.setattr(pump_module, "FRAME_BYTES", 512)
    return made


@pytest.fixture
def pumping(tmp_path: Path, fs: FailingFiles) -> Iterator[Pumping]:
    made = Pumping(tmp_path / "stream")
    yield made
    made.close()


def work(pumping: Pumping, rounds: int = 5) -> None:
    for _ in range(rounds):
        pumping.log()
        pumping.turn()
        pumping.turn()


def calls_of_a_clean_run(folder: Path) -> int:
    fs = files.fs
    assert isinstance(fs, FailingFiles)
    clean = Pumping(folder)
    work(clean)
    clean.settle()
    clean.close()
    calls, fs.calls = fs.calls, 0
    return calls


@pytest.mark.parametrize("how", SHORT_CUTS)
@pytest.mark.parametrize("times", [1, 7])
def test_a_disk_that_fails_at_any_call_loses_and_repeats_nothing(
    tmp_path: Path, fs: FailingFiles, how: str, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    calls = calls_of_a_clean_run(tmp_path / "clean")
    fs.error, fs.short = getattr(errno, how, errno.ENOSPC), how == "short"
    for first in range(1, calls + 1):
        fs.calls, fs.fails = 0, lambda number, _, first=first: first <= number < first + times
        pumping = Pumping(tmp_path / f"stream{first}")
        work(pumping)
        pumping.settle()
        assert any(pumping.pump._seal_in_order() for _ in range(times + 1))
        found, damage, reader = read(pumping.folder)
        assert (found, damage) == (list(range(pumping.logged)), []), f"call {first} ({fs.log[first - 1 :][:1]}) failed"
        assert reader.counts == (pumping.logged, pumping.logged) and reader.in_order
        pumping.close()


@pytest.mark.parametrize("how", SHORT_CUTS)
def test_what_is_called_durable_survives_a_power_cut(
    tmp_path: Path, fs: FailingFiles, how: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    fs.error, fs.short = getattr(errno, how, errno.ENOSPC), how == "short"
    for case in range(25):
        broken = chance.choice([0.05, 0.2, 0.5])
        fs.fails = lambda number, name, broken=broken: chance.random() < broken
        pumping = Pumping(tmp_path / f"stream{case}")
        for _ in range(8):
            pumping.log(chance.randrange(60))
            pumping.turn()
            if chance.random() < 0.2 and pumping.pump._writer is not None:
                pumping.pump._opened_at = -pump_module.SEGMENT_AGE_S  # it is time to roll
            pumping.turn()
            synced = pumping.pump.synced_offset
            if synced:
                left = fs.after_power_cut(pumping.folder, tmp_path / "left")
                _, damage, reader = read(left)
                shutil.rmtree(left)
                assert reader.offset >= synced and not damage
        pumping.close()


def test_a_failed_sync_is_answered_by_a_new_segment_with_the_same_frames(pumping: Pumping, fs: FailingFiles) -> None:
    pumping.log()
    fs.fails = lambda number, name: name == "sync"
    pumping.turn()
    pumping.turn()
    fs.fails = lambda number, name: False
    pumping.log()
    pumping.settle()
    first, second, *_ = layout.segments(pumping.folder)
    assert (first.offset, first.attempt) == (0, 0) and (second.offset, second.attempt) == (0, 1)
    assert read(pumping.folder)[0] == list(range(pumping.logged))
    (pumping.folder / str(first)).unlink()
    assert read(pumping.folder)[0] == list(range(pumping.logged))


def test_a_device_that_never_syncs_again_neither_fills_the_disk_nor_stops_the_stream(
    pumping: Pumping, fs: FailingFiles
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fs.fails = lambda number, name: name == "sync"
    for _ in range(300):
        pumping.log(2)
        pumping.turn()
    descriptors = len(os.listdir("/proc/self/fd"))
    assert len(layout.segments(pumping.folder)) < 100, "a rewrite for every failed sync"
    fs.fails = lambda number, name: False
    pumping.log()
    pumping.settle()
    assert read(pumping.folder)[0] == list(range(pumping.logged))
    assert descriptors < before + 5, "suspect segments stay open"


def test_descriptors_of_segments_left_behind_are_closed(pumping: Pumping, fs: FailingFiles) -> None:
    pumping.log()
    pumping.settle()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        fs.fails = lambda number, name: name in ("write", "truncate")
        pumping.log(1)
        pumping.turn()
        fs.fails = lambda number, name: False
        pumping.log(1)
        pumping.settle()
    pumping.turn()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.parametrize("synced", [False, True], ids=["nothing synced", "all synced"])
def test_a_folder_removed_under_us_is_made_again_and_later_events_are_kept(
    pumping: Pumping, synced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not synced:
        monkeypatch.setattr(pump_module, "SYNC_INTERVAL_S", 1e9)
        pumping.pump._sync_due = 1e18
    pumping.log()
    pumping.settle()
    pumping.settle()
    before = pumping.logged
    shutil.rmtree(pumping.folder)
    for _ in range(3):
        pumping.log()
        pumping.turn()
    pumping.settle()
    found = read(pumping.folder)[0]
    assert found[-(pumping.logged - before) :] == list(range(before, pumping.logged))
    if not synced:
        assert found == list(range(pumping.logged)), "what was not known to be on the device is written again"
    assert (pumping.folder / layout.LOCK).exists()


def test_a_segment_removed_under_us_is_written_again(pumping: Pumping, monkeypatch: pytest.MonkeyPatch) -> None:
    pumping.pump._sync_due = 1e18
    pumping.log()
    pumping.settle()
    (segment,) = layout.segments(pumping.folder)
    (pumping.folder / str(segment)).unlink()
    pumping.log()
    pumping.settle()
    assert read(pumping.folder)[0] == list(range(pumping.logged))


def test_a_rewrite_that_fails_is_done_again(pumping: Pumping, fs: FailingFiles) -> None:
    """The disk fills up just when a removed segment is to be written again: nothing may be forgotten."""
    pumping.pump._sync_due = 1e18
    pumping.log()
    pumping.settle()
    (segment,) = layout.segments(pumping.folder)
    (pumping.folder / str(segment)).unlink()
    fs.error, fs.fails = errno.ENOSPC, lambda number, name: name == "create"
    pumping.log()
    pumping.turn()
    pumping.turn()
    fs.fails = lambda number, name: False
    pumping.settle()
    assert read(pumping.folder)[0] == list(range(pumping.logged))


def test_a_rewrite_onto_a_full_disk_goes_on_in_the_file_it_began(pumping: Pumping, fs: FailingFiles) -> None:
    pumping.pump._sync_due = 1e18
    work(pumping)
    (segment,) = layout.segments(pumping.folder)
    (pumping.folder / str(segment)).unlink()
    pumping.log()
    fs.error, fs.short, room = errno.ENOSPC, True, [0]

    def full(_: int, name: str) -> bool:
        room[0] -= name == "write"
        return name == "write" and room[0] < 0

    for _ in range(20):
        fs.fails, room[0] = full, 3
        pumping.turn()
    fs.fails = lambda number, name: False
    pumping.settle()
    assert len(layout.segments(pumping.folder)) <= 2
    assert read(pumping.folder)[:2] == (list(range(pumping.logged)), [])


def test_segments_roll_by_size_and_each_knows_what_came_before(
    pumping: Pumping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "SEGMENT_BYTES", 4096)
    work(pumping, 12)
    pumping.settle()
    names = layout.segments(pumping.folder)
    assert len(names) > 3 and read(pumping.folder)[0] == list(range(pumping.logged))
    for name in names[:-1]:
        (pumping.folder / str(name)).unlink()
    found, damage, _ = read(pumping.folder)
    assert found == list(range(pumping.logged - len(found), pumping.logged)) and found
    assert len(damage) == 1 and damage[0].points == pumping.logged - len(found), "the loss is counted exactly"


def test_a_run_that_ended_leaves_later_dictionaries(pumping: Pumping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "SEGMENT_BYTES", 100)
    pumping.log()
    pumping.ring.append(events.pack(events.END, 0, 10**18, events.FINISHED, None))
    pumping.settle()
    pumping.turn()
    for _ in range(2):  # the first one may still have been in use
        pumping.ring.append(events.pack(events.EXPERIMENT, 10**18, "/store", None, "e", []))
        pumping.settle()
        pumping.turn()
    last = layout.segments(pumping.folder)[-1]
    for name in layout.segments(pumping.folder)[:-1]:
        (pumping.folder / str(name)).unlink()
    reader = StreamReader(pumping.folder, STREAM, last.offset, writer_alive=lambda: False)
    known = [event for item in reader.read() if isinstance(item, Opened) for event in events.decode(item.dictionary)]
    reader.close()
    kinds = {event[0] for event in known}
    assert events.DEFINE_KEY in kinds and events.DEFINE_RUN not in kinds


def test_a_heap_of_definitions_still_makes_frames_that_can_be_read(
    tmp_path: Path, fs: FailingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The definitions of one frame are repeated in the next: together they must stay within a frame's limit."""
    monkeypatch.setattr(pump_module, "FRAME_BYTES", 128 << 10)
    pumping = Pumping(tmp_path / "stream", None, 8 << 20)
    names = [f"{number:0250d}" for number in range(3900)]
    tag = events.pack(events.TAGS, 0, 10**18, ["a", "b" * 15_000])
    pumping.ring.append(
        b"".join([RUN, *[tag] * 2, *(events.pack(events.DEFINE_KEY, n, name) for n, name in enumerate(names))])
    )
    assert pumping.ring.append(tag * 68)
    for step in range(30_000):
        assert pumping.ring.append(point(step, step % 3900))
    pumping.settle()
    found, damage, _ = read(pumping.folder)
    assert damage == [] and found == list(range(30_000))
    pumping.close()


def test_bytes_that_are_no_events_reach_the_disk_as_they_are(
    pumping: Pumping, caplog: pytest.LogCaptureFixture
) -> None:
    """Native code that writes where it should not: zeros are msgpack too, but no events."""
    pumping.log(5)
    pumping.settle()
    for damage in (bytes(40), b"\x91" * 9, b"\xff" * 7, b"\x90", b"\x96\x01\x00\x00\x00\x00\x00", b"\xa1"):
        pumping.ring.append(damage)
        pumping.settle()
    assert "no events" in caplog.text
    pumping.log(5)
    pumping.settle()
    whole = b"".join((pumping.folder / str(name)).read_bytes() for name in layout.segments(pumping.folder))
    assert bytes(40) in whole and b"\xff" * 7 in whole


def test_a_disk_without_locks_still_takes_the_stream(pumping: Pumping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lustre mounted without flock, NFS without a lock daemon."""
    from trainspool.spool import lock

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    pumping.log()
    pumping.settle()
    assert read(pumping.folder)[0] == list(range(pumping.logged))


def test_the_complaint_about_a_broken_disk_comes_once_and_says_what_to_do(
    pumping: Pumping, fs: FailingFiles, caplog: pytest.LogCaptureFixture
) -> None:
    fs.error, fs.fails = errno.ENOSPC, lambda number, name: name in ("make_folder", "create", "write")
    for _ in range(5):
        pumping.log(1)
        pumping.turn()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "No space left" in said and str(pumping.folder) in said and "trainspool doctor" in said


def test_the_thread_writes_by_itself_and_stops_when_told(tmp_path: Path) -> None:
    pumping = Pumping(tmp_path / "stream")
    pumping.pump.start()
    pumping.log()
    spooled.until(pumping.pump.drained)
    pumping.log()
    assert pumping.pump.finish(5.0) and not pumping.pump.thread.is_alive()
    found, damage, reader = read(pumping.folder)
    assert found == list(range(80)) and not damage and reader.in_order
    pumping.close()


def test_finish_gives_up_in_time_when_the_disk_stalls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    stalled, go_on = threading.Event(), threading.Event()

    class Stalling(files.Files):
        def write(self, fd: int, data: bytes) -> None:
            stalled.set()
            go_on.wait(30)
            super().write(fd, data)

    monkeypatch.setattr(files, "fs", Stalling())
    pumping = Pumping(tmp_path / "stream")
    pumping.pump.start()
    pumping.log()
    assert stalled.wait(10)
    begun = time.monotonic()
    assert not pumping.pump.finish(0.3)
    assert time.monotonic() - begun < 3
    go_on.set()
    pumping.pump.thread.join(10)
    assert pumping.pump.finish(5.0) and read(pumping.folder)[0] == list(range(40))
    pumping.close()


def test_interrupted_between_writing_and_marking_it_goes_on_without_a_repeat(
    pumping: Pumping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the main thread drains at exit."""
    pumping.log()
    pumping.settle()
    pumping.log()
    real, hits = pumping.pump._keep, []

    def interrupted(piece: events.Piece) -> None:
        if not hits:
            hits.append(1)
            raise KeyboardInterrupt
        real(piece)

    monkeypatch.setattr(pumping.pump, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pumping.pump.turn()
    pumping.log()
    pumping.settle()
    assert read(pumping.folder)[:2] == (list(range(pumping.logged)), [])


def test_leaving_right_after_a_roll_says_so(tmp_path: Path) -> None:
    """Without that seal the ring that is gone would count as one that nobody could reach."""
    pumping = Pumping(tmp_path / "stream")
    pumping.log()
    pumping.turn()
    pumping.pump._opened_at = -1e9
    pumping.turn()
    assert pumping.pump._writer is None
    assert pumping.pump.finish(5.0)
    reader = StreamReader(tmp_path / "stream", STREAM, writer_alive=lambda: False)
    while reader.read():
        pass
    assert reader.in_order
    reader.close()
