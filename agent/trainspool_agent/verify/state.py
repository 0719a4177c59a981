"""What the agent writes down for itself, cursors of streams and checkpoints of runs: is it whole?"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgpack

from trainspool.spool.layout import CURSOR
from trainspool_agent import checkpoint, cursor
from trainspool_agent.compact import RunRef
from trainspool_agent.store import reader as stores
from trainspool_agent.store.layout import APPLIED, DURABLE
from trainspool_agent.store.limits import CHECKPOINT_BYTES_MAX
from trainspool_agent.verify.findings import Finding
from trainspool_agent.verify.segment import UPGRADE

REPAIR = "trainspool verify --repair, which sets it aside: it is rebuilt"


def check_cursor(folder: Path) -> Iterator[Finding]:
    """Check a stream's cursor, if it has one."""
    path = folder / CURSOR
    data = _read(path, cursor.CURSOR_BYTES_MAX)
    if data is not None:
        yield from _check(path, data, cursor.MAGIC, 4, lambda: cursor.decode(data) is not None)


def check_checkpoints(folder: str) -> tuple[int, list[Finding]]:
    """Check the checkpoints of a run's folder; return how many there are, and what is wrong."""
    checked, found = 0, list[Finding]()
    for name in (APPLIED, DURABLE):
        path = Path(folder, name)
        data = _read(path, CHECKPOINT_BYTES_MAX)
        if data is not None:
            checked += 1
            found += _check_checkpoint(path, data)
    return checked, found


def run_folders(runs: Iterable[RunRef]) -> Iterator[str]:
    """Yield the folders of *runs* in the stores recorded for them, where they can be seen from here."""
    by_store: dict[str, set[str]] = {}
    for run in runs:
        by_store.setdefault(run.store.removeprefix("file://"), set()).add(run.run_id)
    for store, ids in sorted(by_store.items()):
        if os.path.isabs(store):
            yield from (run.folder for run in stores.runs(store) if run.run_id in ids)


def _check_checkpoint(path: Path, data: bytes) -> Iterator[Finding]:
    magic = checkpoint.MAGIC
    yield from _check(path, data, magic, len(magic), lambda: checkpoint.decode(data) is not None)


def _check(path: Path, data: bytes, magic: bytes, crc_at: int, means: Callable[[], bool]) -> Iterator[Finding]:
    if data[: len(magic)] != magic:
        if data[:3] == magic[:3] and len(data) > crc_at:
            what = f"a file of another version ({data[: len(magic)]!r})"
            yield Finding(str(path), 0, what, False, next_step=UPGRADE)
        else:
            yield Finding(str(path), 0, "no valid header", True, next_step=REPAIR)
    elif zlib.crc32(data[crc_at + 4 :]).to_bytes(4, "little") != data[crc_at : crc_at + 4]:
        yield Finding(str(path), crc_at, "checksum mismatch", True, next_step=REPAIR)
    else:
        yield from _check_meaning(path, data[crc_at + 4 :], crc_at + 4, means)


def _check_meaning(path: Path, body: bytes, at: int, means: Callable[[], bool]) -> Iterator[Finding]:
    try:
        found = msgpack.unpackb(body, strict_map_key=False, unicode_errors="surrogateescape")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        yield Finding(str(path), at, f"not msgpack: {error}", True, next_step=REPAIR)
        return
    version = found.get("version", checkpoint.VERSION) if isinstance(found, dict) else None
    if version is not None and version != checkpoint.VERSION:
        yield Finding(str(path), at, f"a checkpoint of version {version}", False, next_step=UPGRADE)
    elif version is None or not means():
        yield Finding(str(path), at, "sound bytes that mean nothing", True, next_step=REPAIR)


def _read(path: Path, limit_bytes: int) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read(limit_bytes)
