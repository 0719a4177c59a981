"""What comes to the device before the events that name it: staged files, one by one or many at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
import spooled

from trainspool import syncer
from trainspool.spool import files
from trainspool.spool.segment import SegmentWriter

MANY = syncer.SYNC_FILES_MAX + 1


class Syncs(files.Files):
    """Counts syncs; *fails* makes the next one of a whole file system fail."""

    def __init__(self) -> None:
        self.files, self.systems, self.fails = 0, 0, False

    def sync(self, fd: int) -> None:
        self.files += 1
        super().sync(fd)

    def sync_file_system(self, path: str) -> None:
        self.systems += 1
        if self.fails:
            self.fails = False
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        super().sync_file_system(path)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    made = Syncs()
    monkeypatch.setattr(files, "fs", made)
    return made


@pytest.fixture
def synced(tmp_path: Path) -> Callable[[list[str]], syncer.Synced]:
    """Sync a segment behind these staged files; return what came of it."""
    writer = SegmentWriter(str(tmp_path), os.urandom(16), msgpack.packb({}), [], 0, 0, 0)
    served = syncer.Syncer()

    def sync(staged: list[str]) -> syncer.Synced:
        served.request(writer, last=False, folders=[], staged=staged)
        spooled.until(lambda: served.results)
        return served.results.popleft()

    return sync


def staged(folder: Path, count: int) -> list[str]:
    (folder / "staging").mkdir(exist_ok=True)
    paths = [folder / "staging" / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(b"content")
    return list(map(str, paths))


def test_a_few_staged_files_are_synced_one_by_one(
    syncs: Syncs, synced: Callable[[list[str]], syncer.Synced], tmp_path: Path
) -> None:
    assert synced(staged(tmp_path, 3)).error is None
    assert (syncs.files, syncs.systems) == (3 + 1, 0)


def test_many_staged_files_are_one_sync_of_their_file_system(
    syncs: Syncs, synced: Callable[[list[str]], syncer.Synced], tmp_path: Path
) -> None:
    assert synced(staged(tmp_path, MANY)).error is None
    assert (syncs.files, syncs.systems) == (1, 1)


def test_after_a_failed_sync_of_many_each_is_written_again(
    syncs: Syncs, synced: Callable[[list[str]], syncer.Synced], tmp_path: Path
) -> None:
    paths = staged(tmp_path, MANY)
    inodes = {path: os.stat(path).st_ino for path in paths}
    syncs.fails = True
    failed = synced(paths)
    assert failed.error is not None and failed.staged == paths
    assert synced(paths).error is None
    assert syncs.systems == 1 and syncs.files == MANY + 1
    assert all(os.stat(path).st_ino != inodes[path] and Path(path).read_bytes() == b"content" for path in paths)
    assert synced(paths).error is None and syncs.systems == 2
