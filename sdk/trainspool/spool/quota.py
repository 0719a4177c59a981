"""How much a spool may hold, how much it does, and when nothing more may be written to it.

One host's part of a spool counts by itself. The agent writes what it measured into `<spool>/quota.<host>`; a writer
looks there once a second, and measures itself, once a minute, only where no agent has.

Source: agent/docs/retention.md.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from trainspool.spool import files
from trainspool.spool.layout import STAGING, is_stream_name

BYTES_DEFAULT, FILES_DEFAULT = 20 << 30, 1_000_000
SHARE_OF_FREE = 0.8
RESERVE_BYTES, RESERVE_SHARE = 64 << 20, 0.01  # of the file system, whichever is less: kept for everyone else
LOOK_INTERVAL_S = 1.0
MEASURE_INTERVAL_S = 60.0
STALE_S = 180.0  # the agent writes at least every minute
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)b?\s*\Z", re.IGNORECASE)
_POWERS = " kmgtp"


class Usage(NamedTuple):
    """What one host's streams hold in a spool, in bytes and files; staged files that the store shares cost nothing."""

    bytes: int = 0
    files: int = 0


class Quota(NamedTuple):
    """The most a host's streams may hold in a spool."""

    bytes: int
    files: int

    def excess(self, usage: Usage) -> str | None:
        """Say what of *usage* is too much; None if nothing is."""
        if usage.bytes > self.bytes:
            return f"the spool holds {usage.bytes:,} bytes, its quota is {self.bytes:,}"
        if usage.files > self.files:
            return f"the spool holds {usage.files:,} files, its quota is {self.files:,}"
        return None


def parse_size(text: str | float) -> int:
    """Return a number of bytes: ``5 GiB``, ``500MB``, ``1024``.

    Raises:
        ValueError: it is none.
    """
    match = _SIZE.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no size")
    power = _POWERS.index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def default_quota(folder: str, usage: Usage = Usage(), *, size: int | None = None, count: int | None = None) -> Quota:  # noqa: B008
    """Return the quota of *folder*: *size* and *count* where they are set, else the default or four fifths of what
    the file system could give us, whichever is less."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return Quota(BYTES_DEFAULT if size is None else size, FILES_DEFAULT if count is None else count)
    if size is None:
        size = min(BYTES_DEFAULT, int(SHARE_OF_FREE * (system.f_bavail * system.f_frsize + usage.bytes)))
    if count is None:  # f_files is 0 where inodes are made as needed
        given = int(SHARE_OF_FREE * (system.f_favail + usage.files)) if system.f_files else FILES_DEFAULT
        count = min(FILES_DEFAULT, given)
    return Quota(size, count)


def measure(host_folder: str) -> Usage:
    """Return what the streams in *host_folder* hold. Takes some µs per file."""
    size = count = 0
    for entry in _entries(host_folder):
        if is_stream_name(entry.name) and entry.is_dir(follow_symlinks=False):
            for folder in (entry.path, *_folders_below(f"{entry.path}/{STAGING}")):
                more = _measure_folder(folder)
                size, count = size + more.bytes, count + more.files + 1
    return Usage(size, count)


def _folders_below(staging: str) -> Iterator[str]:
    """Yield *staging* and the folders in it, which are being written to paths of ``artifact_path``."""
    left = [staging]
    while left:
        yield (folder := left.pop())
        left += (entry.path for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _measure_folder(folder: str) -> Usage:
    size = count = 0
    for entry in _entries(folder):
        with contextlib.suppress(OSError):
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                count += 1
                size += info.st_size if info.st_nlink == 1 else 0
    return Usage(size, count)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def file_of(host_folder: str) -> str:
    """Return where the word on *host_folder*, `<spool>/streams/<host>`, stands."""
    streams, _, host = host_folder.rpartition("/")
    return f"{os.path.dirname(streams)}/quota.{host}"


def announce(host_folder: str, usage: Usage, quota: Quota, excess: str | None) -> None:
    """Tell writers what was measured, and whether they must stop. Raises OSError: they know what they knew."""
    about = {"bytes": usage.bytes, "files": usage.files, "quota_bytes": quota.bytes, "quota_files": quota.files}
    path = file_of(host_folder)
    fs, temporary = files.fs, f"{path}.tmp"
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(temporary)
    fd = fs.create(temporary)
    try:
        fs.write(fd, json.dumps({**about, "excess": excess}).encode())
    finally:
        fs.close(fd)
    fs.rename(temporary, path)


def free_space_refusal(folder: str, size: int = 0) -> str | None:
    """Say why *size* bytes should not be written to *folder* for want of free space; None if it is not known."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return None
    reserve = min(RESERVE_BYTES, int(RESERVE_SHARE * system.f_blocks * system.f_frsize))
    free = system.f_bavail * system.f_frsize
    if free - size >= reserve:
        return None
    asked = f"{size:,} bytes do not fit: " if size else ""
    return f"{asked}{free:,} bytes are free, the last {reserve:,} are left to others"


def check(host_folder: str, size: int = 0) -> None:
    """Look once whether a file of *size* bytes may be added to a stream in *host_folder*.

    Raises:
        OSError: it may not, with EDQUOT.
    """
    why = free_space_refusal(host_folder, size)
    if not why and _fresh(host_folder):
        why = announced_excess(host_folder, size)
    if why:
        raise OSError(errno.EDQUOT, why, host_folder)


def is_crowded(host_folder: str) -> bool:
    """Whether the agent last found more than half of the quota in use in *host_folder*."""
    found = _announced(host_folder) if _fresh(host_folder) else {}
    held, most = found.get("bytes"), found.get("quota_bytes")
    return bool(found.get("excess")) or (type(held) is type(most) is int and 2 * held > most)


class Room:
    """Whether a stream may write, for its pump: costs two system calls a second. For one thread.

    Args:
        folder: the stream's folder, which need not exist yet.
        size, count: the quota where it is set; None: the default.
    """

    def __init__(self, folder: str, size: int | None = None, count: int | None = None) -> None:
        self._host_folder = os.path.dirname(folder)
        self._size, self._count = size, count
        self._look_at = self._measure_at = 0.0
        self._stamp: tuple[int, int] | None = None
        self._announced: str | None = None
        self._measured: str | None = None
        self._refusal: OSError | None = None

    def refusal(self) -> OSError | None:
        """Return why nothing may be written now, None if it may."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL_S
            why = free_space_refusal(self._host_folder) or self._excess(now)
            self._refusal = OSError(errno.EDQUOT, why, self._host_folder) if why else None
        return self._refusal

    def _excess(self, now: float) -> str | None:
        info = _fresh(self._host_folder)
        if info is None:
            return self._measure_ourselves(now)
        if (info.st_ino, info.st_mtime_ns) != self._stamp:
            self._stamp = info.st_ino, info.st_mtime_ns
            self._announced = announced_excess(self._host_folder)
        return self._announced

    def _measure_ourselves(self, now: float) -> str | None:
        """No agent does: then the spool may grow to its quota all the same, and no further."""
        if now >= self._measure_at:
            begun = time.monotonic()
            usage = measure(self._host_folder)
            quota = default_quota(self._host_folder, usage, size=self._size, count=self._count)
            self._measured = quota.excess(usage)
            self._measure_at = now + MEASURE_INTERVAL_S + 1000 * (time.monotonic() - begun)
        return self._measured


def _fresh(host_folder: str) -> os.stat_result | None:
    """What an agent announced, if one did within the last minutes."""
    try:
        info = os.stat(file_of(host_folder))
    except OSError:
        return None
    return info if abs(time.time() - info.st_mtime) <= STALE_S else None


def announced_excess(host_folder: str, size: int = 0) -> str | None:
    """Return what the agent last said was too much in *host_folder*, or would be with *size* more; None for nothing."""
    found = _announced(host_folder)
    excess, held, most = found.get("excess"), found.get("bytes"), found.get("quota_bytes")
    if excess:
        return str(excess)
    if size and type(held) is type(most) is int and held + size > most:
        return f"{size:,} bytes do not fit: the spool holds {held:,} bytes, its quota is {most:,}"
    return None


def _announced(host_folder: str) -> dict[str, Any]:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(file_of(host_folder), flags), "rb") as file:
            found = json.loads(file.read(4096))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
