"""How far a stream is carried: one small file in its folder, so a restart costs nothing for what is finished.

It is a shortcut, never the truth: the truth is per run, in the store. Lost or damaged, the stream is read from its
beginning and everything already stored is recognised.

File: 4 bytes `TSC1`, CRC-32 of the rest (little-endian), then a msgpack map: `offset`, `stored`, `runs`, `finished`,
`damaged_events`, `damaged_points`, `unknown_tail`, `boot`.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from trainspool.spool import files
from trainspool.spool.events import shown
from trainspool.spool.layout import CURSOR
from trainspool_agent.compact import RunRef
from trainspool_agent.intake import optional_of, text_of
from trainspool_agent.store.layout import is_run_id

MAGIC = b"TSC1"
CURSOR_BYTES_MAX = 16 << 20
_CRC = struct.Struct("<I")
_COUNT_END = 1 << 63


@dataclass
class Cursor:
    """What the file says.

    Attributes:
        offset: every event before it is applied to its store; valid while *boot* is the present one.
        runs: runs the stream has touched that are not settled, with the offset of the batch that first did.
        finished: ended, and all its runs are durable; nothing is left to do for this stream.
        damaged_events, damaged_points: lost to damage so far.
        unknown_tail: its ring was out of reach when the process was found dead.
        stored: as *offset*, and the artifacts before it are in their places, too: what a writer that waits is told.
    """

    offset: int = 0
    runs: dict[RunRef, int] = field(default_factory=dict)
    finished: bool = False
    damaged_events: int = 0
    damaged_points: int = 0
    unknown_tail: bool = False
    boot: str = ""
    stored: int = 0


def load(folder: Path) -> Cursor:
    """Return the cursor of a stream's folder; a fresh one if there is none or it is not sound."""
    try:
        fd = os.open(folder / CURSOR, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Cursor()
    try:
        data = os.read(fd, CURSOR_BYTES_MAX)
    except OSError:
        return Cursor()
    finally:
        os.close(fd)
    return decode(data) or Cursor()


def decode(data: bytes) -> Cursor | None:
    """Return what a cursor's file says, or None if it is not sound."""
    if len(data) < 8 or data[:4] != MAGIC or _CRC.unpack_from(data, 4)[0] != zlib.crc32(data[8:]):
        return None
    try:
        return _from_map(msgpack.unpackb(data[8:], strict_map_key=False, unicode_errors="surrogateescape"))
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException):
        return None


def save(folder: Path, cursor: Cursor, *, sync: bool = False) -> None:
    """Replace the cursor; *sync*: it is on the device on return.

    Raises:
        OSError: it is as it was.
    """
    fs, temporary = files.fs, f"{folder}/{CURSOR}.tmp"
    body = msgpack.packb(_to_map(cursor), unicode_errors="surrogateescape")
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(temporary)
    fd = fs.create(temporary)
    try:
        fs.write(fd, MAGIC + _CRC.pack(zlib.crc32(body)) + body)
        if sync:
            fs.sync(fd)
    finally:
        fs.close(fd)
    fs.rename(temporary, f"{folder}/{CURSOR}")
    if sync:
        fs.sync_folder(str(folder))


def _to_map(cursor: Cursor) -> dict[str, Any]:
    runs = [
        [run.run_id, run.store, run.experiment_id, run.experiment_name, run.owner, first]
        for run, first in cursor.runs.items()
    ]
    return {**cursor.__dict__, "runs": runs}


def _from_map(found: dict[str, Any]) -> Cursor:
    runs = {_run_of(fields): _count_of(first) for *fields, first in found["runs"]}
    cursor = Cursor(**{**found, "runs": runs})
    for number in (cursor.offset, cursor.stored, cursor.damaged_events, cursor.damaged_points):
        _count_of(number)
    if type(cursor.finished) is not bool or type(cursor.unknown_tail) is not bool or type(cursor.boot) is not str:
        raise TypeError("not what a cursor holds")
    return cursor


def _run_of(fields: list[Any]) -> RunRef:
    """A run as a stream may define it: what stands here names folders, and is checked like it."""
    run_id, store, experiment_id, experiment_name, owner = fields
    if not is_run_id(text_of(run_id)) or type(owner) is not bool:
        raise ValueError(f"not a run: {shown(fields)}")
    return RunRef(run_id, text_of(store), optional_of(experiment_id), optional_of(experiment_name), owner)


def _count_of(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _COUNT_END:
        raise ValueError(f"not a count: {shown(value)}")
    return value
