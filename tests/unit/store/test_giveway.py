"""A crowded spool gives up copies of what the store has for good, before anything else."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from handmade import BOOT, Stream, feed_async

from trainspool.spool import quota
from trainspool.spool.layout import host_name, stream_folder
from trainspool.spool.quota import Quota, Usage
from trainspool_agent import files
from trainspool_agent.store.writer import FileStore

RUN = "a" * 32


class OtherFileSystem(files.StoreFiles):
    """The store is elsewhere: nothing can be linked into it."""

    def link_open(self, source: int, target: str) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def carry(tmp_path: Path, *, used: int, host: str | None = None, ours: bool = True) -> tuple[Path, Path]:
    """Carry an artifact from a spool of which *used* per cent are in use; return where it was staged, and is stored."""
    stream = Stream()
    staging = stream_folder(tmp_path / "spool", host or host_name(), stream.id) / "staging"
    staging.mkdir(parents=True)
    (staging / "file").write_bytes(b"weights")
    quota.announce(str(staging.parents[1]), Usage(used, 1), Quota(100, 100), None)
    run = stream.run(RUN)
    stream.start(run)
    stream.artifact(run, "a.bin", "file", 7)
    stream.end(run)
    stream.frame()
    store = FileStore(tmp_path / "runs", boot_id=BOOT, spool_is_ours=ours)

    async def go() -> None:
        await feed_async(store, stream, staging)
        assert (staging / "file").exists(), "until it is durable"
        await store.make_durable(all=True)

    asyncio.run(go())
    store.close()
    [stored] = (tmp_path / "runs").rglob("artifacts/a.bin")
    return staging / "file", stored


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fs", OtherFileSystem())


def test_a_crowded_spool_keeps_no_copy_of_what_is_durable_in_the_store(tmp_path: Path) -> None:
    staged, stored = carry(tmp_path, used=51)
    assert not staged.exists() and stored.read_bytes() == b"weights"


def test_a_spool_with_room_keeps_it_for_replays(tmp_path: Path) -> None:
    staged, stored = carry(tmp_path, used=50)
    assert staged.exists() and stored.read_bytes() == b"weights"


def test_what_the_store_shares_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fs", files.StoreFiles())
    staged, stored = carry(tmp_path, used=99)
    assert os.path.samefile(staged, stored)


@pytest.mark.parametrize(("host", "ours"), [("another-host", True), (None, False)])
def test_another_hosts_stream_and_a_replayed_one_are_left_alone(tmp_path: Path, host: str | None, ours: bool) -> None:
    staged, _ = carry(tmp_path, used=99, host=host, ours=ours)
    assert staged.exists()


def test_what_was_announced_long_ago_makes_nothing_crowded(tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "streams" / "h"
    folder.mkdir(parents=True)
    assert not quota.is_crowded(str(folder))
    quota.announce(str(folder), Usage(99, 1), Quota(100, 100), None)
    assert quota.is_crowded(str(folder))
    os.utime(quota.file_of(str(folder)), (0, 0))
    assert not quota.is_crowded(str(folder))
