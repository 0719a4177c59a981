"""Folders and files of an MLflow file store: which of them are experiments, runs and keys.

Source: mlflow-store.md 1, 1.1, 1.2, 1.4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from trainspool.errors import TrainspoolException
from trainspool.reading.meta import META
from trainspool.reading.skipping import left_out
from trainspool.validation import check_key, invalid

TRASH, MODELS = ".trash", "models"
METRICS, PARAMS, TAGS, ARTIFACTS, INPUTS = "metrics", "params", "tags", "artifacts", "inputs"

_NO_RUNS = frozenset((TAGS, "datasets", "traces", MODELS))
_RUN_ID = re.compile(r"[A-Za-z0-9][\w\-]{0,255}\Z")  # MLflow's: databases take 32 characters, its file store more


class Place(NamedTuple):
    """The folder of an experiment or run; its name is the id."""

    folder: str
    deleted: bool  # in the trash, or an experiment's that is

    @property
    def name(self) -> str:
        return os.path.basename(self.folder)


def experiments(root: str) -> Iterator[Place]:
    """Yield the folders that hold a ``meta.yaml``, those in the trash last; none if there is no store."""
    for parent, deleted in ((root, False), (f"{root}/{TRASH}", True)):
        for name in _folders(parent):
            if name not in (TRASH, MODELS) and os.path.isfile(f"{parent}/{name}/{META}"):
                yield Place(f"{parent}/{name}", deleted)


def runs(experiment: Place) -> Iterator[Place]:
    """Yield the folders of an experiment's runs."""
    for name in _folders(experiment.folder):
        if name not in _NO_RUNS and os.path.isfile(f"{experiment.folder}/{name}/{META}"):
            yield Place(f"{experiment.folder}/{name}", experiment.deleted)


def find_run(root: str, run_id: str) -> Place | None:
    """Return where a run lies, whichever its experiment; None if nowhere.

    Raises:
        TrainspoolException: *run_id* can be no run's.
    """
    if not isinstance(run_id, str) or not _RUN_ID.match(run_id):
        raise invalid("run_id", run_id)
    for experiment in experiments(root):
        if run_id not in _NO_RUNS and os.path.isfile(f"{experiment.folder}/{run_id}/{META}"):
            return Place(f"{experiment.folder}/{run_id}", experiment.deleted)
    return None


def keys(folder: str) -> list[str]:
    """Return the keys below a run's ``metrics``, ``params`` or ``tags``, sorted; a ``/`` in one is a folder there.

    A file whose name MLflow would not take for a key is left out; MLflow leaves out the experiment.
    """
    found = []
    for key in _files(folder, ""):
        try:
            found.append(check_key(key))
        except (TrainspoolException, UnicodeError) as error:
            left_out(f"{folder}/{key}", error)
    return sorted(found)


def _files(folder: str, below: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(f"{folder}/{below}"))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder, f"{below}{entry.name}/")
        else:
            yield below + entry.name


def texts(folder: str) -> dict[str, str]:
    """Return the params or tags in *folder*."""
    return {key: found for key in keys(folder) if (found := text(f"{folder}/{key}")) is not None}


def text(path: str) -> str | None:
    """Return a file's text as it is, line ends and all; None if it has gone meanwhile."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        left_out(path, error)
        return None


def _folders(parent: str) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
