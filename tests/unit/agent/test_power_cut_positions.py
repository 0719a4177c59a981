"""Positions that a power cut, a replay or a clash left behind: what is known for now is not known for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from handmade import Stream, contents, feed, open_store

from trainspool.spool import events
from trainspool.spool.items import Frame
from trainspool.spool.reader import StreamReader
from trainspool.spool.segment import SegmentWriter
from trainspool_agent.compact import Dictionary, compact
from trainspool_agent.drain import drain
from trainspool_agent.store.layout import TAGS, file_of_key

if TYPE_CHECKING:
    from conftest import Box

RUN = "a" * 32


def test_a_position_inside_a_frame_leaves_out_what_lies_before_it() -> None:
    stream = Stream()
    run = stream.run(RUN)
    stream.point(run, "loss", 1.0, 1)
    first = sum(map(len, stream._open))
    stream.point(run, "loss", 2.0, 2)
    stream.point(run, "loss", 3.0, 3)
    batch = compact([stream.frame()], Dictionary(), stream.id, lambda _: first)
    (changes,) = batch.runs.values()
    assert [step for _, step, _ in changes.points["loss"]] == [2, 3]
    assert batch.events == 3


def test_runs_that_the_store_knows_are_told() -> None:
    """A restart begins where they need it: what their store knows now it may not know after a power cut."""
    stream = Stream()
    stream.point(stream.run(RUN), "loss", 1.0)
    frame = stream.frame()
    batch = compact([frame], Dictionary(), stream.id, lambda _: frame.end)
    assert not batch.runs
    assert [run.run_id for run in batch.known] == [RUN]


def test_a_guest_has_an_unknown_tail_too() -> None:
    stream = Stream()
    stream.point(stream.run(RUN, owner=False), "loss", 1.0)
    stream.epitaph(events.KILLED, "what it held last is unknown")
    batch = compact([stream.frame()], Dictionary(), stream.id, lambda _: 0)
    (changes,) = batch.runs.values()
    assert changes.unknown_tail
    assert changes.epitaph is None


def test_last_words_go_behind_what_a_store_has(box: Box) -> None:
    stream = box.stream()
    stream.log(3)
    stream.pump()
    assert stream.ring is not None
    stream.ring.unlink()  # the machine went down
    end = stream.ring.end
    assert drain(stream.place, stream.identity, [], 0, end + 500).end > end + 500
    assert stream.place.folder.is_dir()


def test_an_escaped_tag_keeps_its_file_when_the_other_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / TAGS
    folder.mkdir()
    (folder / "a").write_text("1")
    path = Path(file_of_key(str(folder), "a/b"))
    path.write_text("2")
    (folder / "a").unlink()
    assert file_of_key(str(folder), "a/b") == str(path)


def test_what_a_killed_batch_wrote_does_not_outlive_a_later_event_of_the_value_known(tmp_path: Path) -> None:
    """Three streams: one checkpointed, one killed behind its files, one that comes first after the restart."""
    known, killed, later = Stream(), Stream(), Stream()
    for stream, value, time in ((known, "a", 5), (killed, "b", 7), (later, "a", 9)):
        run = stream.run(RUN)
        stream.tags(run, {"stage": value}, time=time)
        stream.params(run, time=-time, depth=value)
        stream.frame()
    store = open_store(tmp_path)
    feed(store, known)
    store.checkpoint(force=True)
    feed(store, killed)  # and no checkpoint
    restarted = open_store(tmp_path)
    feed(restarted, later)
    feed(restarted, killed)
    files = {name.partition("/")[2].partition("/")[2]: data for name, data in contents(tmp_path).items()}
    assert files["tags/stage"] == b"a"
    assert (files["params/depth"], files["tags/param.depth.v2"]) == (b"a", b"b")


def test_a_frame_known_in_part_still_defines(tmp_path: Path) -> None:
    first, second = events.pack(events.DEFINE_KEY, 7, "loss"), events.pack(events.TAGS, 0, 1, [])
    writer = SegmentWriter(str(tmp_path), bytes(16), b"\x80", [], 0, 0, 0)
    writer.append(next(events.pieces(first + second + second, 1 << 16)))
    writer.close()
    reader = StreamReader(tmp_path, bytes(16), len(first + second), writer_alive=lambda: False)
    (frame,) = [item for item in reader.read() if isinstance(item, Frame)]
    reader.close()
    assert frame.definitions == first
    assert frame.events == second
