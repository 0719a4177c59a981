"""Cursor: a shortcut that may be lost or damaged at any time."""

from __future__ import annotations

from pathlib import Path

from trainspool_agent import cursor
from trainspool_agent.compact import RunRef
from trainspool_agent.cursor import Cursor

RUN = RunRef("a" * 32, "/store", None, "name", True)
FULL = Cursor(4711, {RUN: 100}, False, 1, 2, True, "boot")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    for sync in (False, True):
        cursor.save(tmp_path, FULL, sync=sync)
        assert cursor.load(tmp_path) == FULL


def test_a_lost_cursor_is_a_fresh_one(tmp_path: Path) -> None:
    assert cursor.load(tmp_path) == Cursor()
    assert cursor.load(tmp_path / "nowhere") == Cursor()


def test_a_cursor_with_any_bit_flipped_or_cut_anywhere_is_a_fresh_one(tmp_path: Path) -> None:
    cursor.save(tmp_path, FULL)
    path = tmp_path / "cursor"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert cursor.load(tmp_path) == Cursor()
        path.write_bytes(whole[:at])
        assert cursor.load(tmp_path) == Cursor()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    cursor.save(tmp_path, FULL)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "cursor").symlink_to(tmp_path / "cursor")
    assert cursor.load(tmp_path / "s") == Cursor()
