"""A sync of the store fails: what it was to bring to the device is written again before a later sync is believed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from handmade import Stream, feed, open_store

from trainspool_agent import files

RUN = "a" * 32


def test_files_whose_sync_failed_are_other_files_before_a_checkpoint_calls_them_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream = open_store(tmp_path), Stream("0" * 32)
    run = stream.run(RUN)
    stream.start(run, "name")
    stream.point(run, "loss", 1.0, 1)
    stream.params(run, lr="0.1")
    stream.frame()
    feed(store, stream)
    [folder] = tmp_path.glob(f"*/{RUN}")
    paths = [folder / "metrics/loss", folder / "params/lr", folder / "tags/mlflow.runName"]
    before = [(path.stat().st_ino, path.read_bytes()) for path in paths]
    with monkeypatch.context() as patch:
        patch.setattr(files.fs, "sync_path", _fail)
        patch.setattr(files.fs, "sync_file_system", _fail)
        with pytest.raises(OSError, match="lost"):
            asyncio.run(store.make_durable(all=True))
    assert not (folder / "trainspool.durable").exists()
    asyncio.run(store.make_durable(all=True))
    assert (folder / "trainspool.durable").exists()
    after = [(path.stat().st_ino, path.read_bytes()) for path in paths]
    assert all(old[1] == new[1] and old[0] != new[0] for old, new in zip(before, after, strict=True))
    store.close()


def _fail(_: str) -> None:
    raise OSError(5, "lost")
