"""Every artifact of a run and where it is on its way from training to the store; works without an agent.

A checkpoint says what is stored, expected or refused; the spool, what no checkpoint knows yet; the disk, how far it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainspool.spool.layout import PART_SUFFIX, STAGING
from trainspool_agent import checkpoint
from trainspool_agent.liveness import boot_id
from trainspool_agent.look.findrun import RunAt, runs_in
from trainspool_agent.look.spool import SeenStream
from trainspool_agent.look.waiting import waiting
from trainspool_agent.store.changes import Artifact, RunChanges
from trainspool_agent.store.content import open_stored_folder
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.layout import artifact_parts
from trainspool_agent.store.limits import ARTIFACTS_REMEMBERED
from trainspool_agent.store.points import DecodedBlocks
from trainspool_agent.store.state import Expected, Held, RunState, restored
from trainspool_agent.store.transfer import part_name

CAPTURING, STAGED, ON_ITS_WAY, STORED = "being captured", "staged", "on its way", "stored"
REFUSED, REMOVED, FOREIGN = "refused", "removed", "foreign"
LOST = frozenset((REFUSED,))


@dataclass
class Found:
    """One artifact. Sizes in bytes.

    Attributes:
        how: it was captured; None where nobody can tell.
        digest: BLAKE3 of its content, once known.
        where: one of the words above.
        done: how much of it is captured, or carried.
        shared: others in the store have the same bytes.
        why: it is not stored, or what is odd about it.
        event: what its event says, while it is not in its place; *staging*: the folder with its content.
    """

    path: str
    size: int
    where: str
    how: str | None = None
    digest: str | None = None
    done: int = 0
    shared: bool = False
    why: str = ""
    event: Artifact | None = None
    staging: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "bytes": self.size,
            "blake3": self.digest,
            "captured": self.how,
            "where": self.where,
            "done_bytes": self.done,
            "shared": self.shared,
            "why": self.why or None,
        }


def artifacts_of(run: RunAt, streams: list[SeenStream]) -> list[Found]:
    """Return every artifact of *run*, by path.

    Args:
        streams: of every spool that may hold a part of it.
    """
    saved = checkpoint.load(str(run.folder), boot_id()) if run.folder is not None else None
    state, present = state_of(run, saved), dict(_present(run.folder)) if run.folder is not None else {}
    found = {one.path: one for one in _known(state, present)}
    for path, (size, why) in present.items():
        if path not in found:
            # Of so many, the oldest are not remembered.
            where = FOREIGN if len(state.artifacts) < ARTIFACTS_REMEMBERED else STORED
            found[path] = Found(path, size, where, done=size, why=why)
    folders = {f"{seen.place.folder}/{STAGING}" for seen in streams}
    for one in state.expected.values():
        found[_place(one.artifact.path)] = _on_its_way(one, state.work, folders)
    for seen in streams:
        for event in _spooled(run.run_id, seen, state.streams.get(seen.name, 0)):
            found[_place(event.path)] = _staged(event, f"{seen.place.folder}/{STAGING}", STAGED)
    return sorted(found.values(), key=lambda one: one.path)


def state_of(run: RunAt, saved: dict[str, Any] | None) -> RunState:
    """Return what the checkpoint *saved* of *run* means; an empty state if it means nothing."""
    if run.folder is None:
        return RunState(run.run_id)
    experiment = Experiment(run.folder.parent.name, str(run.folder.parent), deleted=False)
    return restored(run.run_id, experiment, saved, DecodedBlocks())


def counted(state: RunState, spooled: Iterable[Artifact]) -> dict[str, Any]:
    """Return how a run's artifacts stand, by its checkpoint's *state* and what the spool has beyond that."""
    sizes = {path: one.artifact.size for path, one in state.expected.items()}
    sizes.update((event.path, event.size) for event in spooled)
    return {
        "stored": len(state.held),
        "bytes": sum(held.size for held in state.held.values()),
        "captured": dict(Counter(held.how or "unknown" for held in state.held.values())),
        "waiting": len(sizes),
        "waiting_bytes": sum(sizes.values()),
        "refused": sum(path not in state.held and path not in sizes for path in state.artifacts),
    }


def needs_a_person(found: Iterable[Found]) -> bool:
    return any(one.where in LOST for one in found)


def below(found: Iterable[Found], path: str) -> list[Found]:
    """Return the artifact at *path*, or all in the folder of that name; an empty path means all."""
    path = path.strip("/")
    return [one for one in found if not path or one.path == path or one.path.startswith(f"{path}/")]


# -- by the checkpoint ----------------------------------------------------------------------------------------------


def _known(state: RunState, present: dict[str, tuple[int, str]]) -> Iterator[Found]:
    """Yield what events asked for and the agent has dealt with."""
    for path in {**dict.fromkeys(state.artifacts), **dict.fromkeys(state.held)}:
        place, held = _place(path), state.held.get(path, Held(0, ""))
        about = held.how or None, held.digest
        if place in present:
            size, why = present[place]
            yield Found(place, size, STORED, *about, done=size, shared=held.shared, why=why)
        elif path in state.held:
            yield Found(place, held.size, REMOVED, *about, why="someone removed it from the store")
        else:
            yield Found(place, 0, REFUSED, why=_why(path, state.problems))


def _why(path: str, problems: list[str]) -> str:
    named = [problem for problem in problems if f"{path!r:.200}" in problem]
    return named[-1] if named else "; ".join(problems) or "its reason is not remembered"


def _spooled(run_id: str, seen: SeenStream, begin: int) -> Iterator[Artifact]:
    if seen.finished or not (begin or any(one.run_id == run_id for one in runs_in(seen))):
        return
    for changes in waiting(run_id, seen, begin):
        if isinstance(changes, RunChanges):
            yield from changes.artifacts


# -- by the disk ----------------------------------------------------------------------------------------------------


def _on_its_way(one: Expected, work: str, folders: set[str]) -> Found:
    if one.staging not in folders:
        why = f"it is staged in {one.staging}, which is in no spool that was looked at"
        return Found(_place(one.artifact.path), one.artifact.size, ON_ITS_WAY, one.artifact.how or None, why=why)
    found = _staged(one.artifact, one.staging, ON_ITS_WAY)
    if found.where == ON_ITS_WAY:
        found.done = _size(Path(work, part_name(boot_id(), one.stream, one.artifact.offset))) or 0
    return found


def _staged(event: Artifact, staging: str, where: str) -> Found:
    found = Found(_place(event.path), event.size, where, event.how or None, event=event, staging=staging)
    staged = Path(staging, event.staged)
    if _size(staged) is None and (captured := _size(Path(f"{staged}{PART_SUFFIX}"))) is not None:
        found.where, found.done = CAPTURING, captured
    elif _size(staged) is None:
        found.why = "its staged file is missing"
    return found


def _size(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        info = os.lstat(path)
        return info.st_size if stat.S_ISREG(info.st_mode) else None
    return None


def _present(run_folder: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield what stands below the run's artifacts: path, size, and what is odd about it; no link is followed."""
    with contextlib.suppress(OSError):
        folder = open_stored_folder(str(run_folder), [])
        try:
            yield from _in_folder(folder, "")
        finally:
            os.close(folder)


def _in_folder(folder: int, prefix: str) -> Iterator[tuple[str, tuple[int, str]]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    opened = _open_folder(entry.name, folder)
                    try:
                        yield from _in_folder(opened, f"{path}/")
                    finally:
                        os.close(opened)
            elif entry.is_file(follow_symlinks=False):
                yield path, (entry.stat(follow_symlinks=False).st_size, "")
            else:
                yield path, (0, "a link, which is not followed" if entry.is_symlink() else "no plain file")


def _open_folder(name: str, above: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)


def _place(path: str) -> str:
    """Return where below the run's artifacts *path* is stored; one that cannot be stored stays as it is."""
    try:
        return "/".join(artifact_parts(path))
    except Refused:
        return path
