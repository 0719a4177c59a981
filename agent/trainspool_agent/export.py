"""A store handed over to MLflow's database by MLflow's own migration, and counted afterwards.

Source: mlflow-store.md 2, "migrate-filestore": one transaction; runs that it cannot read it skips silently, hence the
count.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from trainspool.errors import TrainspoolError
from trainspool_agent.store import reader as stores
from trainspool_agent.store.layout import METRICS, PARAMS, TAGS

SCHEME = "sqlite:///"
COUNTED = ("runs", METRICS, PARAMS, TAGS)
LINES_SHOWN = 15


class ExportFailed(TrainspoolError):
    """Nothing was exported, or not all of it; the message says what to do. The store is as it was."""


@dataclass
class Report:
    """What the store holds and what the database has of it: the same, or ``ExportFailed`` was raised."""

    database: str
    counts: dict[str, int] = field(default_factory=dict)


def export(store: Path, target: str) -> Report:
    """Make the database that *target* names (``sqlite:///mlflow.db``) of *store*.

    It gets its name only when all of the store was counted in it.

    Raises:
        ExportFailed: MLflow is missing, too old or refuses the store; or something is missing from the database.
        OSError: the disk.
    """
    database = _database_of(target)
    if importlib.util.find_spec("mlflow") is None:
        raise ExportFailed("MLflow is not installed here. Next: pip install 'mlflow>=3.10', then the same again")
    if not store.is_dir():
        raise ExportFailed(f"no store at {store}. Next: --store FOLDER")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{database.name}.unfinished-", dir=database.parent) as folder:
            unfinished = Path(folder, database.name)
            _migrate(store, unfinished)
            report = Report(str(database), _count_store(store))
            _compare(report.counts, _count_database(unfinished), store)
            os.link(unfinished, database)  # unlike a rename, it never replaces what came meanwhile
    except FileExistsError as error:
        raise ExportFailed(f"{database} is there by now. Next: another name") from error
    return report


def _database_of(target: str) -> Path:
    if not target.startswith(SCHEME) or not target[len(SCHEME) :]:
        raise ExportFailed(
            f"MLflow's migration writes SQLite only, not {target!r}. Next: {SCHEME}mlflow.db (from there, MLflow's or "
            "your database's own tools go on)"
        )
    database = Path(os.path.abspath(target[len(SCHEME) :]))
    if database.exists():
        raise ExportFailed(f"{database} is there already, and is not overwritten. Next: another name, or move it away")
    if not database.parent.is_dir():
        raise ExportFailed(f"there is no folder {database.parent}. Next: mkdir -p {database.parent}")
    return database


def _migrate(store: Path, database: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "migrate-filestore", "--source", os.path.abspath(store)]
    command += ["--target", f"{SCHEME}{database}", "--no-progress"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-LINES_SHOWN:])
    if "No such command" in said:
        raise ExportFailed("this MLflow cannot migrate a file store. Next: pip install --upgrade 'mlflow>=3.10'")
    raise ExportFailed(f"MLflow refuses {store}; nothing was exported. It says:\n{said}\nNext: trainspool doctor")


def _compare(wanted: dict[str, int], found: dict[str, int], store: Path) -> None:
    short = [f"{found[name]} of {wanted[name]} {name}" for name in wanted if found[name] != wanted[name]]
    if short:
        raise ExportFailed(
            f"the database would have {', '.join(short)} of {store}: MLflow skips runs whose meta.yaml it cannot read. "
            "Nothing was exported. Next: look for an empty or torn meta.yaml there; stop whatever logs, then try again"
        )


def _count_store(store: Path) -> dict[str, int]:
    counts = dict.fromkeys(COUNTED, 0)
    for run in stores.runs(store):
        counts["runs"] += 1
        for kind in (PARAMS, TAGS):
            counts[kind] += len(_files(f"{run.folder}/{kind}"))
        for path in _files(f"{run.folder}/{METRICS}"):
            with open(path, "rb") as file:
                counts[METRICS] += sum(1 for _ in file)
    return counts


def _files(folder: str) -> list[str]:
    return [f"{parent}/{name}" for parent, _, names in os.walk(folder) for name in names]


def _count_database(database: Path) -> dict[str, int]:
    """Count, and leave one file that is whole by itself: MLflow's migration leaves a part in a write-ahead log."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in COUNTED}
