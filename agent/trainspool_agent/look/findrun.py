"""Which run a person means: by id, the beginning of one, or a name; in the stores, else in the spools.

A spool may hold gigabytes, so its runs are found by the bytes of their definitions. That is a search, not a reading:
what it finds is only where to look.

Source: sdk/docs/spool-format.md, "Events", kinds 4 and 5.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from trainspool.errors import SpoolError, TrainspoolError
from trainspool.spool import events as ev
from trainspool.spool import layout
from trainspool.spool.ringfile import read_ring
from trainspool_agent.compact import RunRef
from trainspool_agent.look import walk
from trainspool_agent.look.spool import SeenStream
from trainspool_agent.store import meta
from trainspool_agent.store.layout import META, MODELS, TRASH, is_run_id

PREFIX_MIN = 4
_SHOWN_MAX = 5
_NUMBER = rb"(?:[\x00-\x7f]|\xcc.|\xcd..|\xce....)"
_DEFINE_RUN = re.compile(rb"\x97\x04" + _NUMBER + rb"(?:\xd9.|[\xa1-\xbf])", re.DOTALL)
_START = re.compile(rb"\x94\x05" + _NUMBER + rb"\xcf........[\x81-\x8f]", re.DOTALL)
_EVENT_BYTES = 64 << 10
_UNREADABLE = (OSError, SpoolError, ValueError, TypeError, msgpack.exceptions.UnpackException)


class RunNotFound(TrainspoolError):
    """No run is meant, or more than one; the message says what to do."""


@dataclass
class RunAt:
    """A run and where it is: *folder* in a store, or None while it is in the spool alone."""

    run_id: str
    name: str | None = None
    folder: Path | None = None
    ref: RunRef | None = None

    @property
    def store(self) -> str | None:
        if self.folder is not None:
            root = self.folder.parents[1]
            return str(root.parent if root.name == TRASH else root)
        return self.ref.store if self.ref else None


def find_run(text: str, stores: Iterable[Path], streams: list[SeenStream]) -> RunAt:
    """Return the run that *text* names.

    Raises:
        RunNotFound: none, or several.
    """
    roots = list(dict.fromkeys(stores))
    found = _in_stores(text, roots)
    if not found:
        spooled = _in_spools(text, streams)
        more = [Path(run.ref.store) for run in spooled if run.ref is not None]
        found = [_placed(run, more) for run in spooled]
    exact = [run for run in found if text in (run.run_id, run.name)]
    found = exact or found
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(f"{run.run_id} ({run.name})" for run in found[:_SHOWN_MAX])
        raise RunNotFound(f"{text} may be any of {len(found)} runs: {which}. Next: give the whole id")
    where = ", ".join(map(str, roots))
    raise RunNotFound(f"no run {text} in {where} nor in the spool. Next: trainspool status, or give --store or --spool")


def run_folders(root: Path) -> Iterator[Path]:
    """Yield the folder of every run in the store at *root*, deleted experiments included."""
    for parent in (root, root / TRASH):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(parent)):
                if name not in (TRASH, MODELS) and (parent / name / META).is_file():
                    yield from _runs_of(parent / name)


def _runs_of(experiment: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(experiment)):
            if is_run_id(name) and (experiment / name / META).is_file():
                yield experiment / name


def _in_stores(text: str, roots: list[Path]) -> list[RunAt]:
    folders = [folder for root in roots for folder in run_folders(root)]
    by_id = [folder for folder in folders if _is_id(text, folder.name)]
    found = by_id or [folder for folder in folders if _name_of(folder) == text]
    return [RunAt(folder.name, _name_of(folder), folder) for folder in found]


def _is_id(text: str, run_id: str) -> bool:
    return run_id == text or (len(text) >= PREFIX_MIN and run_id.startswith(text))


def _name_of(folder: Path) -> str | None:
    try:
        return str(meta.read(folder / META).get("run_name"))
    except (OSError, meta.UnreadableMeta):
        return None


def _in_spools(text: str, streams: list[SeenStream]) -> list[RunAt]:
    found: dict[str, RunAt] = {}
    for seen in streams:
        for run in runs_in(seen):
            if _is_id(text, run.run_id) or run.name == text:
                known = found.setdefault(run.run_id, run)
                known.name = known.name or run.name
    return list(found.values())


def _placed(run: RunAt, roots: list[Path]) -> RunAt:
    for root in roots:
        for folder in run_folders(root):
            if folder.name == run.run_id:
                return RunAt(run.run_id, _name_of(folder), folder, run.ref)
    return run


def runs_in(seen: SeenStream) -> list[RunAt]:
    """Return the runs that *seen* defines anywhere in its segments or its ring."""
    found: dict[str, RunAt] = {}
    for data in _bytes_of(seen):
        numbers: dict[int, RunAt] = {}
        for event in _events_at(_DEFINE_RUN, data):
            if len(event) >= 7 and isinstance(event[2], str) and is_run_id(event[2]) and isinstance(event[4], str):
                owner, store, experiment_id, experiment = event[3:7]
                ref = RunRef(event[2], store, experiment_id, experiment, bool(owner))
                numbers[event[1]] = found.setdefault(event[2], RunAt(event[2], ref=ref))
        for event in _events_at(_START, data):
            if event[1] in numbers and isinstance(event[3], dict):
                numbers[event[1]].name = event[3].get("name") or numbers[event[1]].name
    return list(found.values())


def _bytes_of(seen: SeenStream) -> Iterator[bytes]:
    for name in layout.segments(seen.place.folder):
        with contextlib.suppress(OSError, SpoolError):
            yield walk.read_segment(seen.place.folder / str(name))
    for path in seen.rings:
        with contextlib.suppress(*_UNREADABLE):
            with read_ring(path) as view:
                yield b"".join(view.committed(max(view.head, seen.written)))
            return


def _events_at(pattern: re.Pattern[bytes], data: bytes) -> Iterator[list[Any]]:
    for match in pattern.finditer(data):
        try:
            event = next(iter(ev.unpacker(data[match.start() : match.start() + _EVENT_BYTES])), None)
        except (ValueError, TypeError, msgpack.exceptions.UnpackException):
            continue
        if isinstance(event, list):
            yield event
