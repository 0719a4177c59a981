"""When a spool is full: what counts, who says so, and what the pump does about it."""

from __future__ import annotations

import errno
import os
import time
from collections import namedtuple
from pathlib import Path

import pytest

from trainspool import staging
from trainspool.pump import Pump
from trainspool.spool import events, layout, quota
from trainspool.spool.quota import Quota, Room, Usage, parse_size
from trainspool.spool.ring import Ring

STREAM = bytes(16)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5 GiB", 5 << 30), ("500MB", 500_000_000), ("1.5k", 1500), ("7", 7), ("64 kib", 65536), (1024, 1024)],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "5 elephants", "1e9", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


def host_folder(spool: Path) -> Path:
    folder = spool / "streams" / "box"
    (folder / STREAM.hex() / "staging").mkdir(parents=True)
    return folder


def test_what_counts_is_what_deleting_would_free(tmp_path: Path) -> None:
    host = host_folder(tmp_path)
    folder = host / STREAM.hex()
    (folder / "0000000000000000.00.seg").write_bytes(b"x" * 100)
    (folder / "staging" / "mine").write_bytes(b"x" * 10)
    (folder / "staging" / "shared").write_bytes(b"x" * 1000)
    os.link(folder / "staging" / "shared", tmp_path / "in the store")
    (host / "no stream").write_bytes(b"x" * 50)
    (folder / "link").symlink_to(tmp_path)
    assert quota.measure(str(host)) == Usage(110, 5)


def test_what_is_being_written_to_a_given_path_counts(tmp_path: Path) -> None:
    folder = host_folder(tmp_path)
    before = quota.measure(str(folder))
    deep = folder / STREAM.hex() / "staging/0123-model/shards"
    deep.mkdir(parents=True)
    (deep / "one").write_bytes(bytes(5000))
    (deep.parent / "config").write_bytes(bytes(70))
    (deep.parent / "elsewhere").symlink_to("/usr")
    after = quota.measure(str(folder))
    assert (after.bytes - before.bytes, after.files - before.files) == (5070, 4)


def test_the_default_is_the_lesser_of_20_gib_and_four_fifths_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = namedtuple("made", "f_bavail f_frsize f_favail f_files f_blocks")
    monkeypatch.setattr(os, "statvfs", lambda _: made(1000, 1000, 100, 1000, 10000))
    assert quota.default_quota(str(tmp_path), Usage(500_000, 50)) == Quota(1_200_000, 120)
    monkeypatch.setattr(os, "statvfs", lambda _: made(1 << 40, 1000, 0, 0, 1 << 41))
    assert quota.default_quota(str(tmp_path)) == Quota(20 << 30, 1_000_000)
    assert quota.default_quota(str(tmp_path), size=7, count=3) == Quota(7, 3)


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr("trainspool.spool.quota.time.monotonic", lambda: self.now)


def test_a_writer_heeds_the_agents_word_within_a_second_and_forgets_it_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, clock = host_folder(tmp_path), Clock(monkeypatch)
    room = Room(str(host / STREAM.hex()))
    assert room.refusal() is None
    quota.announce(str(host), Usage(9, 1), Quota(8, 10), Quota(8, 10).excess(Usage(9, 1)))
    clock.now += 1
    refused = room.refusal()
    assert refused is not None
    assert (refused.errno, refused.filename) == (errno.EDQUOT, str(host))
    assert "9 bytes" in str(refused)
    with pytest.raises(staging.StagingFailed, match="quota"):
        staging.write(b"weights", str(host / STREAM.hex() / "staging"))
    quota.announce(str(host), Usage(7, 1), Quota(8, 10), None)
    clock.now += 1
    assert room.refusal() is None
    quota.announce(str(host), Usage(9, 1), Quota(8, 10), "too much")
    os.utime(tmp_path / "quota.box", (1, 1))  # its agent is long gone
    clock.now += 1
    assert room.refusal() is None


def test_without_an_agent_a_spool_grows_to_its_quota_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, clock = host_folder(tmp_path), Clock(monkeypatch)
    room = Room(str(host / STREAM.hex()), size=1000)
    assert room.refusal() is None
    (host / STREAM.hex() / "0000000000000000.00.seg").write_bytes(b"x" * 1001)
    clock.now += 60
    assert "1,001 bytes" in str(room.refusal())


def test_the_last_free_space_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = namedtuple("made", "f_bavail f_frsize f_favail f_files f_blocks")
    host = host_folder(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: made(9, 1000, 100, 1000, 1000))
    assert "9,000 bytes are free" in str(Room(str(host / STREAM.hex())).refusal())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"excess": 7}'])
def test_a_word_that_makes_no_sense_stops_nobody_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "quota.box").write_bytes(content)
    assert quota.announced_excess(str(tmp_path / "streams" / "box")) == ("7" if b"7" in content else None)


def test_a_pump_over_the_quota_writes_nothing_loses_nothing_it_took_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    host = host_folder(tmp_path)
    folder = host / STREAM.hex()
    ring = Ring(STREAM, events.pack({"format": 1})[1:], None, 256 << 10)
    pump = Pump(str(folder), STREAM, events.pack({"format": 1})[1:], ring, lambda: None)
    try:
        event = events.pack(events.POINT, 0, 0, 10**18, 1, 0.5)
        assert ring.append(event)
        pump.turn()
        size = quota.measure(str(host)).bytes
        quota.announce(str(host), Usage(9, 1), Quota(8, 10), "too much")
        clock.now += 1
        taken = 0
        while ring.append(event):
            taken += 1
        pump.turn()
        assert pump.error is not None
        assert quota.measure(str(host)).bytes == size
        quota.announce(str(host), Usage(7, 1), Quota(8, 10), None)
        clock.now += 1
        pump.turn()
        assert pump.error is None
        assert pump.drained()
        assert len(layout.segments(folder)) == 1
        assert pump._position.points_before == taken + 1
        assert ring.append(event)
    finally:
        pump.finish(5.0)
        pump.close_after_fork()
        ring.unlink()
