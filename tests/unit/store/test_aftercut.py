"""A store after a power cut: what was never filled goes, what was on the device stays, and nobody looks twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from handmade import BOOT, Stream, feed, open_store

from trainspool_agent.store import aftercut
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.transfer import read_staged_text

RUN = "a" * 32


def after_a_cut(root: Path) -> Path:
    """Return the folder of a run that was durable, went on, and met a power cut."""
    store, stream = open_store(root), Stream("0" * 32)
    run = stream.run(RUN)
    stream.start(run, "name")
    stream.point(run, "loss", 1.0, 1)
    stream.params(run, lr="0.1", empty="")
    stream.frame()
    feed(store, stream)
    asyncio.run(store.make_durable(all=True))
    store.close()
    [folder] = root.glob(f"*/{RUN}")
    with (folder / "metrics/loss").open("ab") as file:
        file.write(b"\0" * 7 + b"\n17 2.0")
    (folder / "metrics/born late").write_bytes(b"")
    (folder / "params/late").write_bytes(b"")
    (folder / "tags/later").write_bytes(b"\0\0")
    (folder / "tags/whole").write_bytes(b"by MLflow")
    (folder / "trainspool.applied").unlink()
    return folder


def test_what_mlflow_could_not_read_goes_and_what_was_durable_stays(tmp_path: Path) -> None:
    folder = after_a_cut(tmp_path)
    open_store(tmp_path, boot="another").close()
    assert (folder / "metrics/loss").read_bytes().count(b"\n") == 1
    assert not (folder / "metrics/born late").exists()
    assert sorted(path.name for path in (folder / "params").iterdir()) == ["empty", "lr"]
    assert not (folder / "tags/later").exists()
    assert (folder / "tags/whole").read_bytes() == b"by MLflow"


def test_a_store_is_looked_at_once_per_boot(tmp_path: Path) -> None:
    folder = after_a_cut(tmp_path)
    aftercut.mend(str(tmp_path), BOOT)
    assert (folder / "params/late").exists()
    aftercut.mend(str(tmp_path), "another")
    assert not (folder / "params/late").exists()


def test_a_run_of_someone_else_is_left_as_it_is(tmp_path: Path) -> None:
    folder = after_a_cut(tmp_path)
    for path in folder.glob("trainspool.*"):
        path.unlink()
    aftercut.mend(str(tmp_path), "another")
    assert (folder / "metrics/born late").exists()


def test_a_staged_file_that_is_not_as_long_as_its_event_says_is_no_value(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging/name").write_bytes(b"")
    with pytest.raises(Refused, match="0 of its 5 bytes"):
        read_staged_text("name", str(tmp_path / "staging"), 5)
