"""Position and effect as one fact: what of which stream is in a run's files, and how long these were then.

Two files in the run's folder. *applied*: written about once a second, not synced, so it counts in the same boot only.
*durable*: written after every file it names was synced, so it always counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import zlib
from typing import Any

import msgpack

from trainspool_agent import files
from trainspool_agent.store.layout import APPLIED, DURABLE
from trainspool_agent.store.limits import CHECKPOINT_BYTES_MAX

MAGIC = b"TSCHK1\n"
VERSION = 1
_numbers = itertools.count()


def encode(state: dict[str, Any]) -> bytes:
    """Return *state* (with ``boot`` and ``serial``) as the bytes of a checkpoint file."""
    body: bytes = msgpack.packb(state, unicode_errors="surrogateescape")
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def decode(data: bytes) -> dict[str, Any] | None:
    """Return what *encode* was given, or None if these bytes are not whole or of another version."""
    head = len(MAGIC) + 4
    body = data[head:]
    if data[: len(MAGIC)] != MAGIC or zlib.crc32(body).to_bytes(4, "little") != data[len(MAGIC) : head]:
        return None
    try:
        state = msgpack.unpackb(body, strict_map_key=False, use_list=True, unicode_errors="surrogateescape")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException):
        return None
    return state if isinstance(state, dict) and state.get("version") == VERSION else None


def load(folder: str, boot_id: str) -> dict[str, Any] | None:
    """Return the newest checkpoint in a run's *folder* that counts in this boot; None if there is none."""
    applied = _read(f"{folder}/{APPLIED}")
    if applied is not None and applied.get("boot") != boot_id:
        applied = None  # after a reboot nobody knows which of the writes it speaks of reached the disk
    durable = _read(f"{folder}/{DURABLE}")
    return max(
        (state for state in (applied, durable) if state is not None), key=lambda state: state["serial"], default=None
    )


def is_of_another_boot(folder: str, boot_id: str) -> bool:
    """Whether the applied checkpoint in a run's *folder* counts in another boot, of another machine perhaps."""
    applied = _read(f"{folder}/{APPLIED}")
    return applied is not None and applied.get("boot") != boot_id


def last_serial(folder: str) -> int:
    """Return the largest serial in a run's *folder*, whether or not its checkpoint counts in this boot."""
    both = (_read(f"{folder}/{APPLIED}"), _read(f"{folder}/{DURABLE}"))
    return max((int(state["serial"]) for state in both if state is not None), default=0)


def load_durable(folder: str) -> dict[str, Any] | None:
    """Return the durable checkpoint in a run's *folder*, None if there is none: it counts in every boot."""
    return _read(f"{folder}/{DURABLE}")


def _read(path: str) -> dict[str, Any] | None:
    try:
        # A link would lead us elsewhere, a pipe stop us for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(CHECKPOINT_BYTES_MAX)
    state = decode(data)
    return state if state is not None and type(state.get("serial")) is int else None


def write_applied(folder: str, data: bytes) -> None:
    """Replace the applied checkpoint; a reader, and a start after a crash, finds the old one or the new one."""
    _replace(f"{folder}/{APPLIED}", data, sync=False)


def write_durable(folder: str, data: bytes) -> None:
    """Replace the durable checkpoint and return once it is on the device. May block for long: run it in a thread."""
    _replace(f"{folder}/{DURABLE}", data, sync=True)
    sync_path(folder)


def _replace(path: str, data: bytes, *, sync: bool) -> None:
    # Plain files in a run's folder are no data to MLflow, so the temporary may stand beside its target.
    fs, temporary = files.fs, f"{path}.{os.getpid()}.{next(_numbers)}"
    try:
        fd = fs.create_shared(temporary, anew=True)
        try:
            fs.write(fd, data)
            if sync:
                fs.sync(fd)
        finally:
            fs.close(fd)
        fs.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            fs.unlink(temporary)
        raise


def sync_path(path: str) -> None:
    """fsync a file or folder; one that is gone needs none."""
    files.fs.sync_path(path)
