"""SegmentWriter: a new file each time, whole frames only, and nothing harmful where creating one failed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from failing_files import FailingFiles

from trainspool.spool import events, files, frame, layout
from trainspool.spool.items import Frame
from trainspool.spool.reader import StreamReader
from trainspool.spool.segment import ATTEMPTS_MAX, SegmentWriter

STREAM = bytes(range(16))
IDENTITY = events.pack({"format": 1, "pid": 1})[1:]


def piece(first: int, count: int = 3) -> events.Piece:
    data = b"".join(events.pack(events.POINT, 0, 0, 10**18, step, 0.5) for step in range(first, first + count))
    return events.Piece(data, count, count, [], [])


def open_segment(folder: Path, dictionary: tuple[bytes, ...] = ()) -> SegmentWriter:
    return SegmentWriter(str(folder), STREAM, IDENTITY, dictionary, 0, 0, 0)


def steps(folder: Path) -> list[int]:
    reader = StreamReader(folder, STREAM, writer_alive=lambda: False)
    found = [event[4] for item in reader.read() if isinstance(item, Frame) for event in events.decode(item.events)]
    reader.close()
    return found


@pytest.fixture
def fs(monkeypatch: pytest.MonkeyPatch) -> FailingFiles:
    made = FailingFiles()
    monkeypatch.setattr(files, "fs", made)
    return made


def test_a_name_that_is_taken_makes_another_attempt(tmp_path: Path) -> None:
    names = [Path(open_segment(tmp_path).path).name for _ in range(3)]
    assert names == [f"{0:016x}.{attempt:02x}.seg" for attempt in range(3)]


def test_attempts_come_to_an_end(tmp_path: Path) -> None:
    for attempt in range(ATTEMPTS_MAX):
        (tmp_path / f"{0:016x}.{attempt:02x}.seg").touch()
    with pytest.raises(FileExistsError, match="256 segments"):
        open_segment(tmp_path)


@pytest.mark.parametrize("short", [False, True])
def test_a_failed_write_is_cut_off_and_the_next_one_stands_in_its_place(
    tmp_path: Path, fs: FailingFiles, short: bool
) -> None:
    writer = open_segment(tmp_path)
    writer.append(piece(0))
    length = Path(writer.path).stat().st_size
    fs.error, fs.short, fs.fails = errno.ENOSPC, short, lambda number, name: name == "write"
    with pytest.raises(OSError, match="No space"):
        writer.append(piece(3))
    assert Path(writer.path).stat().st_size == length == writer.bytes and not writer.broken
    fs.fails = lambda number, name: False
    writer.append(piece(3))
    assert steps(tmp_path) == list(range(6))


def test_a_segment_that_cannot_be_cut_back_says_so(tmp_path: Path, fs: FailingFiles) -> None:
    writer = open_segment(tmp_path)
    fs.short, fs.fails = True, lambda number, name: name in ("write", "truncate")
    with pytest.raises(OSError):
        writer.append(piece(0))
    assert writer.broken and steps(tmp_path) == []


@pytest.mark.parametrize("failing", [{"write"}, {"write", "unlink"}, {"write", "unlink", "truncate"}, {"create"}])
def test_a_segment_that_cannot_be_made_leaves_nothing_harmful(
    tmp_path: Path, fs: FailingFiles, failing: set[str]
) -> None:
    fs.short, fs.fails = True, lambda number, name: name in failing
    with pytest.raises(OSError):
        open_segment(tmp_path)
    fs.fails = lambda number, name: False
    writer = open_segment(tmp_path)
    writer.append(piece(0))
    writer.seal(in_order=True)
    assert steps(tmp_path) == [0, 1, 2]


def test_a_file_is_private_and_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / f"{0:016x}.00.seg").symlink_to(tmp_path / "elsewhere")
    writer = open_segment(tmp_path)
    assert writer.path.endswith(".01.seg") and Path(writer.path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_large_dictionary_takes_several_frames(tmp_path: Path) -> None:
    many = tuple(events.pack(events.DEFINE_KEY, number, "x" * 250) for number in range(9000))
    writer = open_segment(tmp_path, many)
    data = Path(writer.path).read_bytes()
    kinds, at = [], 0
    while at < len(data):
        header = frame.parse_header(data, at)
        assert header is not None
        kinds.append(header.kind)
        at += frame.HEADER_BYTES + header.body_length
    assert kinds == [frame.IDENTITY, *[frame.DICTIONARY] * (len(kinds) - 1)] and len(kinds) > 4
    assert [str(name) for name in layout.segments(tmp_path)] == [Path(writer.path).name]
