"""Folder and file names of a spool, and their order.

Source: sdk/docs/spool-format.md, "Files".
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

STREAMS = "streams"
LOCK = "lock"
STAGING = "staging"
CURSOR = "cursor"
TRIMMED = "trimmed"
RING_SUFFIX = ".ring"
PART_SUFFIX = ".part"  # of a staged file that is still being captured
STAGED_NAME_MAX = 64

_SEGMENT = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{2})\.seg\Z")
_STREAM = re.compile(r"[0-9a-f]{32}\Z")
_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}\Z")


class SegmentName(NamedTuple):
    """Sorts as the format says: by offset, then attempt."""

    offset: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.offset:016x}.{self.attempt:02x}.seg"


def parse_segment_name(name: str) -> SegmentName | None:
    """Return what a segment's file name says, or None if it is no segment."""
    match = _SEGMENT.match(name)
    return SegmentName(int(match[1], 16), int(match[2], 16)) if match and match[1] < "8" else None


def is_stream_name(name: str) -> bool:
    return _STREAM.match(name) is not None


def is_safe_name(name: str) -> bool:
    """Whether *name* may be a host or staged file: one plain path component."""
    return _NAME.match(name) is not None


def host_name() -> str:
    """Return this host's name as a folder name; TRAINSPOOL_HOST overrides it (containers that share a spool)."""
    raw = os.environ.get("TRAINSPOOL_HOST") or os.uname().nodename
    name = re.sub(r"[^A-Za-z0-9._-]", "-", raw)[:64]
    return name if is_safe_name(name) else "localhost"


def stream_folder(spool: Path | str, host: str, stream: str) -> Path:
    return Path(spool, STREAMS, host, stream)


def segments(folder: Path | str) -> list[SegmentName]:
    """Return the segments of a stream's folder in reading order; an absent folder has none."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(filter(None, map(parse_segment_name, names)))
