"""Where in a store addresses stand: of experiments, runs, logged models, traces and the registry; deleted ones' too.

Links are followed, as MLflow follows them: people move runs to a scratch disk and link them.

Source: mlflow-store.md 1, 1.2, 1.8.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from trainspool_agent.store import meta
from trainspool_agent.store.errors import StoreRefused
from trainspool_agent.store.layout import APPLIED, ARTIFACTS, DURABLE, META, MODELS, TAGS, TRASH

TRACES = "traces"
TRACE_TAG = "mlflow.artifactLocation"
KEPT = "the store as it was"
NO_EXPERIMENTS = ("", MODELS, TRASH)


class Place(NamedTuple):
    """Where one address stands, and which folder of the store it means."""

    file: str
    key: str  # of meta.yaml; empty: the file is the address
    tail: str  # how it must end; empty: as any folder of artifacts of this store, the registry's
    here: str  # that folder; one in the trash has the address of its place before
    ours: bool = False  # an agent of ours carried the run: it keeps artifacts in the store only


class Left(NamedTuple):
    """One address that stays, or (it is empty then) a file or folder that cannot be looked at; and why."""

    file: str
    address: str
    why: str


def check_is_store(store: str) -> None:
    """Refuse a folder that is no store, saying what is.

    Raises:
        StoreRefused: it is part of one, or holds one, or neither.
    """
    if os.path.lexists(f"{store}/{META}") or os.path.basename(store) in (TRASH, MODELS):
        what, next_step = "this is a part of a store", "name the store itself, the folder that holds the experiments"
    elif holds_experiments(store):
        return
    elif holds_experiments(f"{store}/mlruns"):
        what, next_step = "the store is a folder in this one", f"the same with {store}/mlruns"
    else:
        what, next_step = "no experiment lies there", "name the folder that holds the experiments, e.g. mlruns"
    raise StoreRefused(what, store, next_step, kept=KEPT)


def holds_experiments(store: str) -> bool:
    """Whether a folder is a store, as far as that can be read."""
    return any(
        _is_experiment(f"{parent}/{name}")
        for parent in (store, f"{store}/{TRASH}")
        for name in Walk(store).folders(parent)
        if name not in NO_EXPERIMENTS
    )


def _is_experiment(folder: str) -> bool:
    """Whether a folder is an experiment; by its name if its ``meta.yaml`` cannot be read: others have such files."""
    try:
        values = meta.read(f"{folder}/{META}")
    except FileNotFoundError:
        return False
    except (OSError, meta.UnreadableMeta):
        return os.path.basename(folder).isdigit()
    return "experiment_id" in values and "run_id" not in values and "model_id" not in values


class Walk:
    """One look through a store; ``troubles`` has what it could not look at. For one thread."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.troubles: list[Left] = []

    def places(self) -> Iterator[Place]:
        for parent in (self.store, f"{self.store}/{TRASH}"):
            for experiment in self.folders(parent):
                folder = f"{parent}/{experiment}"
                if experiment not in NO_EXPERIMENTS and os.path.lexists(f"{folder}/{META}"):
                    self._note_twin(parent, experiment)
                    yield Place(f"{folder}/{META}", "artifact_location", experiment, folder)
                    yield from self._of_experiment(folder, experiment)
        yield from self._of_registry(f"{self.store}/{MODELS}")

    def folders(self, parent: str) -> list[str]:
        """Return the names of the folders in *parent*, linked ones too; none if it is not there."""
        try:
            entries = sorted(os.scandir(parent), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.troubles.append(Left(parent, "", f"cannot be read: {error.strerror}"))
            return []
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path):
                self.troubles.append(Left(entry.path, "", f"a link to {os.readlink(entry.path)}, which is not there"))
        return [entry.name for entry in entries if entry.is_dir()]

    def _note_twin(self, parent: str, experiment: str) -> None:
        active = f"{self.store}/{experiment}"
        if parent != self.store and os.path.lexists(f"{active}/{META}"):
            why = (
                f"experiment {experiment} is active, too (stores of two boxes, merged?), and MLflow shows only the "
                f"runs there: move the runs from here to {active} and remove this folder, or the other way round"
            )
            self.troubles.append(Left(f"{parent}/{experiment}", "", why))

    def _of_experiment(self, folder: str, experiment: str) -> Iterator[Place]:
        for name in self.folders(folder):
            if name == MODELS:
                yield from self._of_models(f"{folder}/{MODELS}", f"{experiment}/{MODELS}")
            elif name == TRACES:
                yield from self._of_traces(f"{folder}/{TRACES}", f"{experiment}/{TRACES}")
            elif os.path.lexists(f"{folder}/{name}/{META}"):
                run = f"{folder}/{name}"
                ours = any(os.path.exists(f"{run}/{mark}") for mark in (APPLIED, DURABLE))
                tail = f"{experiment}/{name}/{ARTIFACTS}"
                yield Place(f"{run}/{META}", "artifact_uri", tail, f"{run}/{ARTIFACTS}", ours)

    def _of_models(self, folder: str, tail: str) -> Iterator[Place]:
        for name in self.folders(folder):
            file, end = f"{folder}/{name}/{META}", f"{name}/{ARTIFACTS}"
            if os.path.lexists(file):
                yield Place(file, "artifact_location", f"{tail}/{end}", f"{folder}/{end}")

    def _of_traces(self, folder: str, tail: str) -> Iterator[Place]:
        for name in self.folders(folder):
            tag, end = f"{folder}/{name}/{TAGS}/{TRACE_TAG}", f"{name}/{ARTIFACTS}"
            if os.path.lexists(tag):
                yield Place(tag, "", f"{tail}/{end}", f"{folder}/{end}")

    def _of_registry(self, folder: str) -> Iterator[Place]:
        for name in self.folders(folder):
            for version in self.folders(f"{folder}/{name}"):
                file = f"{folder}/{name}/{version}/{META}"
                if version.startswith("version-") and os.path.lexists(file):
                    yield Place(file, "storage_location", "", "")
                    yield Place(file, "source", "", "")
