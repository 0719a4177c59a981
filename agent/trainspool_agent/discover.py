"""Which spools and streams exist: watch events, plus a periodic rescan because watches get lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from trainspool.errors import SpoolError, TrainspoolError, UnsafeSpool
from trainspool.spool import files, frame, layout
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfile import read_ring
from trainspool.spool.ringfolder import ring_folder
from trainspool.spool.segmentview import open_owned

POINTERS = "spools"
POINTER_SUFFIX = ".spool"
POINTER_BYTES_MAX = 4096
SKIM_BYTES = 1 << 20
WATCH_STEP_MS, WATCH_DEBOUNCE_MS = 50, 100


class Place(NamedTuple):
    """Where a stream lies. Sorts by spool, then host, then stream."""

    spool: Path
    host: str
    name: str

    @property
    def folder(self) -> Path:
        return layout.stream_folder(self.spool, self.host, self.name)

    @property
    def stream(self) -> bytes:
        return bytes.fromhex(self.name)


class Ring(NamedTuple):
    """A ring file and the place of its stream, as its header says."""

    path: Path
    place: Place
    identity: dict[str, Any]


def births_changed_ns(folder: Path, ring_folder: Path | None) -> tuple[int, ...]:
    """Return when the folders of rings and pointers changed last, 0 for one that is not there: see ``births``."""
    changed = []
    for place in (folder / POINTERS, ring_folder):
        try:
            changed.append(os.stat(place).st_mtime_ns if place is not None else 0)
        except OSError:
            changed.append(0)
    return tuple(changed)


def births(folder: Path | None, ring_folder: Path | None) -> frozenset[str]:
    """Return the names of rings and pointers: when they change, a stream came in a spool that may be unknown."""
    names: list[str] = []
    for place, suffix in ((ring_folder, layout.RING_SUFFIX), (folder and folder / POINTERS, POINTER_SUFFIX)):
        if place is not None:
            with contextlib.suppress(OSError):
                names += [name for name in os.listdir(place) if name.endswith(suffix)]
    return frozenset(names)


def rings(folder: Path, known: Container[str] = ()) -> list[Ring]:
    """Return the rings of *folder* that are sound, ours and of no *known* stream; others are left alone."""
    found = []
    for path in sorted(folder.glob(f"*{layout.RING_SUFFIX}")):
        if not layout.is_stream_name(path.stem) or path.stem in known:
            continue
        try:
            with read_ring(path) as view:
                identity = view.identity
                sound = view.stream.hex() == path.stem and isinstance(identity, dict)
        except (OSError, SpoolError, ValueError, msgpack.exceptions.UnpackException):
            continue
        spool, host = (identity.get("spool"), identity.get("host")) if sound else (None, None)
        if isinstance(spool, str) and os.path.isabs(spool) and "\0" not in spool and layout.is_safe_name(str(host)):
            found.append(Ring(path, Place(Path(spool), str(host), path.stem), identity))
    return found


def ring_end(path: Path) -> int:
    """Return the stream offset behind the last event in a ring, 0 if there is no such ring."""
    try:
        with read_ring(path) as view:
            return view.end
    except (OSError, SpoolError, ValueError, msgpack.exceptions.UnpackException):
        return 0


def pointed_spools(folder: Path) -> list[Path]:
    """Return the spools that processes without a ring file have pointed to."""
    found = []
    for path in sorted((folder / POINTERS).glob(f"*{POINTER_SUFFIX}")):
        try:
            fd = open_owned(path, os.getuid())
        except (OSError, SpoolError):
            continue
        try:
            text = os.read(fd, POINTER_BYTES_MAX).decode("utf-8", "surrogateescape").strip()
        finally:
            os.close(fd)
        if os.path.isabs(text) and "\0" not in text:
            found.append(Path(text))
    return found


def streams(spool: Path, host: str) -> list[Place]:
    """Return the streams of *host* in *spool*; an absent spool has none."""
    try:
        names = os.listdir(spool / layout.STREAMS / host)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Place(spool, host, name) for name in sorted(names) if layout.is_stream_name(name)]


def streams_of_others(spool: Path, host: str) -> list[Place]:
    """Return the streams in *spool* of every host but *host*."""
    try:
        names = os.listdir(spool / layout.STREAMS)
    except (FileNotFoundError, NotADirectoryError):
        return []
    others = [name for name in sorted(names) if name != host and layout.is_safe_name(name)]
    return [place for other in others for place in streams(spool, other)]


def stream_end(place: Place) -> int:
    """Return the stream offset behind what a stream holds now, in segments and ring."""
    names = layout.segments(place.folder)
    reader = StreamReader(place.folder, place.stream, names[-1].offset if names else 0, writer_alive=lambda: True)
    try:
        while reader.read(SKIM_BYTES):
            pass
    except (OSError, TrainspoolError):
        pass  # whoever carries it says why
    finally:
        reader.close()
    rings_here = ring_folder()
    in_ring = ring_end(rings_here / f"{place.name}{layout.RING_SUFFIX}") if rings_here else 0
    return max(in_ring, reader.offset)


def check_folder(place: Place) -> None:
    """Refuse a stream that is not a plain folder of ours: the agent never reaches further than its user.

    Raises:
        UnsafeSpool: a link, a file, or someone else's folder.
        OSError: it cannot be looked at.
    """
    check_spool(place.spool)
    host = place.folder.parent
    for folder in (host.parent, host, place.folder):
        _check_member(folder, stat.S_ISDIR)
    # Opened by name later on, each time anew: so it is the folders that have to be out of others' reach.
    for name, is_kind in ((layout.LOCK, stat.S_ISREG), (layout.CURSOR, stat.S_ISREG), (layout.STAGING, stat.S_ISDIR)):
        with contextlib.suppress(FileNotFoundError):
            _check_member(place.folder / name, is_kind)


def check_spool(spool: Path, *, must_be_one: bool = False) -> None:
    """Refuse a spool in someone else's hands; one that is not there yet is fine.

    Args:
        spool: may be a link; what it leads to counts.
        must_be_one: refuse a folder that holds other things and no streams, too: nobody chose it for us.

    Raises:
        UnsafeSpool: as said.
        OSError: it cannot be looked at.
    """
    if "\0" in str(spool) or os.path.normpath(spool) != str(spool):
        raise _unsafe("a path that is none", spool, "look at TRAINSPOOL_DIR of the process that named it")
    try:
        info = os.stat(spool)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (os.getuid(), 0) or info.st_mode & stat.S_IWOTH:
        what = f"a spool that is no folder of user {os.getuid()} alone"
        raise _unsafe(what, spool, f"run the agent as user {info.st_uid}, or chmod o-w {spool}")
    with contextlib.suppress(FileNotFoundError):
        _check_member(spool / layout.STREAMS, stat.S_ISDIR)
    if must_be_one and not (spool / layout.STREAMS).is_dir() and os.listdir(spool):
        raise _unsafe("a folder that is no spool", spool, f"mkdir {spool / layout.STREAMS}, if it is to be one")


def _check_member(path: Path, is_kind: Callable[[int], bool]) -> None:
    info = os.lstat(path)
    if not is_kind(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & stat.S_IWOTH:
        kind = "folder" if is_kind is stat.S_ISDIR else "file"
        what = f"something that is no plain {kind} of user {os.getuid()} alone stands"
        raise _unsafe(what, path, f"ls -ld {path}; run the agent as user {info.st_uid}, or remove it")


def _unsafe(what: str, path: Path, next_step: str) -> UnsafeSpool:
    return UnsafeSpool(what, path, 0, "everything; nothing in it was read", next_step)


def read_identity(folder: Path) -> dict[str, Any] | None:
    """Return the identity that a stream's segments carry, or None if no segment has a sound one."""
    owner = os.stat(folder).st_uid
    for name in reversed(layout.segments(folder)):
        try:
            fd = open_owned(folder / str(name), owner)
        except (FileNotFoundError, SpoolError):
            continue
        try:
            data = os.pread(fd, frame.HEADER_BYTES + 8192, 0)
        finally:
            os.close(fd)
        identity = _identity_in(data)
        if identity is not None:
            return identity
    return None


def _identity_in(data: bytes) -> dict[str, Any] | None:
    try:
        header = frame.parse_header(data)
        if header is None or header.kind != frame.IDENTITY:
            return None
        body = data[frame.HEADER_BYTES : frame.HEADER_BYTES + header.body_length]
        if len(body) < header.body_length or not frame.body_is_sound(header, body):
            return None
        found = msgpack.unpackb(body, unicode_errors="surrogateescape")
    except (ValueError, msgpack.exceptions.UnpackException):
        return None
    return found if isinstance(found, dict) else None


def watched_folder(spool: Path, host: str) -> Path | None:
    """Return the folder whose changes matter, made if absent so that the first stream is seen; None if it cannot be."""
    folder = spool / layout.STREAMS / host
    try:
        check_spool(spool)
        files.fs.make_folder(str(folder))
    except (OSError, SpoolError):
        return None
    return folder


async def watch(folders: Iterable[Path], stop: asyncio.Event) -> AsyncIterator[set[str]]:
    """Yield the names of streams in *folders* whose files changed, until *stop* is set.

    Raises:
        OSError: watches cannot be had (the limit of inotify, say); the rescan goes on alone.
    """
    from watchfiles import awatch  # 10 MiB and 60 ms, and `sync` does without

    roots = [f"{folder}/" for folder in folders]
    changes_of = awatch(
        *roots,
        step=WATCH_STEP_MS,
        debounce=WATCH_DEBOUNCE_MS,
        watch_filter=None,
        stop_event=stop,
        recursive=True,
        ignore_permission_denied=True,
    )
    async for changes in changes_of:
        names = {_stream_of(path, roots) for _, path in changes}
        names.discard("")
        if names:
            yield names


def _stream_of(path: str, roots: list[str]) -> str:
    """The stream whose segments *path* is about; empty for anything else, our own cursor above all."""
    for root in roots:
        if path.startswith(root):
            name, _, rest = path[len(root) :].partition("/")
            return "" if rest.startswith(layout.CURSOR) else name
    return ""
