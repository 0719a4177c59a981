"""Artifacts and tags whose staged files are not there: nothing to lose if the store has them, else named."""

from __future__ import annotations

import os
from pathlib import Path

from trainspool.spool.layout import is_safe_name
from trainspool_agent.store.changes import RunChanges
from trainspool_agent.store.layout import ARTIFACTS, TAGS, file_of_key


def leave_out_missing(changes: RunChanges, staging: Path, run_folder: str | None) -> list[str]:
    """Take out of *changes* what is not staged but in the store already; return the staged files that are missing.

    What is missing stays in *changes*: the store says so on the run.
    """
    if not changes.artifacts and not changes.staged_tags:
        return []
    missing: list[str] = []
    for artifact in list(changes.artifacts):
        if _is_staged(staging, artifact.staged):
            continue
        if run_folder and _size(f"{run_folder}/{ARTIFACTS}/{artifact.path}") == artifact.size:
            changes.artifacts.remove(artifact)
        else:
            missing.append(f"{staging}/{artifact.staged}")
    for tag in list(changes.staged_tags):
        if _is_staged(staging, tag.staged):
            continue
        if run_folder and os.path.exists(file_of_key(f"{run_folder}/{TAGS}", tag.key)):
            changes.staged_tags.remove(tag)
        else:
            missing.append(f"{staging}/{tag.staged}")
    return missing


def _is_staged(staging: Path, name: str) -> bool:
    """Whether the file is there; a name that may not be opened is the store's to refuse."""
    return not is_safe_name(name) or os.path.lexists(staging / name)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except (OSError, ValueError):
        return -1
