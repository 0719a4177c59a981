"""A segment cut at every byte, and with every bit flipped: it is seen, one frame is lost at most, and counted exactly.

The segment comes from the real pump. Every state is read by `StreamReader`; of some, an agent makes a store, too.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import under
from wholeway import World

from trainspool import pump as pump_module
from trainspool.spool import frame
from trainspool.spool.items import Damage, Frame
from trainspool.spool.reader import StreamReader
from trainspool_agent.files import StoreFiles

SEGMENT_BYTES = 64 << 10
SAMPLE_S = 4.0
STORES = 25
Held = tuple[int, int, bytes]  # offset, end, events


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(f"/dev/shm/trainspool-flips-{time.time_ns():x}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Segment:
    """One whole segment of a process that left in order, and what it holds."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pump_module, "FRAME_BYTES", 2048)
        with World(home) as world:
            run = world.start_run(1)
            step = 0
            while not list(world.spool.glob("streams/*/*/*.seg")) or self._size(world) < SEGMENT_BYTES:
                for _ in range(40):
                    step += 1
                    run.log_metrics({"a": step / 3, "b": 1 / step}, step=step)
                    run.log_metric(f"key {step // 50}", step / 7, step=step)
                world.turn()
            run.end()
            world.leave()
            [self.path] = world.spool.glob("streams/*/*/*.seg")
            self.data = self.path.read_bytes()
            self.contents = self.stored(world)
        self.stream = bytes.fromhex(self.path.parent.name)
        self.frames = list(self._frames())
        self.points = sum(header.points for _, _, header in self.frames)
        shutil.rmtree(home)
        self.path.parent.mkdir(parents=True)
        self.whole = self.read(self.data)[0]

    @staticmethod
    def _size(world: World) -> int:
        return sum(path.stat().st_size for path in world.spool.glob("streams/*/*/*.seg"))

    @staticmethod
    def stored(world: World) -> dict[str, bytes]:
        with under(StoreFiles()):
            world.carry_to_the_end()
        return world.contents()

    def _frames(self) -> Iterator[tuple[int, int, frame.Header]]:
        at = 0
        while at < len(self.data):
            header = frame.parse_header(self.data, at)
            assert header is not None
            length = frame.HEADER_BYTES + header.body_length
            yield at, length, header
            at += length

    def frame_at(self, byte: int) -> frame.Header:
        return next(header for at, length, header in self.frames if at <= byte < at + length)

    def read(self, data: bytes) -> tuple[list[Held], list[Damage], bool]:
        """Return the frames that a reader delivers, what it calls damage, and whether it takes the stream as ended."""
        self.path.write_bytes(data)
        reader = StreamReader(self.path.parent, self.stream, writer_alive=lambda: False)
        held: list[Held] = []
        damages: list[Damage] = []
        while items := reader.read(1 << 22):
            held += [(item.offset, item.end, item.events) for item in items if isinstance(item, Frame)]
            damages += [item for item in items if isinstance(item, Damage)]
        reader.close()
        assert self.path.read_bytes() == data, "a reader changed what it read"
        return held, damages, reader.ended

    def check_cut(self, length: int) -> None:
        """What stands before the cut is delivered; the rest is a torn tail, and never called ended."""
        held, damages, ended = self.read(self.data[:length])
        owed = [
            (header.offset, header.end) for at, size, header in self.frames if _is_data(header) and at + size <= length
        ]
        assert [one[:2] for one in held] == owed, length
        assert held == self.whole[: len(held)]
        assert not damages or not any(damage.events or damage.points for damage in damages), (length, damages)
        assert not ended, length

    def check_flip(self, bit: int) -> None:
        """Exactly the frame that the bit is in is lost, named and counted; every other one is delivered as it was."""
        data = bytearray(self.data)
        data[bit // 8] ^= 1 << bit % 8
        header = self.frame_at(bit // 8)
        held, damages, ended = self.read(bytes(data))
        lost = [(header.offset, header.end)] if _is_data(header) else []
        assert held == [one for one in self.whole if one[:2] not in lost], bit
        assert damages or not ended, (bit, "not seen")
        if lost:
            counted = sum(damage.events for damage in damages), sum(damage.points for damage in damages)
            assert counted == (header.events, header.points), (bit, counted, damages)
            assert all(damage.exact for damage in damages), (bit, damages)
        else:
            assert not any(damage.events or damage.points for damage in damages), (bit, damages)


def _is_data(header: frame.Header) -> bool:
    return header.kind == frame.DATA


def check_store(home: Path, segment: Segment, data: bytes, points_lost: int) -> None:
    """A store made of *data* lacks so many lines of the whole segment's, has no others, and its account says so."""
    with World(home) as world:
        world.alive = False
        segment.path.parent.mkdir(parents=True)
        segment.path.write_bytes(data)
        (segment.path.parent / "lock").touch()  # the process's, which is gone
        found = segment.stored(world)
        assert segment.path.read_bytes() == data, "nothing is deleted or changed"
        new = {path for path in found.keys() - segment.contents.keys() if not path.endswith("/trainspool.end_reason")}
        assert not new, new
        lines, every = _lines(found), _lines(segment.contents)
        assert not lines - every
        assert (every - lines).total() == points_lost
        if world.cursors()[0].runs or lines:
            counts = world.account(1)
            assert counts["stored"] == lines.total(), counts
            assert counts["accepted"] == counts["stored"] + counts["damaged"], counts


def _lines(contents: dict[str, bytes]) -> Counter[tuple[str, bytes]]:
    metrics = {path: data for path, data in contents.items() if "/metrics/" in path}
    return Counter((path, line) for path, data in metrics.items() for line in data.splitlines())


@pytest.fixture
def segment(home: Path, monkeypatch: pytest.MonkeyPatch) -> Segment:
    made = Segment(home, monkeypatch)
    assert len(made.data) >= SEGMENT_BYTES
    return made


def test_a_segment_cut_anywhere_or_with_any_bit_flipped(segment: Segment, seed: int) -> None:
    rnd, until, cuts, flips = random.Random(seed), time.perf_counter() + SAMPLE_S, 0, 0
    while time.perf_counter() < until:
        segment.check_cut(rnd.randrange(len(segment.data)))
        segment.check_flip(rnd.randrange(8 * len(segment.data)))
        cuts, flips = cuts + 1, flips + 1
    print(f"{cuts} cuts, {flips} flips in a segment of {len(segment.data)} bytes, {len(segment.frames)} frames")


def test_a_store_made_of_a_damaged_segment_lacks_that_frame_alone(home: Path, segment: Segment, seed: int) -> None:
    check_stores(home, segment, random.Random(seed), STORES)


def check_stores(home: Path, segment: Segment, rnd: random.Random, count: int) -> None:
    for _ in range(count):
        data, bit = bytearray(segment.data), rnd.randrange(8 * len(segment.data))
        data[bit // 8] ^= 1 << bit % 8
        header = segment.frame_at(bit // 8)
        check_store(home, segment, bytes(data), header.points if _is_data(header) else 0)
        length = rnd.randrange(len(segment.data))
        whole = sum(header.points for at, size, header in segment.frames if at + size <= length)
        check_store(home, segment, segment.data[:length], segment.points - whole)


@pytest.mark.long
def test_a_segment_cut_at_every_byte(segment: Segment) -> None:
    for length in range(SEGMENT_BYTES):
        segment.check_cut(length)
    print(f"{SEGMENT_BYTES} cuts")


@pytest.mark.long
def test_a_segment_with_every_bit_flipped(segment: Segment) -> None:
    for bit in range(8 * SEGMENT_BYTES):
        segment.check_flip(bit)
    print(f"{8 * SEGMENT_BYTES} flips in {len(segment.frames)} frames")


@pytest.mark.long
def test_many_stores_made_of_damaged_segments(home: Path, segment: Segment, seed: int) -> None:
    check_stores(home, segment, random.Random(seed), 2000)
