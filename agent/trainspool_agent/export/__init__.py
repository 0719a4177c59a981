"""A store handed over to MLflow's database by MLflow's own migration: looked through before, counted afterwards.

Source: mlflow-store.md 2, "migrate-filestore": one transaction; what it cannot read it skips silently, hence the
count.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from trainspool_agent.export import counting
from trainspool_agent.export.errors import ExportFailed
from trainspool_agent.export.migration import migrate
from trainspool_agent.export.repeats import view_without
from trainspool_agent.export.survey import Survey, survey
from trainspool_agent.export.target import database_of, publish, unfinished
from trainspool_agent.relocate.places import holds_experiments
from trainspool_agent.store.layout import META

__all__ = ["ExportFailed", "Report", "export"]
PROBLEMS_SHOWN = 10


@dataclass
class Report:
    """What the store holds and what the database has of it: the same, or ``ExportFailed`` was raised.

    *repeats*: lines of metric files that say what another says, which are in it once; *repeated*: such files.
    """

    database: str
    counts: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    repeated: list[str] = field(default_factory=list)


def export(store: Path, target: str) -> Report:
    """Make the database that *target* names (``sqlite:///mlflow.db``) of *store*.

    It gets its name only when all of the store was counted in it.

    Raises:
        ExportFailed: MLflow is missing, too old or refuses the store; or something would be missing from the database.
        OSError: the disk.
    """
    root = _root_of(os.path.abspath(store))
    database = database_of(target, root)
    if importlib.util.find_spec("mlflow") is None:
        raise ExportFailed("MLflow is not installed here. Next: pip install 'mlflow>=3.10', then the same again")
    found = survey(root)
    _refuse_problems(found)
    try:
        with unfinished(database) as (folder, lock):
            source = view_without(root, found.repeated, f"{folder}/store") if found.repeated else root
            built = migrate(source, folder, lock)
            counts = counting.count(built)
            _compare(found, counts)
            publish(built, database)
    except FileExistsError as error:
        raise ExportFailed(f"{database} is there by now. Next: another name") from error
    return Report(str(database), counts, found.repeats, [f"{one.file}:{one.first_line}" for one in found.repeated])


def _root_of(store: str) -> str:
    """Return the folder that holds the experiments: *store*, or ``mlruns`` in it, which MLflow's migration prefers.

    Raises:
        ExportFailed: neither does, or both do.
    """
    inner, here = f"{store}/mlruns", holds_experiments(store)
    if os.path.isdir(inner):
        if here:
            raise ExportFailed(f"{store} and {inner} both hold experiments, and MLflow takes the second. "
                               f"Next: move {inner} elsewhere, then the same again")  # fmt: skip
        store, here = inner, holds_experiments(inner)
    if os.path.exists(f"{store}/{META}"):
        raise ExportFailed(f"{store} is a part of a store. Next: --store with the folder that holds the experiments")
    if not here:
        raise ExportFailed(f"no experiment lies in {store}. Next: --store with the folder that holds them, e.g. mlruns")
    return store


def _refuse_problems(found: Survey) -> None:
    if found.problems:
        shown = "".join(f"\n  {one.file}: {one.what}. Next: {one.next_step}" for one in found.problems[:PROBLEMS_SHOWN])
        more = len(found.problems) - PROBLEMS_SHOWN
        raise ExportFailed(
            f"MLflow would skip or refuse {len(found.problems)} thing(s) of {found.store}; nothing was exported:{shown}"
            + (f"\n  and {more} more" if more > 0 else "")
        )


def _compare(found: Survey, counts: dict[str, int]) -> None:
    """Refuse a database that does not have all: the store may have grown meanwhile, or MLflow passed over something."""
    short = [f"{counts[name]} of {found.counts[name]} {name}" for name in counts if counts[name] != found.counts[name]]
    if not short:
        return
    again = survey(found.store)
    _refuse_problems(again)
    if again.counts != found.counts or again.repeats != found.repeats:
        raise ExportFailed(
            f"{found.store} changed meanwhile: a run is being logged to. Nothing was exported. "
            "Next: the same when it has ended, or of a copy"
        )
    raise ExportFailed(
        f"the database would have {', '.join(short)} of {found.store}, and nothing there tells why. Nothing was "
        "exported. Next: report it with this line; `mlflow migrate-filestore` makes a database that is not counted"
    )
