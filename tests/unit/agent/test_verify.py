"""verify names every kind of damage by file and byte, repair keeps every sound frame."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import spooled
from click.testing import CliRunner, Result

from trainspool.spool import events as ev
from trainspool.spool import files, frame, layout
from trainspool.spool.files import Files
from trainspool.spool.items import Damage, Frame
from trainspool.spool.reader import StreamReader
from trainspool.spool.segment import SegmentWriter
from trainspool_agent import cursor, verify
from trainspool_agent.cli import main
from trainspool_agent.discover import Place
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look import walk
from trainspool_agent.verify import CheckedStream
from trainspool_agent.verify.findings import Finding
from trainspool_agent.verify.repair import repair

VECTORS = Path(__file__).parents[2] / "data" / "v1"
STREAM = bytes(range(16))
RUN = "a" * 32
T0 = 1_700_000_000_000_000_000
FRAME_POINTS = 5


class Spool:
    """One sealed stream of another boot in two segments of four data frames each; each frame has a key of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "spool", folder / "mlruns"
        self.place = Place(self.root, layout.host_name(), STREAM.hex())
        self.folder = self.place.folder
        (self.folder / layout.STAGING).mkdir(parents=True)
        self.definitions = [ev.pack(ev.DEFINE_RUN, 0, RUN, True, str(self.store), None, "e")]
        identity = {"format": 1, "stream": STREAM.hex(), "host": self.place.host, "boot": "another", "pid": 1}
        self.identity = msgpack.packb(identity)
        self.offset = self.events = self.points = self.keys = 0
        self.write(first=True)
        self.write()

    def write(self, *, first: bool = False) -> None:
        """Append a segment of four frames and a seal."""
        known = [] if first else self.definitions
        writer = SegmentWriter(str(self.folder), STREAM, self.identity, known, self.offset, self.events, self.points)
        for number in range(4):
            new = [ev.pack(ev.DEFINE_KEY, self.keys, f"k{self.keys}")]
            data = b"".join([*self.definitions, *new] if first and not number else new)
            for step in range(FRAME_POINTS):
                data += ev.pack(ev.POINT, 0, self.keys, T0 + self.keys, step, 0.5)
            self.definitions += new
            self.keys += 1
            [piece] = ev.pieces(data, 1 << 20)
            writer.append(piece)
        writer.seal()
        writer.close()
        self.offset, self.events, self.points = writer.offset, writer.events_before, writer.points_before

    @property
    def segments(self) -> list[Path]:
        return [self.folder / str(name) for name in layout.segments(self.folder)]

    def data_frames(self, path: Path) -> list[walk.Part]:
        parts = walk.parts(path.read_bytes())
        return [part for part in parts if part.header is not None and part.header.kind == frame.DATA]

    def flip(self, path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x40
        path.write_bytes(data)

    def look(self) -> tuple[list[inspect_spool.SeenStream], verify.Verdict]:
        seen = inspect_spool.seen_streams(self.root)
        return seen, verify.verify(seen, lambda _: None)

    def damage(self) -> list[Finding]:
        return self.look()[1].damage

    def read(self) -> tuple[set[bytes], list[Damage]]:
        """Every event that a reader gets, and the damage that it meets."""
        reader = StreamReader(self.folder, STREAM, writer_alive=lambda: False)
        found, damage = set(), []
        while items := reader.read():
            for item in items:
                if isinstance(item, Frame):
                    found |= {ev.pack(*event) for event in ev.decode(item.events)}
                elif isinstance(item, Damage):
                    damage.append(item)
        reader.close()
        return found, damage


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setattr(inspect_spool, "ring_places", lambda: (None, []))
    return Spool(tmp_path)


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_a_sound_stream_has_no_findings_and_is_counted(spool: Spool) -> None:
    _, verdict = spool.look()
    [stream] = verdict.streams
    assert (stream.findings, stream.segments, stream.events, stream.points) == ([], 2, 40, 40)
    assert run_cli(spool.root).exit_code == 0


def test_the_vectors_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_spool, "ring_places", lambda: (None, []))
    verdict = verify.verify(inspect_spool.seen_streams(VECTORS), lambda _: None)
    assert verdict.damage == []
    assert [finding.torn for finding in verdict.findings] == [True]


def test_a_flipped_bit_in_a_body_costs_that_frame_exactly(spool: Spool) -> None:
    path = spool.segments[0]
    hit = spool.data_frames(path)[2]
    assert hit.header
    spool.flip(path, hit.at + frame.HEADER_BYTES + 40)
    [found] = spool.damage()
    assert (found.file, found.at) == (str(path), hit.at)
    assert (found.lost_events, found.lost_points, found.exact) == (FRAME_POINTS, FRAME_POINTS, True)
    assert found.lost_offsets == (hit.header.offset, hit.header.end) and "checksum mismatch" in found.what


def test_a_flipped_bit_in_a_header_costs_that_frame_exactly(spool: Spool) -> None:
    path = spool.segments[1]
    hit = spool.data_frames(path)[1]
    spool.flip(path, hit.at + 30)
    [found] = spool.damage()
    assert (found.file, found.at, found.lost_points) == (str(path), hit.at, FRAME_POINTS)
    assert "no valid frame header" in found.what


def test_every_flipped_byte_of_a_segment_is_noticed(spool: Spool) -> None:
    path = spool.segments[1]
    whole = path.read_bytes()
    parts = list(walk.parts(whole))
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        damage = spool.damage()
        begin = max(part.at for part in parts if part.at <= at)
        assert (str(path), begin) in {(one.file, one.at) for one in damage}, at
        lost = sum(one.lost_points for one in damage)
        held = next(part.header for part in parts if part.at == begin)
        assert held and lost == (held.points if held.kind == frame.DATA else 0), at


def test_a_damaged_frame_that_another_segment_holds_costs_nothing(spool: Spool) -> None:
    path = spool.segments[0]
    shutil.copy(path, spool.folder / f"{0:016x}.01.seg")
    hit = spool.data_frames(path)[2]
    spool.flip(path, hit.at + frame.HEADER_BYTES + 40)
    [found] = spool.damage()
    assert (found.file, found.at, found.lost_offsets, found.cost) == (str(path), hit.at, None, "nothing lost")


def test_a_cut_is_ordinary_at_the_end_and_damage_before_it(spool: Spool) -> None:
    first, last = spool.segments
    whole = last.read_bytes()
    last.write_bytes(whole[:-90])
    _, verdict = spool.look()
    [note] = verdict.findings
    assert not verdict.damage and note.torn and note.file == str(last)
    last.write_bytes(whole)
    hit = spool.data_frames(first)[3]
    os.truncate(first, hit.at + 80)
    [found] = spool.damage()
    assert (found.file, found.at, found.lost_points) == (str(first), hit.at, FRAME_POINTS)


def test_a_missing_segment_is_named_with_what_it_held(spool: Spool) -> None:
    spool.write()
    missing = spool.segments[1]
    missing.unlink()
    [found] = spool.damage()
    assert found.file == str(spool.segments[1]) and (found.lost_events, found.lost_points) == (20, 20)
    assert found.lost_offsets == (int(missing.name[:16], 16), int(spool.segments[1].name[:16], 16))


def _altered(spool: Spool, number: int, **change: Any) -> tuple[Path, int]:
    """Write one frame of the first segment again, with valid checksums, but other than it should be."""
    path = spool.segments[0]
    part, data = spool.data_frames(path)[number], path.read_bytes()
    header = part.header
    assert header
    fields = {
        "definitions": part.body[: header.definitions_length], "events": part.body[header.definitions_length :],
        "events_before": header.events_before, "points_before": header.points_before,
        "event_count": header.events, "point_count": header.points,
    }  # fmt: skip
    offset, stream = change.pop("offset", header.offset), change.pop("stream", STREAM)
    made = frame.encode(frame.DATA, stream, offset, **{**fields, **change})
    path.write_bytes(data[: part.at] + made + data[part.at + part.length :])
    return path, part.at


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"events_before": 99}, "counts 99 events"),
        ({"event_count": 4}, "counts 4 events and 5 points in it, and holds 5 and 5"),
        ({"offset": 100_000}, "are in no segment"),
        ({"stream": bytes(16)}, "of another stream"),
        ({"events": ev.pack(ev.POINT, 0, 77, T0, 1, 0.5), "event_count": 1, "point_count": 1}, "malformed events"),
        ({"events": b"\xc1" * 20, "event_count": 1, "point_count": 1}, "malformed events"),
        ({"events": ev.pack(ev.POINT, 0, 0, "now", 1, 0.5), "event_count": 1, "point_count": 1}, "malformed events"),
        ({"definitions": ev.pack(ev.DEFINE_KEY, -4, "x")}, "malformed definitions"),
    ],
)
def test_sound_checksums_do_not_hide_a_frame_that_breaks_the_format(
    spool: Spool, change: dict[str, Any], what: str
) -> None:
    path, at = _altered(spool, 1, **change)
    assert any(what in one.what and (one.file, one.at) == (str(path), at) for one in spool.damage())


def test_another_version_and_unknown_kinds_are_no_damage_and_say_what_is_needed(spool: Spool) -> None:
    path = spool.segments[1]
    data = bytearray(path.read_bytes())
    hit = spool.data_frames(path)[0]
    data[hit.at + 4] = 9
    import zlib

    data[hit.at + 68 : hit.at + 72] = zlib.crc32(bytes(data[hit.at : hit.at + 68])).to_bytes(4, "little")
    path.write_bytes(data)
    _altered(spool, 3, events=ev.pack(200, "new"), event_count=1, point_count=0)
    _, verdict = spool.look()
    notes = {finding.what for finding in verdict.findings if "pip install" in finding.next_step}
    assert any("format version 9" in what for what in notes) and any("kinds [200]" in what for what in notes)
    assert not [finding for finding in verdict.damage if finding.file == str(path)]


def test_a_cursor_and_checkpoints_are_checked(spool: Spool) -> None:
    folder = spool.store / "0" / RUN
    folder.mkdir(parents=True)
    for path in (folder / "meta.yaml", spool.store / "0" / "meta.yaml"):
        path.write_text("x: 1\n")
    from trainspool_agent import checkpoint

    state = checkpoint.encode({"version": 1, "boot": "b", "serial": 1})
    (folder / "trainspool.durable").write_bytes(state)
    (folder / "trainspool.applied").write_bytes(state[:-1] + b"?")
    cursor.save(spool.folder, cursor.Cursor(offset=5))
    _, verdict = spool.look()
    assert verdict.checkpoints == 2
    assert [(one.file, one.at) for one in verdict.damage] == [(str(folder / "trainspool.applied"), 7)]
    (folder / "trainspool.applied").write_bytes(b"")
    spool.flip(spool.folder / "cursor", 12)
    assert {(Path(one.file).name, one.at) for one in spool.damage()} == {("trainspool.applied", 0), ("cursor", 4)}
    result = run_cli(spool.root, "--repair")
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.glob("*.damaged")} == {"trainspool.applied.damaged"}
    assert (spool.folder / "cursor.damaged").exists() and not (spool.folder / "cursor").exists()


def test_a_ring_is_checked(tmp_path: Path, spool: Spool) -> None:
    name = "feedfacecafebeeffeedfacecafebeef"
    path = tmp_path / f"{name}.ring"
    sound = gzip.decompress((VECTORS / f"{name}.ring.gz").read_bytes())
    path.write_bytes(sound)
    place = Place(VECTORS, "vector-host", name)

    def damage(at: int, value: bytes) -> list[tuple[str, int]]:
        path.write_bytes(sound[:at] + value + sound[at + len(value) :])
        found = verify.verify([inspect_spool.look_at(place, path)], lambda _: None)
        return [(one.file, one.at) for one in found.damage]

    assert damage(0, b"") == []
    assert damage(0, b"TSRING7\0") == [(str(path), 0)]
    assert damage(4100, b"?") == [(str(path), 0)]
    assert (str(path), 136) in damage(136, (1 << 40).to_bytes(8, "little"))
    assert set(damage(128, (7).to_bytes(8, "little"))) & {(str(path), 128), (str(path), 144)}
    assert (str(path), 64) in damage(64, (1 << 50).to_bytes(8, "little"))
    view_head = int.from_bytes(sound[64:72], "little")
    base = int.from_bytes(sound[128:136], "little")
    assert any(at >= 65536 for _, at in damage(65536 + max(0, view_head - base), b"\xc1" * 8))


def test_exit_status_and_json(spool: Spool) -> None:
    assert run_cli("no such stream").exit_code == 2
    assert run_cli(spool.segments[0], "--repair").exit_code == 2
    path = spool.segments[0]
    hit = spool.data_frames(path)[1]
    spool.flip(path, hit.at + 80)
    result = run_cli(spool.root, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.output)
    [found] = answer["streams"][0]["findings"]
    assert not answer["ok"] and (found["file"], found["at"], found["lost_points"]) == (str(path), hit.at, FRAME_POINTS)
    said = run_cli(path)
    assert said.exit_code == 1 and f"{path} at byte {hit.at}" in said.output
    assert run_cli(spool.segments[1]).exit_code == 0
    assert run_cli(spool.folder).exit_code == 1


def test_nothing_is_written_without_repair(spool: Spool) -> None:
    spool.flip(spool.segments[0], 400)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in spool.root.rglob("*")}
    assert run_cli(spool.root).exit_code == 1
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in spool.root.rglob("*")} == before


def _damaged_twice(spool: Spool) -> tuple[set[bytes], bytes]:
    """Damage two frames in a row, so that the meaning of the first one's key is in no later frame of the segment."""
    whole, _ = spool.read()
    path = spool.segments[0]
    lost = set()
    for hit in spool.data_frames(path)[1:3]:
        assert hit.header
        lost |= {ev.pack(*event) for event in ev.decode(hit.body[hit.header.definitions_length :])}
        spool.flip(path, hit.at + frame.HEADER_BYTES + 30)
    return whole - lost, path.read_bytes()


def _check_repaired(spool: Spool, survive: set[bytes], damaged: bytes) -> None:
    held, damage = spool.read()
    assert held >= survive
    [gap] = damage
    assert (gap.reason, gap.events, gap.points, gap.exact) == ("events are missing", 10, 10, True)
    assert spool.damage() == []
    [note] = spool.look()[1].findings
    assert note.lost_points == 10 and "set aside" in note.what
    assert [path.read_bytes() for path in spool.folder.glob("*.damaged")] == [damaged]
    assert not list(spool.folder.glob("*.tmp"))
    assert spool.segments[0].name == f"{0:016x}.01.seg"


def test_repair_keeps_every_sound_frame_and_sets_the_damaged_segment_aside(spool: Spool) -> None:
    survive, damaged = _damaged_twice(spool)
    result = run_cli(spool.root, "--repair")
    assert result.exit_code == 0, result.output
    assert "set aside as 0000000000000000.00.seg.damaged" in result.output
    _check_repaired(spool, survive, damaged)
    assert run_cli(spool.root, "--repair").exit_code == 0


class _Killed(BaseException):
    pass


class _Dying(Files):
    """Dies before the operation of that number."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __getattribute__(self, name: str) -> Any:
        if name in ("create", "write", "sync", "rename", "sync_folder", "unlink"):
            if not self.left:
                raise _Killed
            self.left -= 1
        return super().__getattribute__(name)


def test_a_repair_killed_anywhere_and_repeated_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_spool, "ring_places", lambda: (None, []))
    for number in range(1000):
        (tmp_path / str(number)).mkdir()
        spool = Spool(tmp_path / str(number))
        survive, damaged = _damaged_twice(spool)
        seen, verdict = spool.look()
        monkeypatch.setattr(files, "fs", _Dying(number))
        try:
            repair(verdict, seen)
            died = False
        except _Killed:
            died = True
        monkeypatch.setattr(files, "fs", Files())
        assert spool.read()[0] >= survive
        seen, verdict = spool.look()
        repair(verdict, seen)
        _check_repaired(spool, survive, damaged)
        if not died:
            return
    pytest.fail("never came to the end")


def test_repair_leaves_a_living_stream_alone(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.flip(spool.segments[0], 600)
    for life in (inspect_spool.LIVE, inspect_spool.UNKNOWN):
        seen, verdict = spool.look()
        seen[0].life = life
        [refused] = repair(verdict, seen)
        assert refused.refused and len(spool.segments) == 2
    fd = os.open(spool.folder / layout.LOCK, os.O_RDWR | os.O_CREAT)
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_EX)
    seen, verdict = spool.look()
    [refused] = repair(verdict, seen)
    os.close(fd)
    assert refused.refused and "an agent has it in hand" in refused.done


def test_a_hostile_segment_is_named_and_the_others_are_checked(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 100)
    spool.segments[0].unlink()
    link = spool.folder / f"{0:016x}.00.seg"
    link.symlink_to(tmp_path / "secret")
    _, verdict = spool.look()
    [stream] = verdict.streams
    assert isinstance(stream, CheckedStream) and stream.points == 20
    assert any(one.file == str(link) and "symbolic link" in one.what for one in verdict.damage)


LIVING = """
import os, sys, time
import trainspool
with trainspool.start_run():
    step = 0
    while not os.path.exists(sys.argv[1]):
        for _ in range(100):
            trainspool.log_metrics({"a": step / 3, "b": 1.0}, step)
            step += 1
        time.sleep(0.001)
"""


def test_a_stream_that_is_being_written_is_never_called_damaged(
    place: spooled.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)
    stop = place.folder / "stop"
    child = place.start(LIVING, stop)
    try:
        spooled.until(lambda: verify.bytes_of(verify.streams_of([place.spool])) > 200_000)
        for _ in range(10):
            [seen], verdict = (streams := verify.streams_of([place.spool])), verify.verify(streams, lambda _: None)
            assert seen.life == inspect_spool.LIVE and verdict.damage == []
        assert verdict.streams[0].points > 0
    finally:
        stop.touch()
        assert child.wait(60) == 0
    assert verify.verify(verify.streams_of([place.spool]), lambda _: None).findings == []
