"""What a store holds, counted as MLflow's migration counts it, and what the migration would stop at or skip.

The migration skips silently what it cannot read, and an error of its own names a line of SQL, no file. So the store is
looked through first, with the migration's own rules: links are followed, any folder with a ``meta.yaml`` is a run.

Source: mlflow-store.md 2; MLflow's ``store/fs2db``.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trainspool_agent.export import lines
from trainspool_agent.store import meta
from trainspool_agent.store.layout import META, METRICS, MODELS, PARAMS, TAGS, TRASH

RESERVED = frozenset((TAGS, "datasets", "traces", MODELS, TRASH))
MOVE = "put it right from a backup, or move its folder out of the store"
ONE_TOO_MANY = "move one of them out of the store"


class Problem(NamedTuple):
    """One thing that the migration would stop at, or skip: where, what, and what to do."""

    file: str
    what: str
    next_step: str


class Repeated(NamedTuple):
    """A metric file that holds points twice, as stock MLflow's ``log_model`` leaves them."""

    file: str
    first_line: int
    of_a_model: bool


@dataclass
class Survey:
    """What a store holds; ``counts`` by the names that ``counting.QUERIES`` has."""

    store: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)
    repeats: int = 0
    _seen: dict[tuple[str, Any], str] = field(default_factory=dict)

    def read(self, folder: str, name: str = META) -> dict[str, Any] | None:
        """Return a mapping, None if MLflow cannot read it: then that is a problem."""
        file = f"{folder}/{name}"
        try:
            return meta.read(os.path.realpath(file))
        except (OSError, meta.UnreadableMeta) as error:
            self.problems.append(Problem(file, f"cannot be read ({str(error)[-120:]})", MOVE))
            return None

    def once(self, kind: str, value: Any, file: str) -> None:
        """Note what a database has once only."""
        other = self._seen.setdefault((kind, value), file)
        if other != file:
            self.problems.append(Problem(file, f"has the {kind} {value!r}, as {other} has", ONE_TOO_MANY))

    def texts(self, kind: str, folder: str) -> None:
        """Count the files of params or tags."""
        for file in files_below(folder):
            self.counts[kind] += 1
            try:
                Path(file).read_bytes().decode()
            except (OSError, UnicodeDecodeError) as error:
                self.problems.append(Problem(file, f"is no text ({error})", "write it anew as UTF-8, or remove it"))

    def metrics(self, kind: str, folder: str, *, of_a_model: bool = False) -> None:
        """Count the points of metric files, each once."""
        for file in files_below(folder):
            try:
                found = lines.look(Path(file).read_bytes(), of_a_model=of_a_model)
            except (OSError, lines.BadLine) as error:
                self.problems.append(Problem(file, str(error), "stop what logs there, and mend or remove that line"))
                continue
            self.counts[kind] += found.points
            if found.repeats:
                self.repeats += found.repeats
                self.repeated.append(Repeated(file, found.first_repeat, of_a_model))


def survey(store: str) -> Survey:
    """Look through a whole store, deleted experiments and the registry too. It is only read."""
    found = Survey(store)
    for parent in (store, f"{store}/{TRASH}"):
        for name in folders(parent):
            if name not in (TRASH, MODELS):
                _experiment(found, f"{parent}/{name}", name)
    for name in folders(f"{store}/{MODELS}"):
        _registered(found, f"{store}/{MODELS}/{name}", name)
    return found


def folders(parent: str) -> list[str]:
    """Return the names of the folders in *parent*, linked ones too, as MLflow sees them."""
    try:
        return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(folder: str) -> list[str]:
    """Return every file below *folder*; it may be a link, a folder further down that is one is passed over."""
    found = (f"{parent}/{name}" for parent, _, names in os.walk(folder) for name in sorted(names))
    return [file for file in found if os.path.isfile(file)]


def _has(folder: str, name: str = META) -> bool:
    return os.path.lexists(f"{folder}/{name}")


def _experiment(found: Survey, folder: str, name: str) -> None:
    runs = [run for run in folders(folder) if run not in RESERVED and _has(f"{folder}/{run}")]
    if not _is_number(name):
        if _has(folder):
            next_step = "rename the folder, and experiment_id in its meta.yaml and its runs', to a number"
            found.problems.append(Problem(folder, "its id is no number, and a database has numbers only", next_step))
        return
    if _has(folder):
        values = found.read(folder)
        found.counts["experiments"] += 1
        found.once("experiment id", int(name), folder)
        if values is not None:
            found.once("experiment name", values.get("name"), folder)
        found.texts("experiment_tags", f"{folder}/{TAGS}")
    elif runs:
        found.problems.append(Problem(folder, "holds runs, and no meta.yaml", MOVE))
    datasets = _datasets(found, f"{folder}/datasets")
    for run in runs:
        _run(found, f"{folder}/{run}", datasets)
    for trace in folders(f"{folder}/traces"):
        _trace(found, f"{folder}/traces/{trace}")
    for model in folders(f"{folder}/{MODELS}"):
        _model(found, f"{folder}/{MODELS}/{model}")


def _is_number(name: str) -> bool:
    try:
        int(name)
    except ValueError:
        return False
    return True


def _run(found: Survey, folder: str, datasets: set[str]) -> None:
    found.counts["runs"] += 1
    values = found.read(folder)
    if values is None:
        return
    run_id = values.get("run_uuid") or values.get("run_id")
    if run_id:
        found.once("run id", run_id, folder)
    else:
        found.problems.append(Problem(f"{folder}/{META}", "has no run_id", MOVE))
    found.metrics(METRICS, f"{folder}/{METRICS}")
    found.texts(PARAMS, f"{folder}/{PARAMS}")
    found.texts(TAGS, f"{folder}/{TAGS}")
    for name in folders(f"{folder}/inputs"):
        _input(found, f"{folder}/inputs/{name}", datasets)
    for name in folders(f"{folder}/outputs"):
        if _has(f"{folder}/outputs/{name}"):
            found.counts["outputs"] += 1
            found.read(f"{folder}/outputs/{name}")


def _datasets(found: Survey, parent: str) -> set[str]:
    names = {name for name in folders(parent) if _has(f"{parent}/{name}")}
    for name in sorted(names):
        found.counts["datasets"] += 1
        found.read(f"{parent}/{name}")
    return names


def _input(found: Survey, folder: str, datasets: set[str]) -> None:
    if not _has(folder):
        return
    found.counts["inputs"] += 1
    values = found.read(folder)
    if values is not None and values.get("source_type", "DATASET") == "DATASET":
        source = values.get("source_id", "")
        if source not in datasets:
            found.problems.append(Problem(folder, f"is of a dataset that is not there: {source}", MOVE))


def _trace(found: Survey, folder: str) -> None:
    if not _has(folder, "trace_info.yaml"):
        return
    found.counts["traces"] += 1
    found.read(folder, "trace_info.yaml")
    assessments = f"{folder}/assessments"
    for file in files_below(assessments):
        if os.path.dirname(file) == assessments and file.endswith(".yaml"):
            found.counts["assessments"] += 1
            values = found.read(assessments, os.path.basename(file))
            if values is not None and values.get("feedback") is None and values.get("expectation") is None:
                found.problems.append(Problem(file, "is neither feedback nor expectation: MLflow skips it", MOVE))


def _model(found: Survey, folder: str) -> None:
    if not _has(folder):
        return
    found.counts["logged_models"] += 1
    if found.read(folder) is not None:
        found.texts("logged_model_params", f"{folder}/{PARAMS}")
        found.texts("logged_model_tags", f"{folder}/{TAGS}")
        found.metrics("logged_model_metrics", f"{folder}/{METRICS}", of_a_model=True)


def _registered(found: Survey, folder: str, name: str) -> None:
    versions = [one for one in folders(folder) if one.startswith("version-") and _has(f"{folder}/{one}")]
    if not _has(folder):
        if versions:
            found.problems.append(Problem(folder, f"holds versions of {name!r}, and no meta.yaml", MOVE))
        return
    found.counts["registered_models"] += 1
    if found.read(folder) is None:
        return
    found.texts("registered_model_tags", f"{folder}/{TAGS}")
    found.texts("registered_model_aliases", f"{folder}/aliases")
    for version in versions:
        found.counts["model_versions"] += 1
        found.read(f"{folder}/{version}")
        found.texts("model_version_tags", f"{folder}/{version}/{TAGS}")
