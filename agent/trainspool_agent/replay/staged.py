"""Artifacts and tags whose staged files are not there: nothing to lose if the store has them, else named."""

from __future__ import annotations

import os
from pathlib import Path

from trainspool.spool.layout import is_safe_name
from trainspool_agent.store import tables
from trainspool_agent.store.changes import ROWS, Artifact, RunChanges
from trainspool_agent.store.layout import ARTIFACTS, TAGS, WORK, file_of_key


def leave_out_missing(changes: RunChanges, staging: Path, run_folder: str | None) -> list[str]:
    """Take out of *changes* what is not staged but in the store already; return the staged files that are missing.

    What is missing stays in *changes*: the store says so on the run.
    """
    if not changes.artifacts and not changes.staged_tags:
        return []
    missing: dict[str, None] = {}  # several media may be made of one file
    for artifact in list(changes.artifacts):
        if _is_staged(staging, artifact.staged):
            continue
        if (run_folder and artifact.about is not None and _is_made(artifact, staging.parent.name, run_folder)) or (
            run_folder
            and artifact.about is None
            and _size(f"{run_folder}/{ARTIFACTS}/{artifact.path}") == artifact.size
        ):
            changes.artifacts.remove(artifact)
        else:
            missing[f"{staging}/{artifact.staged}"] = None
    for tag in list(changes.staged_tags):
        if _is_staged(staging, tag.staged):
            continue
        if run_folder and os.path.exists(file_of_key(f"{run_folder}/{TAGS}", tag.key)):
            changes.staged_tags.remove(tag)
        else:
            missing[f"{staging}/{tag.staged}"] = None
    return list(missing)


def _is_made(artifact: Artifact, stream: str, run_folder: str) -> bool:
    if artifact.form == ROWS:
        return tables.has(artifact, stream, run_folder, f"{os.path.dirname(run_folder)}/{WORK}")
    return _size(f"{run_folder}/{ARTIFACTS}/{artifact.path}") >= 0


def _is_staged(staging: Path, name: str) -> bool:
    """Whether the file is there; a name that may not be opened is the store's to refuse."""
    return not is_safe_name(name) or os.path.lexists(staging / name)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except (OSError, ValueError):
        return -1
