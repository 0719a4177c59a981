"""replay: how batches are cut makes no difference, what is damaged is counted, who else writes is respected."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import spooled
from click.testing import CliRunner
from handmade import T0, Stream, contents

from trainspool.errors import SpoolError
from trainspool.spool import events as ev
from trainspool.spool import layout
from trainspool.spool.ring import Ring
from trainspool.spool.segment import SegmentWriter
from trainspool_agent import agentlock, checkpoint, health, replay
from trainspool_agent.cli import main
from trainspool_agent.liveness import boot_id
from trainspool_agent.replay import guard as replayguard
from trainspool_agent.replay import stream as replaystream
from trainspool_agent.replay.guard import StoreBusy
from trainspool_agent.replay.survey import Wanted

RUNS = [digit * 32 for digit in "123456"]


@pytest.fixture(autouse=True)
def own_place(place: spooled.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)


def write(stream: Stream, spool: Path, *, seal: bool = True, segment_frames: int = 7) -> Path:
    """Put the frames of *stream* into segments of a spool; return its folder."""
    folder = layout.stream_folder(spool, "host", stream.id)
    folder.mkdir(parents=True)
    raw, definitions, writer = bytes.fromhex(stream.id), list[bytes](), None
    identity = ev.pack({"format": 1, "stream": stream.id, "host": "host", "wall": int(stream.id, 16)})[1:]
    for number, made in enumerate(stream.frames):
        if number % segment_frames == 0:
            counts = (writer.events_before, writer.points_before) if writer else (0, 0)
            if writer:
                writer.seal()
                writer.close()
            writer = SegmentWriter(str(folder), raw, identity, definitions, made.offset, *counts)
        assert writer
        for piece in ev.pieces(made.events, 1 << 20):
            writer.append(piece)
            definitions += piece.definitions
    assert writer
    if seal:
        writer.seal()
    writer.close()
    return folder


def training(stream: Stream, run_id: str, frames: int = 30, *, ended: bool = True) -> Stream:
    """A run with points that rise, repeat, go back and are not finite."""
    chance = random.Random(run_id)
    run = stream.run(run_id, f"e{run_id[0]}")
    stream.start(run)
    for number in range(frames):
        for step in range(20):
            stream.points(run, {"a": chance.random(), "b/c": chance.gauss(0, 1e9)}, number * 20 + step)
        stream.point(run, "back", chance.choice([float("nan"), float("inf"), -0.0, 0.0]), chance.randrange(4), T0)
        stream.params(run, **{f"p{number % 3}": str(number)})
        stream.tags(run, {"t": str(number)})
        stream.frame()
    if ended:
        stream.end(run)
        stream.epitaph(ev.FINISHED, None)
    stream.frame()
    return stream


def into(root: Path, *places: Path, again: bool = False, **wanted: tuple[str, ...]) -> replay.Report:
    return replay.replay(list(places), root, Wanted(**wanted), again=again, progress=lambda _: None)  # type: ignore[arg-type]


def comparable(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(root).items() if not name.endswith("meta.yaml")}


def account(root: Path, run_id: str) -> dict[str, int]:
    [folder] = root.glob(f"*/{run_id}")
    saved = checkpoint.load(str(folder), boot_id())
    assert saved
    counts: dict[str, int] = saved["counts"]
    return counts


def test_how_much_one_batch_holds_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = tmp_path / "some"
    for run_id in RUNS[:3]:
        write(training(Stream(), run_id), spool)
    both = training(training(Stream(), RUNS[3], ended=False), RUNS[4])
    write(both, spool)
    large = into(tmp_path / "large", spool)
    monkeypatch.setattr(replaystream, "BATCH_BYTES", 2000)
    small = into(tmp_path / "small", spool)
    assert (large.points, large.stored, large.folded) == (small.points, small.stored, small.folded)
    assert large.notes == small.notes == [] and large.folded > 0
    assert comparable(tmp_path / "large") == comparable(tmp_path / "small")
    assert into(tmp_path / "small", spool).points == 0


def test_a_damaged_frame_is_counted_in_report_and_account(tmp_path: Path) -> None:
    folder = write(training(Stream(), RUNS[0]), tmp_path / "spool")
    path = folder / str(layout.segments(folder)[1])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = into(tmp_path / "store", tmp_path / "spool")
    assert report.damaged_points == 41 and any("trainspool verify" in note.next_step for note in report.problems)
    assert account(tmp_path / "store", RUNS[0])["damaged"] == 41
    into(tmp_path / "store", tmp_path / "spool", again=True)
    assert account(tmp_path / "store", RUNS[0])["damaged"] == 41


def test_what_retention_took_is_said_and_is_no_problem(tmp_path: Path) -> None:
    folder = write(training(Stream(), RUNS[0]), tmp_path / "spool")
    whole = into(tmp_path / "whole", tmp_path / "spool")
    (folder / str(layout.segments(folder)[0])).unlink()
    report = into(tmp_path / "store", tmp_path / "spool")
    assert report.problems == [] and "retention" in report.notes[0].what
    assert 0 < report.points < whole.points


def test_a_living_streams_ring_is_read_and_not_touched(tmp_path: Path, place: spooled.Place) -> None:
    stream = training(Stream(), RUNS[0], ended=False)
    key, end = stream.key("a"), stream.frames[-1].end
    folder = write(stream, place.spool, seal=False)
    identity = {"format": 1, "stream": stream.id, "host": "host", "spool": str(place.spool), "pid": os.getpid()}
    ring = Ring(bytes.fromhex(stream.id), ev.pack(identity)[1:], place.rings, 1 << 18, base=end)
    ring.append(ev.pack(ev.POINT, 0, key, T0 + 10**12, 9000, 1.5))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    report = into(tmp_path / "store", place.spool)
    [run] = (tmp_path / "store").glob(f"*/{RUNS[0]}")
    assert " 1.5 9000\n" in "".join(path.read_text() for path in (run / "metrics").rglob("*") if path.is_file())
    assert report.problems == [] and "RUNNING" in report.notes[0].what
    assert "status: 1\n" in (run / "meta.yaml").read_text()
    assert ring.path and ring.path.exists() and ring.stored == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    ring.append(ev.pack(ev.POINT, 0, key, T0 + 2 * 10**12, 9001, 2.5))
    assert into(tmp_path / "store", place.spool).points == 1


def test_another_format_version_stops_that_stream_and_not_the_others(tmp_path: Path) -> None:
    import zlib

    folder = write(training(Stream(), RUNS[0]), tmp_path / "spool")
    write(training(Stream(), RUNS[1]), tmp_path / "spool")
    path = folder / str(layout.segments(folder)[1])
    data = bytearray(path.read_bytes())
    data[4] = 2
    data[68:72] = zlib.crc32(bytes(data[:68])).to_bytes(4, "little")
    path.write_bytes(data)
    report = into(tmp_path / "store", tmp_path / "spool")
    assert report.runs == 2
    assert any("format version 2" in note.what and "upgrade" in note.next_step for note in report.problems)


def test_two_replays_into_one_store_at_once_are_refused(tmp_path: Path) -> None:
    write(training(Stream(), RUNS[0]), tmp_path / "spool")
    with replayguard.holding(tmp_path / "store"), pytest.raises(StoreBusy, match="another replay"):
        into(tmp_path / "store", tmp_path / "spool")


@contextlib.contextmanager
def running_agent(folder: Path, **stream: object) -> Iterator[None]:
    """An agent that runs and says it carries *stream*."""
    with agentlock.AgentLock(folder) as lock:
        lock.describe([], None)
        (folder / health.FILE).write_text(json.dumps({"streams": [stream]}))
        yield


def test_what_the_running_agent_carries_into_this_store_is_left_to_it(tmp_path: Path, place: spooled.Place) -> None:
    root = tmp_path / "store"
    stream = Stream()
    stream.event(ev.DEFINE_RUN, 9, RUNS[0], True, str(root), None, "e")
    stream.start(9)
    stream.point(9, "a", 1.0)
    stream.frame()
    write(training(stream, RUNS[1]), tmp_path / "spool")
    (tmp_path / "store").mkdir()
    with running_agent(place.rings, stream="f" * 32, open_runs=[RUNS[0]]):
        report = into(root, tmp_path / "spool")
        assert RUNS[0] in report.problems[0].what and not list(root.glob(f"*/{RUNS[0]}"))
        assert list(root.glob(f"*/{RUNS[1]}"))
        assert into(tmp_path / "other", tmp_path / "spool").runs == 2  # not its store: nothing to be careful of
    with running_agent(place.rings, stream=stream.id, open_runs=[]):
        assert into(root, tmp_path / "spool").runs == 0
    assert into(root, tmp_path / "spool").runs == 1
    assert comparable(root) == comparable(tmp_path / "other")


def test_a_replay_cut_short_counts_everything_once_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaystream, "BATCH_BYTES", 1000)
    write(training(Stream(), RUNS[0]), tmp_path / "spool")
    into(tmp_path / "whole", tmp_path / "spool")
    expected = account(tmp_path / "whole", RUNS[0])
    apply, left = replay.FileStore.apply, 12

    async def failing(self: object, *how: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return await apply(self, *how)  # type: ignore[arg-type]

    root = tmp_path / "store"
    for again in (False, True):
        monkeypatch.setattr(replay.FileStore, "apply", failing)
        left = 12
        with pytest.raises(OSError, match="No space"):
            into(root, tmp_path / "spool", again=again)
        monkeypatch.setattr(replay.FileStore, "apply", apply)
        into(root, tmp_path / "spool")
        assert account(root, RUNS[0]) == expected
        assert comparable(root) == comparable(tmp_path / "whole")


def test_a_folder_without_streams_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(SpoolError, match="no stream"):
        into(tmp_path / "store", tmp_path / "a")
    result = CliRunner().invoke(main, ["replay", str(tmp_path / "nowhere"), "--to", str(tmp_path / "store")])
    assert result.exit_code == 2
    assert not (tmp_path / "store").exists()


def test_help_has_an_example() -> None:
    for command in ("replay", "verify"):
        result = CliRunner().invoke(main, [command, "--help"])
        assert result.exit_code == 0 and "Example: trainspool" in result.output
