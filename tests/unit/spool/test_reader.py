"""StreamReader: whatever is cut or flipped, at most that frame is lost, and the loss is counted exactly."""

from __future__ import annotations

import os
import random
import struct
import zlib
from pathlib import Path

import pytest

from trainspool.errors import UnknownFormatVersion, UnsafeSpool
from trainspool.spool import events, frame, layout
from trainspool.spool.items import Damage, Frame, Item, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.segment import SegmentWriter

STREAM = bytes(range(16))
IDENTITY = events.pack({"format": 1, "pid": 1})[1:]  # the map alone, without the array around it


def piece(data: bytes, count: int, definitions: list[bytes] | None = None) -> events.Piece:
    return events.Piece(data, count, count, definitions or [], [])


def points(first: int, count: int) -> events.Piece:
    data = b"".join(events.pack(events.POINT, 0, 0, 10**18 + step, step, 0.5) for step in range(first, first + count))
    return piece(data, count)


class Writing:
    """A stream under construction, and what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: SegmentWriter | None = None
        self.offset = self.count = 0

    def begin(self, offset: int | None = None, count: int | None = None, dictionary: tuple[bytes, ...] = ()) -> None:
        self.offset = self.offset if offset is None else offset
        self.count = self.count if count is None else count
        self.writer = SegmentWriter(str(self.folder), STREAM, IDENTITY, dictionary, self.offset, self.count, self.count)

    def append(self, count: int = 3) -> None:
        assert self.writer is not None
        self.writer.append(points(self.count, count))
        self.offset, self.count = self.writer.offset, self.writer.events_before

    @property
    def path(self) -> Path:
        assert self.writer is not None
        return Path(self.writer.path)

    def end(self) -> None:
        assert self.writer is not None
        self.writer.seal(in_order=True)
        self.writer.close()

    def reader(self, offset: int = 0, *, alive: bool = False, from_afar: bool = False) -> StreamReader:
        return StreamReader(self.folder, STREAM, offset, writer_alive=lambda: alive, from_afar=from_afar)


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    made = Writing(tmp_path)
    made.begin()
    return made


def read_all(source: StreamReader, limit: int = 1 << 20) -> list[Item]:
    items: list[Item] = []
    while more := source.read(limit):
        items += more
    source.close()
    return items


def steps(items: list[Item]) -> list[int]:
    found = [event for item in items if isinstance(item, Frame) for event in events.decode(item.events)]
    return [event[4] for event in found if event[0] == events.POINT]


def damages(items: list[Item]) -> list[Damage]:
    return [item for item in items if isinstance(item, Damage)]


def flip(path: Path, at: int, mask: int = 0x10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def test_frames_come_in_order_whatever_the_limit(writing: Writing) -> None:
    for _ in range(20):
        writing.append()
    writing.end()
    for limit in (1, 100, 1 << 20):
        assert steps(read_all(writing.reader(), limit)) == list(range(60))


def test_a_reader_at_the_end_goes_on_when_the_file_grows(writing: Writing) -> None:
    source = writing.reader(alive=True)
    writing.append()
    assert steps(source.read()) == [0, 1, 2]
    assert source.read() == []
    writing.append(1)
    assert steps(source.read()) == [3]
    assert not source.ended
    writing.end()
    assert source.read() == []
    assert source.ended
    assert source.in_order


def test_a_reader_goes_on_in_the_next_segment(writing: Writing) -> None:
    writing.append()
    source = writing.reader(alive=True)
    source.read()
    writing.end()
    assert source.read() == []
    writing.begin(dictionary=(events.pack(events.DEFINE_KEY, 0, "loss"),))
    writing.append()
    items = source.read()
    assert any(isinstance(item, Opened) and b"loss" in item.dictionary for item in items)
    assert steps(items) == [3, 4, 5]


def test_a_reader_in_the_middle_is_told_every_meaning_before_it(writing: Writing) -> None:
    assert writing.writer is not None
    for key in range(4):
        define = events.pack(events.DEFINE_KEY, key, f"k{key}")
        writing.writer.append(piece(define + points(key, 1).data, 1, [define]))
    frames = [item for item in read_all(writing.reader()) if isinstance(item, Frame)]
    for part in frames:
        items = read_all(writing.reader(part.end))
        known = b"".join(
            i.dictionary if isinstance(i, Opened) else i.definitions for i in items if not isinstance(i, Damage)
        )
        if part is not frames[-1]:
            keys = {event[1] for event in events.decode(known)}
            assert keys >= set(range(frames.index(part) + 1))
            assert steps(items) == list(range(frames.index(part) + 1, 4))


def test_a_segment_cut_at_every_byte_is_a_torn_tail(writing: Writing) -> None:
    for _ in range(4):
        writing.append()
    whole = writing.path.read_bytes()
    ends = [0]
    for cut in range(len(whole)):
        writing.path.write_bytes(whole[:cut])
        items = read_all(writing.reader())
        assert damages(items) == []
        assert steps(items) == list(range(len(steps(items))))
        ends.append(len(steps(items)))
    assert sorted(ends) == ends
    assert set(ends) == {0, 3, 6, 9}


def test_a_torn_tail_is_ordinary_where_a_later_segment_begins_at_the_last_good_byte(writing: Writing) -> None:
    writing.append()
    good = writing.offset
    writing.append()
    with writing.path.open("r+b") as file:
        file.truncate(writing.path.stat().st_size - 5)
    writing.begin(offset=good, count=3)
    writing.append()
    items = read_all(writing.reader())
    assert damages(items) == []
    assert steps(items) == [0, 1, 2, 3, 4, 5]


def test_a_torn_tail_before_a_gap_is_damage_and_counted(writing: Writing) -> None:
    writing.append()
    good = writing.offset
    writing.append()
    with writing.path.open("r+b") as file:
        file.truncate(writing.path.stat().st_size - 5)
    writing.begin()
    writing.append()
    items = read_all(writing.reader())
    assert steps(items) == [0, 1, 2, 6, 7, 8]
    [damage] = damages(items)
    assert (damage.begin, damage.events, damage.points, damage.exact) == (good, 3, 3, True)


def test_a_bit_flipped_at_every_byte_costs_at_most_that_frame_and_is_counted(writing: Writing) -> None:
    for _ in range(4):
        writing.append()
    writing.end()
    whole = writing.path.read_bytes()
    for at in range(len(whole)):
        for mask in (1, 0x80):
            flip(writing.path, at, mask)
            items = read_all(writing.reader())
            seen, lost = steps(items), sum(damage.points for damage in damages(items))
            assert len(seen) + lost == 12, at
            assert lost in (0, 3), at
            assert len(seen) == len(set(seen))
            if (at, mask) != (5, 1):  # the last seal's kind may be read as another valid one only with a good CRC
                assert damages(items) or at >= len(whole) - frame.HEADER_BYTES - 1, at
            writing.path.write_bytes(whole)


def test_many_flipped_bits_never_lose_more_than_they_say(writing: Writing) -> None:
    for _ in range(30):
        writing.append(5)
    writing.end()
    writing.begin()
    writing.append()
    writing.end()
    first = writing.folder / str(layout.segments(writing.folder)[0])
    whole = first.read_bytes()
    for seed in range(200):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 12)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        first.write_bytes(data)
        items = read_all(writing.reader(), chance.choice((50, 1 << 20)))
        assert len(steps(items)) + sum(damage.points for damage in damages(items)) == 153, seed


def test_a_bad_last_frame_of_a_living_writer_means_not_yet(writing: Writing) -> None:
    writing.append()
    writing.append()
    size = writing.path.stat().st_size
    flip(writing.path, size - 1)
    source = writing.reader(alive=True)
    assert steps(source.read()) == [0, 1, 2]
    assert source.read() == []
    flip(writing.path, size - 1)
    assert steps(source.read()) == [3, 4, 5]


def test_from_afar_whatever_is_bad_in_an_unsealed_segment_means_not_yet(writing: Writing) -> None:
    """A file server may show the fourth frame before the second: zeros stand there meanwhile."""
    ends = [writing.path.stat().st_size]
    for _ in range(4):
        writing.append()
        ends.append(writing.path.stat().st_size)
    whole = writing.path.read_bytes()
    for begin in (ends[1], ends[1] + 40, ends[2] - 9):  # no header, half of one, a body
        writing.path.write_bytes(whole[:begin] + bytes(ends[2] - begin) + whole[ends[2] :])
        source = writing.reader(alive=True, from_afar=True)
        assert steps(source.read()) == [0, 1, 2]
        assert not source.read()
        writing.path.write_bytes(whole)
        seen = source.read()
        assert steps(seen) == list(range(3, 12))
        assert not [item for item in seen if isinstance(item, Damage)]
        source.close()


def test_from_afar_a_later_segment_proves_no_gap_while_the_one_before_is_unsealed(writing: Writing) -> None:
    writing.append()
    first, good = writing.path, writing.path.stat().st_size
    writing.append()
    whole = first.read_bytes()
    first.write_bytes(whole[:good])
    writing.begin()
    writing.append()
    source = writing.reader(alive=True, from_afar=True)
    assert steps(source.read()) == [0, 1, 2]
    assert not source.read()
    first.write_bytes(whole)
    assert steps(read_all(source)) == list(range(3, 9))


def test_from_afar_damage_in_a_sealed_segment_is_damage(writing: Writing) -> None:
    writing.append()
    begin = writing.path.stat().st_size
    writing.append()
    writing.append()
    writing.end()
    data = bytearray(writing.path.read_bytes())
    data[begin + frame.HEADER_BYTES] ^= 1
    writing.path.write_bytes(data)
    items = read_all(writing.reader(alive=True, from_afar=True))
    assert steps(items) == [0, 1, 2, 6, 7, 8]
    assert [(item.events, item.points) for item in items if isinstance(item, Damage)] == [(3, 3)]


def test_from_afar_a_torn_tail_is_left_where_a_later_segment_begins_at_the_last_good_byte(writing: Writing) -> None:
    writing.append()
    first, good = writing.path, writing.path.stat().st_size
    with first.open("ab") as file:
        file.write(b"\xff" * 50)
    assert first.stat().st_size > good
    writing.begin()
    writing.append()
    assert steps(read_all(writing.reader(alive=True, from_afar=True))) == list(range(6))


def test_a_frame_written_twice_is_taken_once(writing: Writing) -> None:
    writing.append()
    writing.begin(offset=0, count=0)
    writing.append()
    writing.append()
    assert steps(read_all(writing.reader())) == [0, 1, 2, 3, 4, 5]


def test_a_frame_cut_otherwise_the_second_time_gives_its_new_part(writing: Writing) -> None:
    writing.append(3)
    source = writing.reader()
    items = source.read()
    writing.begin(offset=0, count=0)
    writing.append(5)
    items += source.read()
    assert steps(items) == [0, 1, 2, 3, 4]
    assert [item.point_count for item in items if isinstance(item, Frame)] == [3, 2]


def test_damage_is_mended_by_a_later_segment_with_the_same_frames(writing: Writing) -> None:
    for _ in range(3):
        writing.append()
    damaged = writing.path
    writing.begin(offset=0, count=0)
    for _ in range(4):
        writing.append()
    flip(damaged, 16 + frame.HEADER_BYTES * 2 + 40)
    items = read_all(writing.reader())
    assert damages(items) == []
    assert steps(items) == list(range(12))


def test_a_damaged_dictionary_is_learned_from_the_segment_before(writing: Writing) -> None:
    assert writing.writer is not None
    define = events.pack(events.DEFINE_KEY, 7, "loss")
    writing.writer.append(piece(define + points(0, 1).data, 1, [define]))
    writing.offset, writing.count = writing.writer.offset, 1
    middle = writing.offset
    writing.begin(dictionary=(define,))
    writing.append()
    flip(writing.path, frame.HEADER_BYTES + len(IDENTITY) + frame.HEADER_BYTES + 3)
    items = read_all(writing.reader(middle))
    assert any(isinstance(item, Opened) and item.dictionary == define for item in items)
    assert steps(items) == [1, 2, 3]
    assert [damage.points for damage in damages(items)] == [0]


def test_a_frame_of_another_version_stops_the_reader_and_names_the_version(writing: Writing) -> None:
    writing.append()
    data = bytearray(frame.encode(frame.DATA, STREAM, writing.offset, events=b"\x91\x00"))
    data[4] = 9
    data[68:72] = struct.pack("<I", zlib.crc32(data[:68]))
    with writing.path.open("ab") as file:
        file.write(data)
    source = writing.reader()
    assert steps(source.read()) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(UnknownFormatVersion, match="version 9"):
            source.read()


def test_a_link_or_pipe_in_place_of_a_segment_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"secret")
    (tmp_path / "s").mkdir()
    place = tmp_path / "s" / "0000000000000000.00.seg"
    place.symlink_to(victim)
    source = StreamReader(tmp_path / "s", STREAM, writer_alive=lambda: True)
    with pytest.raises(UnsafeSpool, match="symbolic link"):
        source.read()
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UnsafeSpool, match="plain file"):
        source.read()


def test_damage_says_what_where_what_was_kept_and_what_to_do() -> None:
    text = str(Damage(Path("/s/a.seg"), 81920, 100, 200, 5, 4, "checksum mismatch"))
    assert text == (
        "checksum mismatch (stream offsets 100-200, 5 events with 4 points lost) in /s/a.seg at byte 81920. "
        "Kept: everything before and behind it. Next: trainspool verify /s."
    )


def new_steps(source: StreamReader) -> list[int]:
    items: list[Item] = []
    while more := source.read(1 << 20):
        items += more
    return steps(items)


def test_a_living_writers_rewrite_that_sorts_before_our_segment_is_found(writing: Writing) -> None:
    writing.append()
    middle, count = writing.offset, writing.count
    writing.append()
    writing.begin()  # rolled; then the sync of the first segment fails
    writing.append()
    source = writing.reader(alive=True)
    assert new_steps(source) == list(range(9))
    writing.begin(middle, count)
    while writing.count < 9:
        writing.append()
    assert new_steps(source) == []
    late = writing.reader(alive=True)
    assert new_steps(late) == list(range(9))
    for expected in ([9, 10, 11], [12, 13, 14]):
        writing.append()
        assert new_steps(source) == expected
        assert new_steps(late) == expected
