"""``load_table``: what the store has of a table, of one run or several.

Source: load_table of mlflow/tracking/client.py, MLflow 3.17.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trainspool.complaints import warn
from trainspool.entities import Experiment, StoredRun
from trainspool.errors import RESOURCE_DOES_NOT_EXIST, TrainspoolException
from trainspool.reading import experiments, layout, meta, runs
from trainspool.reading.layout import ARTIFACTS, TAGS, Place
from trainspool.reading.skipping import left_out

LOGGED_ARTIFACTS_TAG = "mlflow.loggedArtifacts"
Table = dict[str, list[Any]]


def load(
    store: str, experiment: Experiment, artifact_file: str, run_ids: Sequence[str] | None, extra: Sequence[str] | None
) -> Any:
    """Return the rows of *artifact_file* of these runs, or of all in the experiment, the last started first.

    Returns:
        A pandas.DataFrame; without pandas a dictionary of columns.

    Raises:
        TrainspoolException: no run has it.
        KeyError: an *extra* column that no run has.
    """
    places = _asked_for(store, run_ids) if run_ids else _in_use(store, experiment)
    having = [(run, _path(place, artifact_file)) for place, run in _with_table(places, artifact_file)]
    if run_ids and len(having) != len(run_ids):
        warn("Not all runs have the specified table artifact. Some runs will be skipped.")
    if not having:
        raise TrainspoolException("No runs found with the corresponding table artifact.", RESOURCE_DOES_NOT_EXIST)
    having.sort(key=lambda one: one[0].info.start_time, reverse=True)
    try:
        import pandas
    except ImportError:
        return _joined([_plain(run, path, extra or ()) for run, path in having])
    return pandas.concat([_frame(pandas, run, path, extra or ()) for run, path in having], ignore_index=True)


# -- which runs -----------------------------------------------------------------------------------------------------


def _asked_for(store: str, run_ids: Sequence[str]) -> Iterator[Place]:
    for run_id in run_ids:
        try:
            place = layout.find_run(store, run_id)
        except TrainspoolException:
            continue  # no run has such an id, and so no table; as MLflow, which searches for it
        if place is not None:
            yield place


def _in_use(store: str, experiment: Experiment) -> Iterator[Place]:
    place = experiments.by_id(store, experiment.experiment_id)
    if place is None and experiment.name:
        named = experiments.by_name(store, experiment.name)  # a store that MLflow made gave it another id
        place = experiments.by_id(store, named.experiment_id) if named is not None else None
    return layout.runs(place) if place is not None else iter(())


def _with_table(places: Iterable[Place], artifact_file: str) -> Iterator[tuple[Place, StoredRun]]:
    """Yield the runs in use that have the table; of others nothing but a tag is read."""
    for place in places:
        if not _has_table(place, artifact_file):
            continue
        try:
            run = runs.read(place)
        except (OSError, meta.UnreadableMeta) as error:
            left_out(f"{place.folder}/{meta.META}", error)
            continue
        if run.info.lifecycle_stage == "active":
            yield place, run


def _has_table(place: Place, artifact_file: str) -> bool:
    try:
        logged = json.loads(layout.text(f"{place.folder}/{TAGS}/{LOGGED_ARTIFACTS_TAG}") or "[]")
    except ValueError:
        return False
    return isinstance(logged, list) and {"path": artifact_file, "type": "table"} in logged


def _path(place: Place, artifact_file: str) -> str:
    path = f"{place.folder}/{ARTIFACTS}/{artifact_file}"
    if not os.path.isfile(path):
        raise TrainspoolException(f"Artifact {artifact_file} not found for run {place.name}.", RESOURCE_DOES_NOT_EXIST)
    return path


# -- its rows -------------------------------------------------------------------------------------------------------


def _frame(pandas: Any, run: StoredRun, path: str, extra: Sequence[str]) -> Any:
    read = pandas.read_parquet(path) if path.endswith(".parquet") else pandas.read_json(path, orient="split")
    for column in extra:
        read[_free_name(column, read)] = _extra(run, column)
    return read


def _plain(run: StoredRun, path: str, extra: Sequence[str]) -> Table:
    if path.endswith(".parquet"):
        raise TrainspoolException(f"{path} is read by pandas, which is not there. Next: pip install pandas")
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    table: Table = {name: [row[index] for row in found["data"]] for index, name in enumerate(found["columns"])}
    for column in extra:
        table[_free_name(column, table)] = [_extra(run, column)] * len(found["data"])
    return table


def _joined(tables: list[Table]) -> Table:
    columns = dict.fromkeys(name for table in tables for name in table)
    joined: Table = {name: [] for name in columns}
    for table in tables:
        count = max(map(len, table.values()), default=0)
        for name, cells in joined.items():
            cells.extend(table.get(name, [None] * count))
    return joined


def _free_name(column: str, table: Any) -> str:
    if column not in table:
        return column
    warn(
        "Column name %s already exists in the table. Resolving the conflict, by appending an underscore to the column "
        "name.", column,
    )  # fmt: skip
    return f"{column}_"


def _extra(run: StoredRun, column: str) -> Any:
    """Return what the run has for a column, named as in MLflow's table of runs; times in ms.

    Raises:
        KeyError: it has nothing of that name.
    """
    kind, _, key = column.partition(".")
    if kind in ("params", "tags", "metrics") and key:
        return getattr(run.data, kind)[key]
    if column in ("run_id", "experiment_id", "artifact_uri", "status", "start_time", "end_time"):
        return getattr(run.info, column)
    raise KeyError(column)
