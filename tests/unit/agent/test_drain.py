"""Drain: killed anywhere and repeated, it leaves the same stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import events, files, layout
from trainspool.spool.files import Files
from trainspool_agent.drain import Drained, drain
from trainspool_agent.store.changes import leaves_unknown_tail

from .conftest import WALL, Box, MadeStream


class Killed(BaseException):
    """The process is gone: nothing may catch this but the test."""


class DyingFiles(Files):
    """Dies at the n-th operation, before it or, for writes, half-way through it."""

    def __init__(self, at: int, *, half: bool = False) -> None:
        self.left, self.half, self.dead = at, half, False

    def _step(self) -> None:
        if self.dead or self.left == 0:
            self.dead = True
            raise Killed
        self.left -= 1

    def create(self, path: str) -> int:
        self._step()
        return super().create(path)

    def write(self, fd: int, data: bytes) -> None:
        if self.left == 0 and self.half and not self.dead:
            super().write(fd, data[: len(data) // 2])
        self._step()
        super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._step()
        super().sync(fd)

    def sync_folder(self, path: str) -> None:
        self._step()
        super().sync_folder(path)

    def make_folder(self, path: str) -> None:
        self._step()
        super().make_folder(path)

    def unlink(self, path: str) -> None:
        self._step()
        super().unlink(path)


def drained(stream: MadeStream, begin: int = 0) -> Drained:
    return drain(stream.place, stream.identity, [stream.ring_path] if stream.ring_path else [], begin)


def dead_stream(box: Box) -> MadeStream:
    stream = box.stream(run_id="a" * 32)
    stream.log(5)
    stream.pump()
    stream.log(7)
    assert stream.ring
    stream.ring.drop(stream.run_id, 3, 4)
    return stream


def comparable(found: list[list[Any]]) -> list[list[Any]]:
    return [event for event in found if event[0] not in (events.DEFINE_RUN,)]


def test_the_ring_s_rest_the_gap_and_the_epitaph_follow_in_this_order(box: Box) -> None:
    stream = dead_stream(box)
    result = drained(stream)
    found = stream.held()
    assert [event[4] for event in found if event[0] == events.POINT] == list(range(12))
    assert found[-2] == [events.GAP, 0, WALL + 11_000_000, 3, 4]
    kind, time, status, reason = found[-1]
    assert (kind, time, status) == (events.EPITAPH, WALL + 11_000_000, events.KILLED)
    assert reason.startswith(f"process {stream.identity['pid']} (train.py) on host {stream.place.host} is gone")
    assert not result.unknown_tail
    assert not leaves_unknown_tail(reason)
    assert stream.ring_path and not stream.ring_path.exists()


def _operations(tmp_path: Path) -> int:
    counting = DyingFiles(1000)
    files.fs, kept = counting, files.fs
    try:
        (tmp_path / "count").mkdir()
        drained(dead_stream(Box(tmp_path / "count")))
    finally:
        files.fs = kept
    return 1000 - counting.left


@pytest.fixture
def plain_files() -> Iterator[None]:
    kept = files.fs
    yield
    files.fs = kept


@pytest.mark.parametrize("half", [False, True])
def test_killed_between_every_two_operations_and_repeated_it_gives_the_same_stream(
    tmp_path: Path, plain_files: None, half: bool
) -> None:
    steps = _operations(tmp_path)
    assert steps > 8
    expected = None
    for at in range(steps + 1):
        (tmp_path / str(at)).mkdir()
        stream = dead_stream(Box(tmp_path / str(at)))
        for again in (at, at // 2, at):  # killed three times over
            files.fs = DyingFiles(again, half=half)
            try:
                drained(stream)
            except Killed:
                continue
        files.fs = Files()
        drained(stream)
        drained(stream)
        found = comparable(stream.held())
        expected = expected or found
        assert found == expected, at
        assert stream.ring_path and not stream.ring_path.exists()
        assert [event[0] for event in found].count(events.EPITAPH) == 1


def test_a_process_that_left_in_order_gets_an_epitaph_that_says_so(box: Box) -> None:
    stream = box.stream()
    stream.log(3)
    stream.log_end()
    stream.leave_in_order()
    result = drained(stream)
    assert stream.held()[-1][2] == events.FINISHED
    assert "ended in order" in stream.held()[-1][3]
    assert not result.unknown_tail


def test_a_ring_out_of_reach_leaves_an_unknown_tail(box: Box) -> None:
    stream = box.stream()
    stream.log(3)
    stream.pump()
    assert stream.ring_path
    stream.ring_path.unlink()
    assert drained(stream).unknown_tail
    assert leaves_unknown_tail(stream.held()[-1][3])


def test_an_earlier_boot_is_named_as_the_end(box: Box) -> None:
    stream = box.stream(ring=False)
    stream.identity["boot"] = "another"
    stream.segment = None
    for path in stream.folder.glob("*.seg"):
        path.unlink()
    stream._write(stream._birth())
    assert drained(stream).unknown_tail
    assert "when the host stopped" in stream.held()[-1][3]


def test_a_process_killed_before_its_folder_was_made_is_drained_whole(box: Box) -> None:
    stream = box.stream()
    stream.log(4)
    assert not stream.folder.exists()
    drained(stream)
    assert [event[4] for event in stream.held() if event[0] == events.POINT] == [0, 1, 2, 3]


def test_what_a_segment_lost_is_taken_from_the_ring_again(box: Box) -> None:
    stream = box.stream()
    stream.log(4)
    stream.pump()
    [path] = stream.folder.glob("*.seg")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 3)
    drained(stream)
    assert [event[4] for event in stream.held() if event[0] == events.POINT] == [0, 1, 2, 3]


def test_a_drain_from_where_the_follower_stands_gives_the_same_as_one_from_the_beginning(tmp_path: Path) -> None:
    found = []
    for name, from_end in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        stream = dead_stream(Box(tmp_path / name))
        assert stream.segment
        drained(stream, stream.segment.offset if from_end else 0)
        found.append(comparable(stream.held()))
        assert len(layout.segments(stream.folder)) == 2
    assert found[0] == found[1]
