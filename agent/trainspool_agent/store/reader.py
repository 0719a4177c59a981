"""A read-only view of a store, for ``status``, ``verify`` and anything on screen. Never trusts an ``artifact_uri``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trainspool_agent import checkpoint
from trainspool_agent.store import meta
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.layout import META, MODELS, TRASH, is_run_id
from trainspool_agent.store.points import DecodedBlocks
from trainspool_agent.store.state import restored


class StoredRun(NamedTuple):
    """One run as it lies in the store."""

    run_id: str
    experiment_id: str
    folder: str


def runs(root: Path | str, *, with_broken: bool = False) -> Iterator[StoredRun]:
    """Yield every run of a store, deleted experiments' included; *with_broken*: those that lost their ``meta.yaml``.

    An absent root has none.
    """
    for parent in (str(root), f"{root}/{TRASH}"):
        for experiment in _names(parent):
            if experiment not in (TRASH, MODELS) and os.path.exists(f"{parent}/{experiment}/{META}"):
                for run_id in _names(f"{parent}/{experiment}"):
                    folder = f"{parent}/{experiment}/{run_id}"
                    if is_run_id(run_id) and (with_broken or os.path.exists(f"{folder}/{META}")):
                        yield StoredRun(run_id, experiment, folder)


def find_run(root: Path | str, run_id: str) -> StoredRun | None:
    """Return where a run lies, or None; an id's beginning will do if it is the only one."""
    found = [run for run in runs(root) if run.run_id.startswith(run_id)]
    exact = [run for run in found if run.run_id == run_id]
    return exact[0] if exact else found[0] if len(found) == 1 else None


def run_meta(run: StoredRun) -> dict[str, Any]:
    """Return a run's ``meta.yaml``.

    Raises:
        OSError, meta.UnreadableMeta: it cannot be read now.
    """
    return meta.read(f"{run.folder}/{META}")


def account(run: StoredRun, boot_id: str) -> dict[str, Any] | None:
    """Return a run's account as of its last checkpoint; None if no agent of ours ever carried it."""
    saved = checkpoint.load(run.folder, boot_id)
    if saved is None:
        return None
    experiment = Experiment(run.experiment_id, os.path.dirname(run.folder), deleted=False)
    return restored(run.run_id, experiment, saved, DecodedBlocks()).account()


def _names(folder: str) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except (OSError, ValueError):  # a store's path, as a stream has it, may be anything
        return []
