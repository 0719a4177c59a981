"""A point is in the file once, whatever comes in whatever order."""

from __future__ import annotations

import errno
import os
import random
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainspool_agent import files
from trainspool_agent.store import fold
from trainspool_agent.store import points as blocks
from trainspool_agent.store.fold import MetricFile
from trainspool_agent.store.lines import Lines
from trainspool_agent.store.points import DecodedBlocks, identities, identity

MAX = 1.7976931348623157e308
_values = st.sampled_from((0.0, -0.0, 1.0, float("nan"), float("inf"), -float("inf"), MAX, -MAX, 0.1))
_points = st.lists(st.tuples(st.integers(0, 6), st.integers(-2, 3), _values), min_size=1, max_size=12)


def write(file: MetricFile, points: list[tuple[int, int, float]], work: Path) -> int:
    if file.fd < 0:
        file.open()
    admitted = file.admit(points)
    file.append(admitted, str(work))
    return admitted.folded


@settings(max_examples=150, deadline=None)
@given(st.lists(_points, max_size=6), st.booleans())
def test_every_different_point_is_in_the_file_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int, float]]], reopen: bool
) -> None:
    folder = tmp_path_factory.mktemp("fold")
    file = MetricFile(str(folder / "m"), DecodedBlocks())
    folded = 0
    for points in batches:
        folded += write(file, points, folder)
        if reopen:
            file.close()
            file = MetricFile(file.path, DecodedBlocks(), file.length, file.top)
    file.close()
    every = [identity(*point) for points in batches for point in points]
    stored = list(identities((folder / "m").read_bytes())) if every else []
    assert len(stored) == len(set(stored)) and set(stored) == set(every)
    assert folded == len(every) - len(stored)


def test_many_streams_into_one_key_with_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "BLOCK_BYTES", 300)
    monkeypatch.setattr(blocks, "DECODED_BLOCKS_MAX", 3)
    rnd, file = random.Random(1), MetricFile(str(tmp_path / "m"), DecodedBlocks())
    clocks, every = [0] * 16, []
    for _ in range(300):
        stream = rnd.randrange(16)
        points = []
        for _ in range(rnd.randint(1, 8)):
            clocks[stream] += rnd.choice((0, 1))
            points.append((clocks[stream], rnd.choice((0, stream)), float(rnd.choice((stream, 0)))))
        every += points
        write(file, points, tmp_path)
    assert write(file, every, tmp_path) == len(every)
    stored = list(identities((tmp_path / "m").read_bytes()))
    assert len(stored) == len(set(stored)) and set(stored) == {identity(*point) for point in every}
    file.close()


def test_what_is_to_be_claimed_waits_in_the_file_when_it_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "BLOCK_BYTES", 200)
    monkeypatch.setattr(fold, "RECOVERY_POINTS_MAX", 10)
    points = [(ms, 0, float(ms)) for ms in range(500)]
    first = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    write(first, points, tmp_path)
    first.close()
    again = MetricFile(first.path, DecodedBlocks())
    again.open()
    claimed = 0
    for at in range(0, 500, 7):
        admitted = again.admit(points[at : at + 7][::-1])  # not as written, so each is looked for
        again.append(admitted, str(tmp_path))
        claimed += len(admitted.claimed)
        assert len(again._claims) < 60
    assert (claimed, again.unclaimed()) == (500, [])
    assert write(again, points, tmp_path) == 500
    again.close()


_rising = st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=30).map(
    lambda values: [(step // 3, step, value) for step, value in enumerate(values)]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(_rising, st.lists(_points, max_size=4).map(lambda lists: [*chain(*lists)])), st.data())
def test_what_was_written_past_a_checkpoint_is_claimed_once_however_it_comes_again(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    """In other batches, in batches that fail and come again, with other checkpoints and kills in between."""
    folder = tmp_path_factory.mktemp("claims")
    calm = MetricFile(str(folder / "calm"), DecodedBlocks())
    for point in points:
        write(calm, [point], folder)
    file = MetricFile(str(folder / "m"), DecodedBlocks())
    saved, counted = (0, fold.BEFORE_ALL, list[int]()), 0
    at = kept = counted_then = 0
    while at < len(points):
        what = data.draw(st.sampled_from(["batch", "batch", "batch", "failure", "checkpoint", "kill"]))
        if what == "checkpoint":
            saved, kept, counted_then = (file.length, file.top, file.unclaimed()), at, counted
        elif what == "kill":
            file.close()
            file, at, counted = MetricFile(file.path, DecodedBlocks(), *saved), kept, counted_then
        else:
            batch = points[at : at + data.draw(st.integers(1, 12))]
            if file.fd < 0:
                file.open()
            begin, admitted = file.length, file.admit(batch)
            file.append(admitted, str(folder))
            assert admitted.stored + admitted.folded == len(batch)
            if what == "failure":
                file.unclaim(admitted, begin)
            else:
                at, counted = at + len(batch), counted + admitted.stored
    stored = (folder / "m").read_bytes() if points else b""
    assert stored == ((folder / "calm").read_bytes() if points else b"")
    assert counted == stored.count(b"\n") and file.unclaimed() == []
    file.close()
    calm.close()


def test_lines_of_others_that_could_not_be_read_are_ranked_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    write(file, [(1, 0, 1.0)], tmp_path)
    with (tmp_path / "m").open("ab") as theirs:
        theirs.write(b"9 2.0 0\n")
    with monkeypatch.context() as patch:
        patch.setattr(fold, "identities", _fail)
        with pytest.raises(OSError, match="nothing works"):
            file.learn_growth()
    assert write(file, [(9, 0, 2.0), (9, 0, 3.0)], tmp_path) == 1
    assert (tmp_path / "m").read_bytes() == b"1 1.0 0\n9 2.0 0\n9 3.0 0\n"
    file.close()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_mlflow_makes_just_then_keeps_what_mlflow_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    file, real = MetricFile(str(tmp_path / "run/metrics/a"), DecodedBlocks()), type(files.fs).link
    (tmp_path / "run/metrics").mkdir(parents=True)

    def link(fs: object, source: str, target: str) -> None:
        if not os.path.exists(target):
            Path(target).write_text("5 0.5 -7\n")
        if not links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(files.fs, source, target)

    monkeypatch.setattr(type(files.fs), "link", link)
    assert not file.open()
    admitted = file.admit([(10, 1, 1.0), (20, 2, 2.0)])
    file.append(admitted, str(tmp_path / "work"))
    again = file.admit([(10, 1, 1.0), (5, -7, 0.5), (30, 3, 3.0)])
    file.append(again, str(tmp_path / "work"))
    assert (again.stored, again.folded) == (1, 2)
    assert (tmp_path / "run/metrics/a").read_text() == "5 0.5 -7\n10 1.0 1\n20 2.0 2\n30 3.0 3\n"
    assert not list((tmp_path / "work").iterdir())
    file.close()


def test_a_file_that_holds_only_a_torn_line_goes(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"170 1.")
    file = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    assert not file.open()
    assert not (tmp_path / "m").exists()
    write(file, [(170, 0, 1.5)], tmp_path)
    assert (tmp_path / "m").read_bytes() == b"170 1.5 0\n"
    file.close()


def test_lines_of_every_form_that_mlflow_writes_are_understood() -> None:
    data = b"1 2.0\n3 nan 4\n5 0.5 6 dataset digest\nrubbish\n7 x 8\n\n"
    assert list(identities(data)) == [(1, 0, 2.0), (3, 4, None), (5, 6, 0.5)]


def test_a_short_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    write(file, [(1, 0, 1.0)], tmp_path)
    monkeypatch.setattr(files.fs, "append", lambda fd, data: os.write(fd, data[:3]))
    with pytest.raises(OSError, match="No space"):
        write(file, [(2, 0, 2.0)], tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "m").read_bytes() == b"1 1.0 0\n"
    write(file, [(2, 0, 2.0)], tmp_path)
    assert (tmp_path / "m").read_bytes() == b"1 1.0 0\n2 2.0 0\n"
    file.close()


@pytest.mark.parametrize("the_short_way", [False, True])
def test_whole_lines_of_a_write_that_could_not_be_taken_back_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, the_short_way: bool
) -> None:
    file = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    write(file, [(1, 0, 1.0)], tmp_path)
    points = [(2, 0, 2.0), (3, 0, 3.0)]
    lines = Lines.of(points)
    assert lines is not None
    with monkeypatch.context() as patch:
        patch.setattr(files.fs, "append", lambda fd, data: os.write(fd, data[:11]))
        patch.setattr(files.fs, "truncate", _fail)
        with pytest.raises(OSError, match="nothing works"):
            file.append_rising(lines) if the_short_way else write(file, points, tmp_path)
    assert (tmp_path / "m").read_bytes() == b"1 1.0 0\n2 2.0 0\n3 3"
    file.learn_growth()
    admitted = file.admit(points)
    assert (admitted.stored, len(admitted.new), admitted.folded) == (2, 1, 0)
    file.append(admitted, str(tmp_path))
    assert (tmp_path / "m").read_bytes() == b"1 1.0 0\n2 2.0 0\n3 3.0 0\n"
    file.close()


@pytest.mark.parametrize("the_short_way", [False, True])
def test_lines_behind_another_writers_are_ours_though_the_file_could_not_be_read_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, the_short_way: bool
) -> None:
    file = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    write(file, [(1, 0, 1.0)], tmp_path)
    points = [(2, 0, 2.0), (3, 0, 3.0)]
    lines = Lines.of(points)
    assert lines is not None
    with monkeypatch.context() as patch:
        patch.setattr(files.fs, "append", lambda fd, data: os.write(fd, b"1 9.0 0\n" + data) - 8)
        patch.setattr(MetricFile, "_mended", _fail)
        with pytest.raises(OSError, match="nothing works"):
            file.append_rising(lines) if the_short_way else write(file, points, tmp_path)
    assert (tmp_path / "m").read_bytes() == b"1 1.0 0\n1 9.0 0\n2 2.0 0\n3 3.0 0\n"
    file.learn_growth()
    admitted = file.admit(points)
    assert (admitted.stored, len(admitted.new), admitted.folded) == (2, 0, 0)
    file.close()


def test_a_file_that_cannot_be_mended_now_is_not_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").write_bytes(b"1 1.0 0\n2 2")
    file = MetricFile(str(tmp_path / "m"), DecodedBlocks())
    with monkeypatch.context() as patch:
        patch.setattr(files.fs, "truncate", _fail)
        with pytest.raises(OSError, match="nothing works"):
            file.open()
    assert file.fd == -1
    assert file.open()
    file.close()


def _fail(*_: object) -> None:
    raise OSError(5, "nothing works")
