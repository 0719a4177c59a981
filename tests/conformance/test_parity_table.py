"""The table in sdk/docs/mlflow-parity.md tells the truth of both modules: names, signatures, and what is absent."""

from __future__ import annotations

import enum
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import trainspool
from trainspool import absent

mlflow = pytest.importorskip("mlflow")

PAGE = Path(__file__).parents[2] / "sdk/docs/mlflow-parity.md"
VERDICTS = {"same", "better", "ours", "absent"}
MACHINERY = {  # public by their spelling only: what MLflow imports for itself
    "IS_TRACING_SDK_ONLY", "LazyLoader", "MLFLOW_CONFIGURE_LOGGING", "TYPE_CHECKING", "VERSION", "contextlib",
    "error_classification", "legacy_databricks_cli", "maybe_hint_tracing_skill", "mismatch", "ml_package_versions",
    "mlflow", "protos", "pytest", "set_telemetry_client", "version",
}  # fmt: skip
OUR_MODULES = {"run", "artifacts", "entities"}
OUR_TYPES = {
    "Capture", "Experiment", "Metric", "Run", "RunData", "RunInfo", "StoredRun", "TrainspoolError",
    "TrainspoolException", "ViewType", "__version__",
}  # fmt: skip


class Row(NamedTuple):
    names: list[str]
    verdict: str
    note: str

    @property
    def more_arguments(self) -> list[str]:
        said = re.search(r"More arguments: (.*?)\.", self.note)
        return re.findall(r"`(\w+)`", said[1]) if said else []


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            found.append(Row(re.findall(r"`(\w+)`", cells[0]), cells[1], cells[2]))
    return found


ROWS = rows()
BY_VERDICT = {
    verdict: [(name, row) for row in ROWS for name in row.names if row.verdict == verdict] for verdict in VERDICTS
}


def of_mlflow() -> set[str]:
    return {name for name in dir(mlflow) if not name.startswith("_")} - MACHINERY


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    signature = inspect.signature(function)
    return [
        (one.name, one.kind, one.default.value if isinstance(one.default, enum.Enum) else one.default)
        for one in signature.parameters.values()
    ]


def test_every_name_stands_once_and_has_a_verdict() -> None:
    names = [name for row in ROWS for name in row.names]
    assert sorted(names) == sorted(set(names)) and {row.verdict for row in ROWS} == VERDICTS


def test_every_name_of_mlflows_is_accounted_for() -> None:
    told = {name for verdict in ("same", "better", "absent") for name, _ in BY_VERDICT[verdict]}
    assert told == of_mlflow() - OUR_MODULES


def test_every_name_of_ours_is_accounted_for() -> None:
    told = {name for verdict in ("same", "better", "ours") for name, _ in BY_VERDICT[verdict]}
    assert told == set(trainspool.__all__) - OUR_TYPES


@pytest.mark.parametrize(("name", "row"), BY_VERDICT["same"] + BY_VERDICT["better"], ids=lambda one: str(one)[:40])
def test_signatures_differ_only_where_the_table_says_so(name: str, row: Row) -> None:
    theirs, ours = parameters(getattr(mlflow, name)), parameters(getattr(trainspool, name))
    more = [one[0] for one in ours if one not in theirs]
    assert [one for one in ours if one[0] not in more] == theirs and more == row.more_arguments


@pytest.mark.parametrize("name", [name for name, _ in BY_VERDICT["ours"]])
def test_what_is_ours_mlflow_has_not(name: str) -> None:
    assert not hasattr(mlflow, name) and callable(getattr(trainspool, name))


@pytest.mark.parametrize(("name", "row"), BY_VERDICT["absent"], ids=lambda one: str(one)[:40])
def test_what_is_absent_says_what_the_table_says(name: str, row: Row) -> None:
    with pytest.raises(trainspool.TrainspoolError) as told:
        getattr(trainspool, name)
    assert isinstance(told.value, AttributeError)
    message = str(told.value)
    assert message.startswith(f"trainspool has no {name}: ") and row.note in message and "Next: " in message


def test_the_table_and_the_module_know_the_same_as_absent() -> None:
    assert {name for name, _ in BY_VERDICT["absent"]} == set(absent.WHY)


def test_the_clients_call_that_is_a_function_here_takes_what_the_client_takes() -> None:
    theirs = parameters(mlflow.MlflowClient.get_metric_history)[1:]
    assert parameters(trainspool.get_metric_history) == theirs


def test_view_types_are_mlflows() -> None:
    theirs = mlflow.entities.ViewType
    for name in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL"):
        assert getattr(trainspool.entities.ViewType, name) == getattr(theirs, name)
