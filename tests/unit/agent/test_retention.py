"""What retention deletes is in the store for good; wherever it dies, nothing else is missing."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from trainspool.spool import events, files, layout, quota, trimmed
from trainspool.spool.items import Damage, Frame
from trainspool.spool.reader import StreamReader
from trainspool.spool.segment import SegmentWriter
from trainspool_agent import checkpoint, cursor, replay, retention, verify
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.replay.survey import Wanted
from trainspool_agent.retention import BEYOND, OLD, QUOTA, Report
from trainspool_agent.settings import Retention

from .conftest import WALL, Box, MadeStream

EVERYTHING = Retention(days=0.0, bytes=0)
NOTHING = Retention(days=1e6, bytes=1 << 50)


class Rolling(MadeStream):
    """A stream in many segments; *frames*: the end of each log call's events, and its steps."""

    def __init__(self, *args: Any, **about: Any) -> None:
        self.frames: list[tuple[int, range]] = []
        super().__init__(*args, **about)

    def roll(self) -> None:
        """Seal the segment and begin the next, as the pump does."""
        before = self.segment
        assert before
        before.seal()
        before.close()
        run = events.pack(events.DEFINE_RUN, 0, self.run_id, True, str(self.store), None, "made")
        definitions = [events.pack(events.DEFINE_KEY, 0, "loss"), run]
        identity, counts = msgpack.packb(self.identity), (before.events_before, before.points_before)
        self.segment = SegmentWriter(str(self.folder), self.raw, identity, definitions, before.offset, *counts)

    def segments(self, *points: int) -> Rolling:
        """Log that many points into a segment each; the last one stays open."""
        for index, count in enumerate(points):
            if index:
                self.roll()
            self.log(count)
        return self

    def stage(self, content: bytes = b"weights") -> str:
        """Log an artifact; return the staged file's name."""
        name = os.urandom(16).hex()
        (self.folder / layout.STAGING / name).write_bytes(content)
        self._write(events.pack(events.ARTIFACT, 0, WALL, f"file{self.step}", name, len(content), 0o644))
        return name

    def log(self, count: int = 1) -> None:
        begun = self.step
        super().log(count)
        assert self.segment
        self.frames.append((self.segment.offset, range(begun, self.step)))

    def names(self) -> list[str]:
        return [str(name) for name in layout.segments(self.folder)]


def rolling(box: Box, *points: int, alive: bool = False) -> Rolling:
    made = Rolling(box, ring=False, locked=alive)
    box.streams.append(made)
    return made.segments(*points)


def sweep(box: Box, rules: Retention = EVERYTHING, *, dry_run: bool = False) -> Report:
    report = retention.sweep(box.spool, layout.host_name(), rules, dry_run=dry_run)
    assert report is not None
    return report


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def steps_in(stream: Rolling, offset: int = 0) -> list[int]:
    """The steps that a reader finds; damage fails the test."""
    reader = StreamReader(stream.folder, stream.raw, offset, writer_alive=lambda: False)
    found: list[int] = []
    while items := reader.read():
        assert not [item for item in items if isinstance(item, Damage)]
        for item in items:
            if isinstance(item, Frame):
                found += [event[4] for event in events.decode(item.events) if event[0] == events.POINT]
    reader.close()
    return found


def make_older(stream: Rolling, days: float, *names: str) -> None:
    then = time.time() - days * 86400
    for name in names or stream.names():
        os.utime(stream.folder / name, (then, then))


# -- what goes ------------------------------------------------------------------------------------------------------


def test_a_finished_stream_goes_whole_and_its_run_stays(box: Box) -> None:
    stream = rolling(box, 5, 5, 5)
    box.carry()
    before = tree(box.store)
    report = sweep(box)
    assert not stream.folder.exists()
    assert os.listdir(stream.folder.parent) == []
    assert len(report.freed) == 4  # three and the epitaph's
    assert tree(box.store) == before
    box.carry()
    assert stream.stored_steps() == list(range(15))


def test_age_decides(box: Box) -> None:
    stream = rolling(box, 5, 5, 5)
    box.carry()
    assert sweep(box, Retention(days=7.0)).freed == []
    make_older(stream, 8, *stream.names()[:2])
    report = sweep(box, Retention(days=7.0))
    assert [one.why for one in report.freed] == [OLD, OLD]
    assert trimmed.offset(stream.folder) == layout.segments(stream.folder)[0].offset
    make_older(stream, 8)
    sweep(box, Retention(days=7.0))
    assert not stream.folder.exists()


def test_size_decides_oldest_first_across_streams(box: Box) -> None:
    old, young = rolling(box, 50, 50), rolling(box, 50, 50)
    box.carry()
    make_older(old, 3)
    make_older(young, 2)
    size = sum((young.folder / name).stat().st_size for name in young.names())
    report = sweep(box, Retention(days=7.0, bytes=size))
    assert {one.why for one in report.freed} == {BEYOND}
    assert not old.folder.exists()
    assert steps_in(young) == list(range(100))


def test_a_dry_run_says_the_same_and_deletes_nothing(box: Box) -> None:
    rolling(box, 5, 5, 5)
    rolling(box, 5, 5, alive=True)
    box.carry()
    before = tree(box.spool)
    said = sweep(box, dry_run=True)
    assert tree(box.spool) == before
    assert sweep(box).freed == said.freed
    assert len(said.freed) == 5


def test_staged_files_go_with_the_segment_that_names_them(box: Box) -> None:
    stream = rolling(box, 5, alive=True)
    gone = stream.stage()
    stream.roll()
    kept = stream.stage()
    box.carry()
    sweep(box)
    assert os.listdir(stream.folder / layout.STAGING) == [kept]
    assert gone != kept
    assert {path.read_bytes() for path in (stream.run_folder / "artifacts").iterdir()} == {b"weights"}


# -- what stays -----------------------------------------------------------------------------------------------------


def test_a_staged_file_stays_while_a_later_segment_names_it_too(box: Box) -> None:
    """A picture and its thumbnail are made of one file, and a segment may end between their events."""
    stream = rolling(box, 5)
    (stream.folder / layout.STAGING / "pixels").write_bytes(b"\0")
    about = {"form": "image", "dtype": "|u1", "shape": [1, 1], "mode": None}
    for number, path in enumerate(("images/a.png", "images/a.webp")):
        stream._write(events.pack(events.MEDIA, 0, WALL + number, path, "pixels", 1, about))
        stream.roll()
        stream.log(5)
    box.carry()
    make_older(stream, 8, stream.names()[0])
    sweep(box, Retention(days=7.0))
    assert len(stream.names()) == 2 + 1 and (stream.folder / layout.STAGING / "pixels").exists()
    make_older(stream, 8, *stream.names()[:1])
    sweep(box, Retention(days=7.0))
    assert len(stream.names()) == 2 and not (stream.folder / layout.STAGING / "pixels").exists()


def test_what_a_dead_process_left_in_staging_goes_with_its_stream(box: Box, tmp_path: Path) -> None:
    """Half of a copy in the background, a file that no event names, a folder written to a given path."""
    stream = rolling(box, 5)
    staging, outside = stream.folder / layout.STAGING, tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"not ours")
    (staging / ("a" * 32 + layout.PART_SUFFIX)).write_bytes(b"half")
    (staging / ("b" * 32)).write_bytes(b"no event names it")
    (staging / "0123-model/shards").mkdir(parents=True)
    (staging / "0123-model/shards/one").write_bytes(b"half")
    (staging / "0123-model/elsewhere").symlink_to(outside)
    box.carry()
    report = sweep(box)
    assert not report.problems and not stream.folder.exists() and not list(stream.folder.parent.iterdir())
    assert (outside / "kept").read_bytes() == b"not ours"


def test_a_living_streams_last_segment_stays_and_the_stream_goes_on(box: Box) -> None:
    stream = rolling(box, 5, 5, 5, alive=True)
    box.carry()
    sweep(box)
    assert len(stream.names()) == 1
    assert steps_in(stream) == list(range(10, 15))
    stream.log(5)
    stream.roll()
    stream.log(5)
    (stream.folder / "cursor").unlink()  # a restart that knows nothing begins at the mark
    agent = box.carry()
    assert stream.stored_steps() == list(range(25))
    [facts] = agent.health.streams.values()
    assert (facts.damaged_points, facts.error) == (0, None)


def test_what_no_durable_checkpoint_covers_stays(box: Box) -> None:
    stream = rolling(box, 5, 5, 5, alive=True)
    box.carry()
    (stream.run_folder / "trainspool.durable").unlink()
    report = sweep(box)
    assert report.freed == []
    [kept] = report.kept
    assert (kept.segments, kept.needed) == (3, True)
    assert stream.run_id in kept.why


def test_what_was_never_carried_stays(box: Box) -> None:
    stream = rolling(box, 5, 5, 5)
    make_older(stream, 1000)
    assert sweep(box).freed == []
    box.carry()
    assert stream.stored_steps() == list(range(15))


@pytest.mark.parametrize("what", ["damage", "unknown kind", "malformed"])
def test_a_segment_that_someone_may_want_to_see_stays_with_all_behind_it(box: Box, what: str) -> None:
    stream = rolling(box, 5, 5)
    if what == "unknown kind":
        stream._write(events.pack(77, 0, WALL))
    elif what == "malformed":
        assert stream.segment
        stream.segment.append(events.Piece(b"\x07", 1, 0, [], []))
    stream.roll()
    stream.log(5)
    if what == "damage":
        path = stream.folder / stream.names()[1]
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    box.carry()
    names = stream.names()
    report = sweep(box)
    assert [one.segment for one in report.freed] == names[:1]
    assert stream.names() == names[1:]
    assert any(one.needed and str(stream.folder / names[1]) in one.why for one in report.kept)


def test_what_another_host_wrote_stays(box: Box) -> None:
    stream = rolling(box, 5, 5)
    box.carry()
    elsewhere = box.spool / layout.STREAMS / "another-host"
    shutil.copytree(stream.folder, elsewhere / stream.folder.name)
    before = tree(elsewhere)
    sweep(box)
    assert tree(elsewhere) == before


def test_a_folder_with_damage_set_aside_in_it_does_not_go_whole(box: Box) -> None:
    stream = rolling(box, 5, 5)
    box.carry()
    aside = stream.folder / f"{stream.names()[0]}.damaged"
    aside.write_bytes(b"what is left of it")
    report = sweep(box)
    assert aside.exists()
    assert any(str(aside) in one.why for one in report.kept)


def test_a_link_in_the_place_of_a_stream_is_left_alone(box: Box, tmp_path: Path) -> None:
    stream = rolling(box, 5, 5)
    box.carry()
    moved = tmp_path / "moved"
    stream.folder.rename(moved)
    stream.folder.symlink_to(moved)
    before = tree(moved)
    report = sweep(box)
    assert report.freed == []
    assert len(report.problems) == 1
    assert tree(moved) == before


def test_a_pass_beside_another_does_nothing(box: Box) -> None:
    rolling(box, 5, 5)
    box.carry()
    with retention._alone(box.spool / layout.STREAMS / layout.host_name()):
        assert retention.sweep(box.spool, layout.host_name(), EVERYTHING) is None


# -- trimmed streams ------------------------------------------------------------------------------------------------


def test_a_trimmed_stream_is_read_verified_replayed_and_no_damage(box: Box, tmp_path: Path) -> None:
    stream = rolling(box, 5, 5, 5)
    box.carry()
    make_older(stream, 8, *stream.names()[:2])
    sweep(box, Retention(days=7.0))
    assert steps_in(stream) == list(range(10, 15))
    [seen] = inspect_spool.seen_streams(box.spool)
    assert not seen.trouble
    verdict = verify.verify([seen], lambda _: None)
    assert verdict.findings == []
    report = replay.replay([box.spool], tmp_path / "other", Wanted(), again=False, progress=lambda _: None)
    assert report.problems == []
    assert (report.points, report.damaged_points) == (5, 0)
    (stream.folder / "cursor").unlink()
    box.carry()
    assert stream.stored_steps() == list(range(15))
    assert cursor.load(stream.folder).finished
    assert cursor.load(stream.folder).damaged_points == 0


def test_a_first_segment_that_nobody_gave_up_is_damage(box: Box) -> None:
    stream = rolling(box, 5, 5, 5)
    (stream.folder / stream.names()[0]).unlink()
    reader = StreamReader(stream.folder, stream.raw, writer_alive=lambda: False)
    assert any(isinstance(item, Damage) for item in reader.read())
    reader.close()


def test_an_unsound_mark_gives_up_nothing(box: Box) -> None:
    stream = rolling(box, 5, 5)
    trimmed.mark(stream.folder, 100)
    for data in (b"", b"trimmed 00000000000000ff 00000000\n", b"\0" * 64):
        (stream.folder / "trimmed").write_bytes(data)
        assert trimmed.offset(stream.folder) == 0
    assert steps_in(stream) == list(range(10))


def test_a_reader_on_its_way_goes_on_behind_what_is_given_up(box: Box) -> None:
    stream = rolling(box, 5, 5, 5, 5)
    box.carry()
    reader = StreamReader(stream.folder, stream.raw, writer_alive=lambda: False)
    reader.read(1)
    make_older(stream, 8, *stream.names()[:3])
    sweep(box, Retention(days=7.0))
    items = [item for _ in range(20) for item in reader.read()]
    assert not [item for item in items if isinstance(item, Damage)]
    assert reader.ended
    reader.close()


# -- killed anywhere ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches it."""


class Dying(files.Files):
    """Dies before its call number *at*."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        self.left -= 1
        if self.left < 0:
            raise Killed
        return found


def deaths(box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let a pass die before each of its calls in turn, until one comes through; yields after each death."""
    for at in range(100):
        copy = box.spool.with_name("copy")
        shutil.copytree(box.spool, copy, symlinks=True)
        monkeypatch.setattr(files, "fs", Dying(at))
        try:
            sweep(box)
            monkeypatch.setattr(files, "fs", files.Files())
            assert at > 5
            return
        except Killed:
            monkeypatch.setattr(files, "fs", files.Files())
        yield at
        for path in (path for path in box.spool.rglob("*") if path.is_file() and path.name != layout.LOCK):
            path.unlink()  # but not the lock, which this process holds
        held = list(box.spool.rglob(layout.LOCK))
        shutil.copytree(copy, box.spool, ignore=shutil.ignore_patterns(*["lock"][: len(held)]), dirs_exist_ok=True)
        shutil.rmtree(copy)
    raise AssertionError("it never came through")


def test_a_pass_that_dies_anywhere_in_a_living_stream_leaves_a_trimmed_one(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = rolling(box, 5, alive=True)
    stream.stage()
    stream.roll()
    stream.log(5)
    stream.stage()
    stream.roll()
    stream.log(5)
    box.carry()
    for at in deaths(box, monkeypatch):
        found = steps_in(stream)
        assert found in (list(range(15)), list(range(10, 15))), at
        (stream.folder / "cursor").unlink()
        agent = box.carry()
        [facts] = agent.health.streams.values()
        assert facts.damaged_points == 0
        sweep(box)
        assert (len(stream.names()), os.listdir(stream.folder / layout.STAGING)) == (1, []), at
    assert stream.stored_steps() == list(range(15))


def test_a_pass_that_dies_anywhere_in_a_finished_stream_leaves_all_of_it_or_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = rolling(box, 5)
    stream.stage()
    stream.roll()
    stream.log(5)
    box.carry()
    for at in deaths(box, monkeypatch):
        assert not stream.folder.exists() or steps_in(stream) == list(range(10)), at
        box.carry()
        sweep(box)
        assert os.listdir(stream.folder.parent) == [], at
    assert stream.stored_steps() == list(range(10))


def test_a_file_that_cannot_be_deleted_is_said_and_tried_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = rolling(box, 5, 5, 5, alive=True)
    box.carry()

    class Refusing(files.Files):
        def unlink(self, path: str) -> None:
            if path.endswith(".seg"):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
            super().unlink(path)

    monkeypatch.setattr(files, "fs", Refusing())
    report = sweep(box)
    assert (report.freed, len(report.problems)) == ([], 1)
    monkeypatch.setattr(files, "fs", files.Files())
    assert len(sweep(box).freed) == 2
    assert len(stream.names()) == 1


# -- quota ----------------------------------------------------------------------------------------------------------


def test_over_the_quota_what_is_stored_goes_however_young(box: Box) -> None:
    stream = rolling(box, 50, 50, 50, alive=True)
    box.carry()
    last = (stream.folder / stream.names()[-1]).stat().st_size
    report = sweep(box, Retention(quota_bytes=last + 4096, quota_files=1000))
    assert {one.why for one in report.freed} == {QUOTA}
    assert report.excess is not None
    assert report.left_excess is None
    assert report.left == quota.measure(str(stream.folder.parent))


def test_over_the_quota_nothing_that_is_not_stored_goes(box: Box) -> None:
    stream = rolling(box, 50, 50)
    before = tree(stream.folder)
    report = sweep(box, Retention(quota_bytes=1, quota_files=1))
    assert tree(stream.folder) == before
    assert report.left_excess is not None


def test_too_many_files_are_over_the_quota_too(box: Box) -> None:
    for _ in range(4):
        rolling(box, 1)
    box.carry()
    assert sweep(box, Retention(quota_files=10)).left_excess is None
    assert quota.measure(str(box.spool / "streams" / layout.host_name())).files <= 10


# -- any stream, any state ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(12))
def test_whatever_is_carried_and_trimmed_in_whatever_order_nothing_is_lost(box: Box, seed: int, number: int) -> None:
    chance = random.Random(f"{seed}/{number}")
    streams = [rolling(box, chance.randint(1, 5), alive=chance.random() < 0.7) for _ in range(chance.randint(1, 3))]
    for _ in range(chance.randint(3, 9)):
        stream, act = chance.choice(streams), chance.randrange(6)
        if act == 0 and stream._lock >= 0:
            stream.log(chance.randint(1, 9))
        elif act == 1 and stream._lock >= 0:
            stream.segments(*[chance.randint(1, 4) for _ in range(chance.randint(1, 4))])
            stream.roll()
        elif act == 2:
            box.carry()
        elif act == 3:
            _forget_something(stream, chance)
        elif act == 4 and stream._lock >= 0:
            stream.die()
        else:
            rules = chance.choice([EVERYTHING, NOTHING, Retention(bytes=2000), Retention(quota_bytes=3000)])
            durable = {one: _durable_steps(one) for one in streams}
            sweep(box, rules, dry_run=chance.random() < 0.2)
            for one in streams:
                left = steps_in(one) if one.folder.exists() else []
                assert set(range(one.step)) - set(left) <= durable[one], "something not durable is gone"
    for stream in streams:
        if stream._lock >= 0:
            stream.die()
    box.carry()
    for stream in streams:
        assert stream.stored_steps() == list(range(stream.step))


def _durable_steps(stream: Rolling) -> set[int]:
    """The steps that the run's durable checkpoint vouches for: those in frames before its position."""
    found = list(stream.store.glob(f"*/{stream.run_id}"))
    saved = checkpoint.load_durable(str(found[0])) if found else None
    upto = saved["streams"].get(stream.place.name, 0) if saved else 0
    gone = trimmed.offset(stream.folder)
    return {step for end, steps in stream.frames if end <= max(upto, gone) for step in steps}


def _forget_something(stream: Rolling, chance: random.Random) -> None:
    """What a power cut, or a person, may take."""
    found = [stream.folder / "cursor", *stream.store.glob(f"*/{stream.run_id}/trainspool.*")]
    path = chance.choice(found)
    if path.exists() and stream._lock >= 0:
        path.unlink()
