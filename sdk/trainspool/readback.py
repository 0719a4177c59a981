"""``load_table``: what the store has of a table, of one run or several.

Source: load_table of mlflow/tracking/client.py, MLflow 3.17; mlflow-store's files, which are plain enough to be read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from trainspool.complaints import warn
from trainspool.entities import Experiment
from trainspool.errors import RESOURCE_DOES_NOT_EXIST, TrainspoolException

STATUS = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")
_LINE = re.compile(r"(\w+):\s*(.*?)\s*\Z")
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
    folders = list(_runs(store, experiment, run_ids))
    having = [folder for folder in folders if _has_table(folder, artifact_file)]
    if run_ids and len(having) != len(run_ids):
        warn("Not all runs have the specified table artifact. Some runs will be skipped.")
    if not having:
        raise TrainspoolException("No runs found with the corresponding table artifact.", RESOURCE_DOES_NOT_EXIST)
    having.sort(key=lambda folder: int(_meta(folder).get("start_time") or 0), reverse=True)
    try:
        import pandas
    except ImportError:
        return _joined([_plain(folder, artifact_file, extra or ()) for folder in having])
    return pandas.concat([_frame(pandas, folder, artifact_file, extra or ()) for folder in having], ignore_index=True)


# -- which runs -----------------------------------------------------------------------------------------------------


def _runs(store: str, experiment: Experiment, run_ids: Sequence[str] | None) -> Iterator[str]:
    if run_ids:
        for run_id in run_ids:
            if _RUN_ID.match(run_id):
                yield from (folder for name in _names(store) if os.path.isdir(folder := f"{store}/{name}/{run_id}"))
        return
    for name in _names(store):
        folder = f"{store}/{name}"
        if name == experiment.experiment_id or (experiment.name and _meta(folder).get("name") == experiment.name):
            for run_id in _names(folder):
                run = f"{folder}/{run_id}"
                if _RUN_ID.match(run_id) and _meta(run).get("lifecycle_stage") == "active":
                    yield run


def _names(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _has_table(run: str, artifact_file: str) -> bool:
    try:
        logged = json.loads(_text(f"{run}/tags/mlflow.loggedArtifacts") or "[]")
    except ValueError:
        return False
    return isinstance(logged, list) and {"path": artifact_file, "type": "table"} in logged


def _meta(folder: str) -> dict[str, str]:
    """Return the plain entries of a ``meta.yaml``, MLflow's or ours: a line each, texts perhaps in quotes."""
    found = {}
    for line in (_text(f"{folder}/meta.yaml") or "").splitlines():
        if match := _LINE.match(line):
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(text: str) -> str:
    if text[:1] == "'" == text[-1:]:
        return text[1:-1].replace("''", "'")
    if text[:1] != '"':
        return text
    wide = re.sub(r"\\x([0-9A-Fa-f]{2})", r"\\u00\1", text)
    wide = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda match: chr(int(match[1], 16)), wide)
    try:
        return str(json.loads(wide))
    except ValueError:
        return text


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


# -- its rows -------------------------------------------------------------------------------------------------------


def _frame(pandas: Any, run: str, artifact_file: str, extra: Sequence[str]) -> Any:
    path = _path(run, artifact_file)
    read = pandas.read_parquet(path) if path.endswith(".parquet") else pandas.read_json(path, orient="split")
    for column in extra:
        read[_free_name(column, read)] = _extra(run, column)
    return read


def _plain(run: str, artifact_file: str, extra: Sequence[str]) -> Table:
    path = _path(run, artifact_file)
    if path.endswith(".parquet"):
        raise TrainspoolException(f"{artifact_file} is read by pandas, which is not there. Next: pip install pandas")
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


def _path(run: str, artifact_file: str) -> str:
    path = f"{run}/artifacts/{artifact_file}"
    if not os.path.isfile(path):
        raise TrainspoolException(
            f"Artifact {artifact_file} not found for run {os.path.basename(run)}.", RESOURCE_DOES_NOT_EXIST
        )
    return path


def _free_name(column: str, table: Any) -> str:
    if column not in table:
        return column
    warn(
        "Column name %s already exists in the table. Resolving the conflict, by appending an underscore to the column "
        "name.", column,
    )  # fmt: skip
    return f"{column}_"


def _extra(run: str, column: str) -> Any:
    """Return what the run has for a column, named as in MLflow's table of runs; times in ms.

    Raises:
        KeyError: it has nothing of that name.
    """
    meta = _meta(run)
    kind, _, key = column.partition(".")
    if kind in ("params", "tags", "metrics") and key:
        text = _text(f"{run}/{kind}/{key}")
        if text is None:
            raise KeyError(column)
        return _latest(text) if kind == "metrics" else text
    if column in ("run_id", "experiment_id", "artifact_uri"):
        return meta[column]
    if column == "status":
        return STATUS.get(meta[column], meta[column])
    if column in ("start_time", "end_time"):
        return int(meta[column]) if meta[column].isdigit() else None
    raise KeyError(column)


def _latest(lines: str) -> float:
    """As MLflow does: the point of the largest step, then time, then value."""
    points = [line.split(" ") for line in lines.splitlines()]
    return max((int(one[2]) if len(one) > 2 else 0, int(one[0]), float(one[1])) for one in points)[2]
