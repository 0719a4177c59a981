"""Discovery: rings, pointers, folders; what is not ours or not sound is left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from trainspool.errors import UnsafeSpool
from trainspool_agent import discover
from trainspool_agent.discover import Place

from .conftest import Box


def test_a_ring_names_the_place_of_its_stream(box: Box) -> None:
    stream = box.stream()
    (box.rings / ("f" * 32 + ".ring")).write_bytes(b"no ring")
    (box.rings / "other.txt").touch()
    [ring] = discover.rings(box.rings)
    assert ring.place == stream.place
    assert discover.rings(box.rings, {stream.place.name}) == []


def test_pointers_name_spools_and_a_bad_one_names_none(tmp_path: Path) -> None:
    folder = tmp_path / "spools"
    folder.mkdir()
    (folder / "a.spool").write_text("/some/spool\n")
    (folder / "b.spool").write_text("relative")
    (folder / "c.spool").symlink_to("/etc/passwd")
    assert discover.pointed_spools(tmp_path) == [Path("/some/spool")]


def test_only_folders_with_the_name_of_a_stream_are_streams(tmp_path: Path) -> None:
    for name in ("a" * 32, "A" * 32, "b" * 31, "..x", "c" * 33):
        (tmp_path / "streams" / "host" / name).mkdir(parents=True)
    assert discover.streams(tmp_path, "host") == [Place(tmp_path, "host", "a" * 32)]
    assert discover.streams(tmp_path, "other") == []


def test_a_link_in_place_of_a_stream_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path, "host", "a" * 32)
    place.folder.parent.mkdir(parents=True)
    place.folder.symlink_to(tmp_path)
    with pytest.raises(UnsafeSpool, match="no plain folder"):
        discover.check_folder(place)


def test_a_written_segment_wakes_its_stream_and_a_cursor_none(tmp_path: Path) -> None:
    folder = tmp_path / "host"
    stream = folder / ("a" * 32)
    stream.mkdir(parents=True)

    async def first_change() -> set[str]:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def write(count: int = 0) -> None:
            (stream / "cursor.tmp").write_text(str(count))
            (stream / "0.seg").write_text(str(count))
            if not stop.is_set():
                loop.call_later(0.05, write, count + 1)

        write()
        try:
            async for names in discover.watch([folder], stop):
                return names
        finally:
            stop.set()
        return set()

    assert asyncio.run(asyncio.wait_for(first_change(), 20)) == {"a" * 32}
    assert discover._stream_of(f"{stream}/cursor", [f"{folder}/"]) == ""
