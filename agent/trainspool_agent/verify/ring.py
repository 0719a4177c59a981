"""One ring file: header, identity, chunk table, events.

Source: sdk/docs/spool-format.md, "Ring".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgpack

from trainspool.errors import SpoolError, UnknownFormatVersion
from trainspool.spool import events as ev
from trainspool.spool.ringfile import CHUNK_BYTES_UNIT, CHUNK_TABLE_AT, HEADER_BYTES, RingView, read_ring
from trainspool_agent.look.spool import LIVE, SeenStream
from trainspool_agent.verify.findings import Finding
from trainspool_agent.verify.segment import UPGRADE

TRIES = 5  # of a living ring, which may turn under us
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


def check_ring(path: Path, seen: SeenStream) -> list[Finding]:
    """Check the ring at *path*; one that is gone or another stream's is no finding."""
    found: list[Finding] = []
    for _ in range(TRIES if seen.life == LIVE else 1):
        try:
            with read_ring(path) as view:
                if view.stream != seen.place.stream:
                    return []
                found = [Finding(str(path), at, what, True) for at, what in _check(view, seen.place.name)]
        except FileNotFoundError:
            return []
        except UnknownFormatVersion as error:
            return [Finding(str(path), error.offset, error.what, False, next_step=UPGRADE)]
        except SpoolError as error:
            found = [Finding(str(path), error.offset, error.what, True)]
        except (OSError, *_MALFORMED) as error:
            found = [Finding(str(path), 0, f"a ring that cannot be read: {error}", True)]
        if not found:
            break
    return found


def _check(view: RingView, stream: str) -> Iterator[tuple[int, str]]:
    size = os.fstat(view.fd).st_size
    if size != HEADER_BYTES + view.chunks * view.chunk_bytes or view.chunk_bytes % CHUNK_BYTES_UNIT:
        yield 12, f"{view.chunks} chunks of {view.chunk_bytes} bytes, and a file of {size} bytes"
        return
    if not isinstance(view.identity, dict) or view.identity.get("stream", stream) != stream:
        yield 4096, "an identity that is no map, or another stream's"
    table = view.chunk_table()
    problems = list(_check_table(view, table))
    yield from problems
    if problems:
        return  # what the table says of the events means nothing
    begin = offset = view.head
    try:
        for data in view.committed(begin):
            for piece in ev.pieces(data, 1 << 20):
                offset += len(piece.data)
    except _MALFORMED as error:
        yield _place_of(view, table, offset), f"committed bytes that are no events, behind offset {offset}: {error}"


def _check_table(view: RingView, table: list[tuple[int, int]]) -> Iterator[tuple[int, str]]:
    """Bases are a lap apart at most, chunk by chunk; no tail is beyond its chunk."""
    first = min(base for base, _ in table)
    for index, (base, tail) in enumerate(table):
        at = CHUNK_TABLE_AT + 16 * index
        if tail > view.chunk_bytes:
            yield at + 8, f"chunk {index} has {tail} bytes committed of {view.chunk_bytes}"
        if (base - first) % view.chunk_bytes or base - first >= view.chunks * view.chunk_bytes:
            yield at, f"chunk {index} begins at offset {base}, out of line with the others"
    if len({base for base, _ in table}) != len(table):
        yield CHUNK_TABLE_AT, "two chunks begin at one offset"
    highest = max(base + tail for base, tail in table)
    if not first <= view.head <= max(highest, first):
        yield 64, f"head is {view.head}, outside the chunks ({first}-{highest})"


def _place_of(view: RingView, table: list[tuple[int, int]], offset: int) -> int:
    size: int = view.chunk_bytes
    for index, (base, _) in enumerate(table):
        if base <= offset < base + size:
            return HEADER_BYTES + index * size + offset - base
    return HEADER_BYTES
