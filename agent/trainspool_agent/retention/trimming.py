"""One segment looked into before it goes, and the giving up itself, in an order that may be cut anywhere.

Whether a segment may go at all is `retention.py`'s to say; here is only what its own bytes say.

Source: agent/docs/retention.md; sdk/docs/spool-format.md, "Files".
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgpack

from trainspool.errors import SpoolError
from trainspool.spool import events as ev
from trainspool.spool import files, frame, layout, trimmed
from trainspool.spool.layout import SegmentName
from trainspool_agent.compact import Dictionary, EventFrame
from trainspool_agent.look import frames as streamframes
from trainspool_agent.look import walk
from trainspool_agent.look.frames import Event
from trainspool_agent.look.walk import Part

GONE = ".gone-"  # how the name of a folder that is being removed begins: no stream's
_KINDS = frozenset(range(len(ev.KIND_NAMES)))
_OF_A_STREAM = re.compile(
    rf"([0-9a-f]{{16}}\.[0-9a-f]{{2}}\.seg|({layout.CURSOR}|{layout.TRIMMED})(\.tmp)?|{layout.LOCK}(\.\d+\.tmp)?)\Z"
)
_kind = itemgetter(0)


class Content(NamedTuple):
    """What one segment holds, as far as it matters to whoever would delete it.

    Attributes:
        end: stream offset behind its last sound event.
        staged: (offset behind the event, name) of each staged file that its events name.
        stores: stores whose experiments it has events for.
        problem: why it must stay; empty if nothing speaks for it.
        sealed: it will not grow.
    """

    end: int
    staged: tuple[tuple[int, str], ...] = ()
    stores: frozenset[str] = frozenset()
    problem: str = ""
    sealed: bool = False


class MustStay(Exception):
    """A segment holds what a person or a newer agent may want to see."""


def look_into(folder: Path, name: SegmentName, stream: bytes, following: SegmentName | None) -> Content:
    """Read and check every frame of a segment; *following* is the stream's next one."""
    path = folder / str(name)
    look = _Look(path, name, stream)
    try:
        for part in walk.parts(walk.read_segment(path)):
            look.at(part)
    except MustStay as why:
        return Content(look.end, problem=str(why))
    except (OSError, SpoolError) as error:
        return Content(look.end, problem=str(error))
    if following is None and look.torn:
        return Content(look.end, problem=f"torn at its end, and nothing follows: {path}")
    if following is not None and following.offset > look.end:
        lost = f"events at offsets {look.end}-{following.offset} are missing behind {path}"
        return Content(look.end, problem=lost)
    return Content(look.end, tuple(look.staged), frozenset(look.stores), sealed=look.sealed)


def named_behind(folder: Path, upto: int, stream: bytes) -> set[str]:
    """Return the staged files that events behind *upto* name. Media are several artifacts of one file, logged at once,
    so two segments are enough: the one with *upto* in it, and the one after it."""
    names = layout.segments(folder)
    reached = [name for name in names if name.offset <= upto][-1:]
    found: set[str] = set()
    for name in reached + [name for name in names if name.offset > upto][:1]:
        look = _Look(folder / str(name), name, stream)
        with contextlib.suppress(MustStay, OSError, SpoolError):  # up to there is what can be known
            for part in walk.parts(walk.read_segment(folder / str(name))):
                look.at(part)
        found |= {staged for at, staged in look.staged if at >= upto}
    return found


class _Look:
    """Takes one segment's frames in order."""

    def __init__(self, path: Path, name: SegmentName, stream: bytes) -> None:
        self.path, self.stream, self.end = path, stream, name.offset
        self.staged: list[tuple[int, str]] = []
        self.stores: set[str] = set()
        self.torn = self.sealed = False

    def at(self, part: Part) -> None:
        header = part.header
        if part.problem == "torn tail":
            self.torn = True
            return
        if part.problem or header is None:
            raise MustStay(f"{part.problem} at byte {part.at} of {self.path}")
        if header.stream != self.stream:
            raise MustStay(f"a frame of another stream at byte {part.at} of {self.path}")
        if header.kind == frame.SEAL:
            self.sealed = True
        elif header.kind == frame.DATA:
            if header.offset > self.end:
                raise MustStay(f"events are missing before byte {part.at} of {self.path}")
            self._take(header.offset, part.body[header.definitions_length :])
            self.end = max(self.end, header.end)

    def _take(self, offset: int, data: bytes) -> None:
        try:
            kinds = set(map(_kind, filter(None, ev.unpacker(data))))
            unknown = kinds - _KINDS
        except (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException) as error:
            raise MustStay(f"malformed events in {self.path}: {error}") from error
        if unknown:
            which = ", ".join(map(str, sorted(unknown, key=str)))
            raise MustStay(f"events of kind {which}, newer than this agent, in {self.path}")
        if kinds & {*ev.NAMING_STAGED, ev.EXPERIMENT}:
            self._take_rare(EventFrame(offset, offset + len(data), data))

    def _take_rare(self, data: EventFrame) -> None:
        for event in streamframes.events_of(data, Dictionary()):
            if not isinstance(event, Event):
                continue  # a definition that rests on an earlier one
            fields = event.fields
            if fields[0] in ev.NAMING_STAGED and len(fields) > 4 and isinstance(fields[4], str):
                self.staged.append((event.offset, fields[4]))
            elif fields[0] == ev.EXPERIMENT and len(fields) > 2 and isinstance(fields[2], str):
                self.stores.add(fields[2])


# -- giving up ------------------------------------------------------------------------------------------------------


def trim(folder: Path, segments: Iterable[SegmentName], staged: Iterable[str], upto: int) -> None:
    """Give up the stream's events before *upto*, then delete *segments*, oldest first, and the *staged* files.

    The mark is on the device before anything goes. If we die behind it, readers begin at the mark all the same, and
    the next pass deletes what is left. Staged files go before the segments that name them, or nobody would find them.

    Raises:
        OSError: call again.
    """
    trimmed.mark(folder, upto)
    delete(folder, segments, staged)


def delete(folder: Path, segments: Iterable[SegmentName], staged: Iterable[str]) -> None:
    """Delete what lies before the mark already."""
    for name in staged:
        if layout.is_safe_name(name):
            _unlink(f"{folder}/{layout.STAGING}/{name}")
    for segment in sorted(segments):
        _unlink(f"{folder}/{segment}")


def foreign_file(folder: Path) -> str | None:
    """Return a name in a stream's folder that we did not put there, such as damage set aside; None if there is none."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name == layout.STAGING and entry.is_dir(follow_symlinks=False):
            continue
        if not _OF_A_STREAM.match(entry.name) or not entry.is_file(follow_symlinks=False):
            return entry.name
    return None


def remove(folder: Path) -> None:
    """Remove a finished stream whole: out of sight by one rename, then file by file.

    Raises:
        OSError: call again, or `remove_leftovers`.
    """
    gone = folder.with_name(f"{GONE}{folder.name}")
    files.fs.rename(str(folder), str(gone))
    files.fs.sync_folder(str(folder.parent))  # else a power cut could bring the name back over half of its files
    _remove_tree(gone)


def remove_leftovers(host_folder: Path) -> None:
    """Remove what passes that died had renamed. Raises OSError: call again."""
    for path in sorted(host_folder.glob(f"{GONE}*")):
        if not path.is_symlink() and path.lstat().st_uid == os.getuid():
            _remove_tree(path)


def _remove_tree(folder: Path) -> None:
    """A stream's folder is two deep, but for what a process wrote to the paths of ``artifact_path`` when it died;
    anything else that is deeper is not ours, and stays."""
    staging = folder / layout.STAGING
    for path in _entries_in(staging, folders=True):
        files.fs.remove_tree(path)
    for below in (staging, folder):
        for path in _entries_in(below):
            _unlink(path)
        with contextlib.suppress(FileNotFoundError):
            files.fs.remove_folder(str(below))


def _entries_in(folder: Path, *, folders: bool = False) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False) == folders:
                yield entry.path


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        files.fs.unlink(path)
