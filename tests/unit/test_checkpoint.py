"""A checkpoint is whole or does not count; an applied one counts in its boot only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainspool_agent import checkpoint
from trainspool_agent.store.layout import APPLIED, DURABLE


def state(serial: int, boot: str = "here") -> dict[str, object]:
    return {"version": checkpoint.VERSION, "boot": boot, "serial": serial, "text": "损\udc80", "map": {"a": [1, None]}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.write_applied(str(tmp_path), checkpoint.encode(state(3)))
    assert checkpoint.load(str(tmp_path), "here") == state(3)
    assert os.listdir(tmp_path) == [APPLIED]


def test_the_newer_of_two_counts(tmp_path: Path) -> None:
    checkpoint.write_applied(str(tmp_path), checkpoint.encode(state(3)))
    checkpoint.write_durable(str(tmp_path), checkpoint.encode(state(5)))
    loaded = checkpoint.load(str(tmp_path), "here")
    assert loaded is not None and loaded["serial"] == 5


def test_after_a_reboot_the_durable_one_counts_though_older(tmp_path: Path) -> None:
    checkpoint.write_applied(str(tmp_path), checkpoint.encode(state(9)))
    checkpoint.write_durable(str(tmp_path), checkpoint.encode(state(5)))
    loaded = checkpoint.load(str(tmp_path), "elsewhere")
    assert loaded is not None and loaded["serial"] == 5


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_flipped_byte_makes_the_other_one_count(tmp_path: Path, at: int) -> None:
    checkpoint.write_applied(str(tmp_path), checkpoint.encode(state(9)))
    checkpoint.write_durable(str(tmp_path), checkpoint.encode(state(5)))
    path = tmp_path / APPLIED
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    loaded = checkpoint.load(str(tmp_path), "here")
    assert loaded is not None and loaded["serial"] == 5
    (tmp_path / DURABLE).unlink()
    assert checkpoint.load(str(tmp_path), "here") is None


def test_cut_anywhere_it_does_not_count() -> None:
    data = checkpoint.encode(state(1))
    assert all(checkpoint.decode(data[:length]) is None for length in range(len(data)))


def test_another_version_does_not_count() -> None:
    assert checkpoint.decode(checkpoint.encode({"version": 99, "boot": "here", "serial": 1})) is None
