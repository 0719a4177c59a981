"""A run's folder and ``meta.yaml``: made whole, later changed only in the keys we own.

Source: mlflow-store.md 1.2, 1.9, 1.10. One empty or torn ``meta.yaml`` hides the whole experiment, so it is synced
before it gets its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

from trainspool.spool import metalock
from trainspool_agent import files
from trainspool_agent.store import meta
from trainspool_agent.store.attempts import outcome
from trainspool_agent.store.changes import RunChanges
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.files import publish, temporary_in
from trainspool_agent.store.layout import APPLIED, META, RUN_FOLDERS
from trainspool_agent.store.limits import END_REASON_CHARACTERS_MAX, USER_CHARACTERS_MAX
from trainspool_agent.store.state import Published, RunState
from trainspool_agent.store.texts import RUN_NAME_TAG, short_name, write_tag
from trainspool_agent.store.transfer import PART, is_being_written

END_REASON_TAG = "trainspool.end_reason"
PROBLEM_TAG = "trainspool.problem"


def first_meta(run_id: str, experiment: Experiment, changes: RunChanges) -> dict[str, Any]:
    """Return the ``meta.yaml`` of a run that is not in the store yet."""
    start = changes.starts[0] if changes.starts else None
    name = (start and (start.name or start.tags.get(RUN_NAME_TAG))) or f"run-{run_id[:8]}"
    first_ms = changes.first_ms
    return meta.run_meta(
        run_id,
        experiment.experiment_id,
        f"{experiment.folder}/{run_id}/artifacts",
        user=((start and start.user) or "unknown")[:USER_CHARACTERS_MAX],
        name=short_name(name),
        start_ms=time.time_ns() // 1_000_000 if first_ms is None else first_ms,
        lifecycle="deleted" if experiment.deleted else "active",
    )


def make_folder(run_id: str, experiment: Experiment, values: dict[str, Any]) -> None:
    """Build the run beside the others, then rename it in whole. Blocks for a sync: use a thread."""
    building = temporary_in(experiment.work)
    files.fs.make_one_folder(building)
    for name in RUN_FOLDERS:
        files.fs.make_one_folder(f"{building}/{name}")
    publish(f"{building}/{META}", meta.render(values), experiment.work, sync=True)
    publish(f"{building}/{APPLIED}", b"", experiment.work)  # ours, to whoever comes after a power cut
    files.fs.sync_path(building)  # a power cut may keep the rename below and forget what is in the folder
    try:
        files.fs.rename(building, f"{experiment.folder}/{run_id}")
    except OSError:
        files.fs.remove_tree(building)
        if not os.path.isdir(f"{experiment.folder}/{run_id}"):  # else another agent was faster: its folder is as good
            raise


def complete_folder(state: RunState, values: dict[str, Any]) -> None:
    """Give a folder that is there what MLflow needs to read it. Blocks for a sync: use a thread."""
    for name in RUN_FOLDERS:
        files.fs.make_one_folder(f"{state.folder}/{name}")
    if not os.path.exists(f"{state.folder}/{META}"):
        publish(f"{state.folder}/{META}", meta.render(values), state.work, sync=True)


def wanted(state: RunState) -> Published:
    """Return what should stand in ``meta.yaml`` by the sessions and tags known; the name as last set."""
    ends = outcome(state.sessions)
    if ends is None:
        return state.published._replace(name=state.name)
    return Published(ends.status, ends.start_ms, ends.end_ms, ends.reason, state.name)


async def publish_wanted(state: RunState) -> None:
    """Bring ``meta.yaml`` and our own tags to what the run's sessions say; its lock is held."""
    want = wanted(state)
    write_own_tags(state, want)
    state.shown = want == state.published or await asyncio.to_thread(publish_meta, state, want)
    if state.shown:
        state.published = want
        state.provisional = state.provisional and want.status is None


def publish_meta(state: RunState, want: Published) -> bool:
    """Rewrite ``meta.yaml`` so that it says *want*; return False if it cannot be read now. Blocks: use a thread.

    Other keys stay as they are: a name, a deletion or a note that someone else made outlives us.
    """
    with metalock.held(f"{state.folder}/{META}"):  # a deletion by the SDK, say
        return _rewrite_meta(state, want)


def _rewrite_meta(state: RunState, want: Published) -> bool:
    path = f"{state.folder}/{META}"
    try:
        values = meta.read(path)
    except meta.UnreadableMeta:
        return False
    before = dict(values)
    if want.status is not None:
        values["status"], values["end_time"] = want.status, want.end_ms
        known = values.get("start_time")
        if state.provisional or not isinstance(known, int):
            values["start_time"] = want.start_ms
        else:
            values["start_time"] = min(known, want.start_ms or known)
    if want.name is not None and want.name != state.published.name:
        values["run_name"] = want.name
    values.setdefault("run_uuid", values.get("run_id", state.run_id))
    if values != before:
        publish(path, meta.render(values), state.work, sync=True)
    return True


def write_own_tags(state: RunState, want: Published) -> None:
    """Tell why the run failed and what the store could not do as asked."""
    if want.reason != state.published.reason:
        write_tag(state, END_REASON_TAG, want.reason and want.reason[:END_REASON_CHARACTERS_MAX])
    if len(state.problems) > state.problems_told:
        write_tag(state, PROBLEM_TAG, "\n".join(state.problems))
        state.problems_told = len(state.problems)


def remove_leftovers(experiment: Experiment, boot_id: str) -> None:
    """Remove temporary files of agents that died: names begin with their pid; parts of artifacts of another boot."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(experiment.work):
            pid = name.split(".")[0]
            left = pid.isdigit() and int(pid) != os.getpid() and not os.path.exists(f"/proc/{pid}")
            # A part of another boot may have lost what was in it, and is begun anew under another name.
            of_another_boot = name.startswith(PART) and not name.startswith(f"{PART}{boot_id[:8]}-")
            if left or (of_another_boot and not is_being_written(f"{experiment.work}/{name}")):
                files.fs.remove_tree(f"{experiment.work}/{name}")
