"""Damaged parts set aside, never deleted; sound frames written again, so that nobody has to step over the bad ones.

Killed anywhere, the next repair goes on: a segment is set aside only once another one holds all that is sound in it,
and that one gets its name only once it is whole and on the device.

Source: agent/docs/replay.md, "Repair".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgpack

from trainspool.errors import SpoolError, TrainspoolError
from trainspool.spool import events as ev
from trainspool.spool import files, frame, layout
from trainspool.spool.frame import Header
from trainspool.spool.layout import SegmentName
from trainspool.spool.segment import ATTEMPTS_MAX, DICTIONARY_FRAME_BYTES
from trainspool_agent.look import walk
from trainspool_agent.look.spool import DEAD, ENDED, LIVE, SeenStream
from trainspool_agent.look.walk import Part
from trainspool_agent.verify import DAMAGED_SUFFIX, CheckedStream, Verdict

_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)
_NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))
_DEFINITION_ORDER = (ev.DEFINE_KEY, ev.DEFINE_KEYSET, ev.DEFINE_RUN)


class Repaired(NamedTuple):
    """What was done about one file, or why nothing was."""

    file: str
    done: str
    refused: bool = False


class NotRepaired(TrainspoolError):
    """Something is left as it is; the message says why."""


def repair(verdict: Verdict, streams: Iterable[SeenStream]) -> list[Repaired]:
    """Set aside what *verdict* names as damaged and can be done without; say what became of each file.

    Segments, cursors and checkpoints are mended; rings, missing segments and malformed events are not.
    """
    done: list[Repaired] = []
    seen = {str(one.place.folder): one for one in streams}
    for checked in verdict.streams:
        done += _repair_stream(checked, seen[checked.folder])
    for finding in verdict.stores:
        if finding.is_damage:
            done.append(_aside(finding.file, "it is rebuilt when the run is carried or replayed next"))
    return done


def _repair_stream(checked: CheckedStream, seen: SeenStream) -> Iterator[Repaired]:
    damaged = [finding for finding in checked.findings if finding.is_damage]
    segments = sorted({finding.file for finding in damaged if _is_segment(finding.file)})
    cursors = [finding.file for finding in damaged if os.path.basename(finding.file) == layout.CURSOR]
    if not segments and not cursors:
        return
    try:
        with _as_only_writer(seen):
            for path in segments:
                try:
                    yield _repair_segment(Path(path), seen)
                except (SpoolError, NotRepaired, OSError) as error:
                    yield Repaired(path, str(error), refused=True)
            for path in cursors:
                yield _aside(path, "the stream is read from its beginning next, and what is stored recognised")
    except NotRepaired as error:
        yield Repaired(checked.folder, str(error), refused=True)


def _is_segment(path: str) -> bool:
    return layout.parse_segment_name(os.path.basename(path)) is not None


@contextlib.contextmanager
def _as_only_writer(seen: SeenStream) -> Iterator[None]:
    """Hold the stream's lock: its process is gone, and no agent is about to finish it.

    Raises:
        NotRepaired: someone may be writing to it.
    """
    if seen.life not in (DEAD, ENDED):
        state = "its process lives" if seen.life == LIVE else "nobody here can say whether its process lives"
        raise NotRepaired(f"{state}, and there is one writer at a time. Next: repair it on its host, once it has ended")
    fd = -1
    try:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(seen.place.folder / layout.LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise NotRepaired("an agent has it in hand. Next: the same again when trainspool ls says ended") from error
    except OSError as error:
        if fd < 0 or error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)


# -- one segment


def _repair_segment(path: Path, seen: SeenStream) -> Repaired:
    """Write the sound frames of a damaged segment into a new one, then set it aside."""
    name = layout.parse_segment_name(path.name)
    assert name is not None
    parts = list(walk.parts(walk.read_segment(path)))
    bad = [part for part in parts if part.problem]
    if any(part.problem.startswith("format version") for part in bad):
        raise NotRepaired("it has frames of another format version. Next: pip install --upgrade 'trainspool[agent]'")
    if not bad or all(part.problem == "torn tail" for part in bad):
        raise NotRepaired("its frames are sound: what is missing or malformed in it cannot be mended")
    sound = [part for part in parts if not part.problem and _is_of(part, seen)]
    new = _rewrite(name, sound, seen) if _lacks(name, sound, seen) else None
    aside = _free_name(f"{path}{DAMAGED_SUFFIX}")
    # Last: dying before this leaves both, and the next repair finds that all is written again already.
    files.fs.rename(str(path), aside)
    files.fs.sync_folder(str(path.parent))
    kept = f"its {len(sound)} sound frames are in {new}" if new else "other segments hold all that is sound in it"
    return Repaired(str(path), f"set aside as {os.path.basename(aside)}; {kept}")


def _is_of(part: Part, seen: SeenStream) -> bool:
    return part.header is not None and part.header.stream == seen.place.stream


def _lacks(name: SegmentName, sound: list[Part], seen: SeenStream) -> bool:
    """Whether some sound data frame of a segment is in no later attempt; a repair that was cut short made one."""
    wanted = {(part.header.offset, part.header.end) for part in sound if part.header and part.header.kind == frame.DATA}
    for other in layout.segments(seen.place.folder):
        if other.offset == name.offset and other.attempt > name.attempt:
            data = walk.read_segment(seen.place.folder / str(other))
            wanted -= {(p.header.offset, p.header.end) for p in walk.parts(data) if p.header and not p.problem}
    return bool(wanted)


def _rewrite(name: SegmentName, sound: list[Part], seen: SeenStream) -> str:
    """Make the next attempt of segment *name* from its *sound* frames; return its name."""
    folder = seen.place.folder
    new = _next_attempt(name, folder)
    temporary = f"{folder}/{new}.tmp"
    with contextlib.suppress(FileNotFoundError):
        files.fs.unlink(temporary)  # ours, of a repair that was cut short
    fd = files.fs.create(temporary)
    try:
        for data in _frames(name, sound, seen):
            files.fs.write(fd, data)
        files.fs.sync(fd)
    finally:
        files.fs.close(fd)
    files.fs.rename(temporary, f"{folder}/{new}")
    files.fs.sync_folder(str(folder))
    return str(new)


def _frames(name: SegmentName, sound: list[Part], seen: SeenStream) -> Iterator[bytes]:
    """Identity, every definition that a neighbour knows, then the sound frames, offsets and counts as they are."""
    first = next((part.header for part in sound if part.header and part.header.kind == frame.DATA), None)
    before = (first.events_before, first.points_before) if first else (0, 0)
    yield _mark(frame.IDENTITY, _identity(sound, seen), name, seen, before)
    for definitions in _batches(_definitions(name, sound, seen)):
        yield _mark(frame.DICTIONARY, definitions, name, seen, before)
    for part in sound:
        assert part.header is not None
        if part.header.kind not in (frame.IDENTITY, frame.DICTIONARY):
            yield _again(part.header, part.body)


def _again(header: Header, body: bytes) -> bytes:
    definitions = body[: header.definitions_length]
    return frame.encode(
        header.kind,
        header.stream,
        header.offset,
        definitions=definitions,
        events=body[len(definitions) :],
        events_before=header.events_before,
        points_before=header.points_before,
        event_count=header.events,
        point_count=header.points,
    )


def _mark(kind: int, body: bytes, name: SegmentName, seen: SeenStream, before: tuple[int, int]) -> bytes:
    events, points = before
    return frame.encode(kind, seen.place.stream, name.offset, events=body, events_before=events, points_before=points)


def _identity(sound: list[Part], seen: SeenStream) -> bytes:
    own = next((part.body for part in sound if part.header and part.header.kind == frame.IDENTITY), None)
    known = seen.identity or {"format": ev.FORMAT_VERSION, "stream": seen.name}
    packed: bytes = msgpack.packb(known, unicode_errors="surrogateescape")
    return own or packed


def _definitions(name: SegmentName, sound: list[Part], seen: SeenStream) -> list[bytes]:
    """What this segment and those beside it define. Ids are never reused, so a later definition holds here, too."""
    found: dict[tuple[int, int], bytes] = {}
    names = layout.segments(seen.place.folder)
    at = names.index(name) if name in names else 0
    for other in names[max(0, at - 1) : at + 2]:
        with contextlib.suppress(OSError, SpoolError):
            parts = sound if other == name else walk.parts(walk.read_segment(seen.place.folder / str(other)))
            for part in parts:
                if part.header is not None and not part.problem and part.header.kind in (frame.DATA, frame.DICTIONARY):
                    found.update(_defined_in(part.body))
    return [found[key] for key in sorted(found, key=lambda key: (_DEFINITION_ORDER.index(key[0]), key[1]))]


def _defined_in(data: bytes) -> dict[tuple[int, int], bytes]:
    found: dict[tuple[int, int], bytes] = {}
    with contextlib.suppress(*_MALFORMED):
        for event in ev.decode(data):
            if event[0] in ev.DEFINITIONS:
                found[event[0], event[1]] = ev.pack(*event)
    return found


def _batches(definitions: list[bytes]) -> Iterator[bytes]:
    batch = b""
    for definition in definitions:
        batch += definition
        if len(batch) >= DICTIONARY_FRAME_BYTES:
            yield batch
            batch = b""
    if batch:
        yield batch


def _next_attempt(name: SegmentName, folder: Path) -> SegmentName:
    taken = [other.attempt for other in layout.segments(folder) if other.offset == name.offset]
    if max(taken) + 1 >= ATTEMPTS_MAX:
        raise NotRepaired(f"{ATTEMPTS_MAX} segments begin at its offset already")
    return SegmentName(name.offset, max(taken) + 1)


# -- anything else


def _aside(path: str, after: str) -> Repaired:
    try:
        aside = _free_name(f"{path}{DAMAGED_SUFFIX}")
        files.fs.rename(path, aside)
        files.fs.sync_folder(os.path.dirname(path))
    except OSError as error:
        return Repaired(path, str(error), refused=True)
    return Repaired(path, f"set aside as {os.path.basename(aside)}; {after}")


def _free_name(path: str) -> str:
    """Nothing that was set aside before is overwritten."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = f"{path}.{number}"
    return free
