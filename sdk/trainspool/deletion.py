"""Runs and experiments of a store, marked deleted and in use again: on its files, as there is no event for it.

Each ``meta.yaml`` is read, changed in the keys that say it, and published by rename; nothing else is touched. What an
agent carries for a deleted run or experiment goes on to arrive there, and never brings it back.

Source: mlflow-store.md 1.1, 1.2, 1.10.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from trainspool.reading import layout, meta, runs
from trainspool.reading.layout import TRASH, Place
from trainspool.reading.skipping import left_out
from trainspool.spool import files, metalock, plainyaml

ACTIVE, DELETED = "active", "deleted"
STAGE, DELETED_AT = "lifecycle_stage", "deleted_time"
WORK = ".trainspool"  # temporary files, where the agent has its own: no reader takes it for a run


def mark_run(place: Place, *, deleted: bool) -> None:
    """Mark a run deleted, or in use.

    Raises:
        OSError, meta.UnreadableMeta: its ``meta.yaml`` cannot be read or written; it is as before.
    """
    now = _now_ms()

    def edit(values: dict[str, Any]) -> None:
        runs.info_of(place, values)
        values[STAGE] = DELETED if deleted else ACTIVE
        if deleted:
            values[DELETED_AT] = now
        else:
            values.pop(DELETED_AT, None)

    _change(place.folder, os.path.dirname(place.folder), edit)


def delete_experiment(root: str, place: Place) -> None:
    """Mark an experiment and its runs deleted and move it into the trash.

    Dying half-way leaves some runs deleted; the same call again does the rest.

    Raises:
        OSError, meta.UnreadableMeta: the experiment's ``meta.yaml`` cannot be read, or the store not be written.
    """
    _mark_runs(place, deleted=True)
    _mark_experiment(place, deleted=True)
    files.fs.make_shared_folder(f"{root}/{TRASH}")
    files.fs.rename(place.folder, f"{root}/{TRASH}/{place.name}")


def restore_experiment(root: str, place: Place) -> None:
    """Bring an experiment and all its runs back from the trash; errors as ``delete_experiment``.

    The move comes last: dying before it leaves it in the trash, where the same call finds it again.
    """
    _mark_runs(place, deleted=False)
    _mark_experiment(place, deleted=False)
    files.fs.rename(place.folder, f"{root}/{place.name}")


def _mark_runs(experiment: Place, *, deleted: bool) -> None:
    for run in layout.runs(experiment):
        try:
            if (meta.read(run.folder).get(STAGE, ACTIVE) != ACTIVE) != deleted:
                mark_run(run, deleted=deleted)
        except (FileNotFoundError, meta.UnreadableMeta) as error:
            left_out(f"{run.folder}/{meta.META}", error)


def _mark_experiment(place: Place, *, deleted: bool) -> None:
    now = _now_ms()

    def edit(values: dict[str, Any]) -> None:
        values[STAGE] = DELETED if deleted else ACTIVE
        values["last_update_time"] = now

    _change(place.folder, place.folder, edit)


def _change(folder: str, experiment: str, edit: Callable[[dict[str, Any]], None]) -> None:
    with metalock.held(f"{folder}/{meta.META}"):
        values = meta.read(folder)
        edit(values)
        _publish(f"{folder}/{meta.META}", plainyaml.render(values), f"{experiment}/{WORK}")


def _publish(path: str, data: bytes, work: str) -> None:
    """Make *path* hold *data*: a reader finds the old content or all of the new, also after a power cut."""
    files.fs.make_one_folder(work)
    temporary = f"{work}/{os.getpid()}.{os.urandom(6).hex()}"  # begins as the agent's do: it removes what is left
    try:
        fd = files.fs.create_shared(temporary)
        try:
            files.fs.write(fd, data)
            files.fs.sync(fd)
        finally:
            files.fs.close(fd)
        files.fs.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            files.fs.unlink(temporary)
        raise


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
