"""What is read in a process that logs, where no agent carries."""

from __future__ import annotations

import inspect
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import spooled

import trainspool as mlflow
from trainspool import settling
from trainspool.entities import ViewType
from trainspool.errors import RESOURCE_DOES_NOT_EXIST
from trainspool.spool import plainyaml
from trainspool.spool.experiments import experiment_id_for
from trainspool.stream import stream

RUN, PARENT = "c" * 32, "d" * 32


@pytest.fixture
def store(here: spooled.Place) -> Path:
    """The store that this process logs to, with what MLflow left in it: an experiment under an id of its own."""
    settling._told_at.clear()
    root = Path(stream.store)
    for number, name in (("0", "Default"), ("123456789012345678", "mnist")):
        write(root / number, {"experiment_id": number, "name": name, "lifecycle_stage": "active", "creation_time": 1})
    for run_id, tags in ((RUN, {"mlflow.parentRunId": PARENT}), (PARENT, {})):
        folder = root / "123456789012345678" / run_id
        about = {"run_id": run_id, "experiment_id": "123456789012345678", "user_id": "u", "status": 3}
        write(folder, {**about, "start_time": 1, "end_time": 2, "run_name": "r", "artifact_uri": f"{folder}/artifacts"})
        (folder / "tags").mkdir()
        for key, text in tags.items():
            (folder / "tags" / key).write_text(text)
    return root


def write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "meta.yaml").write_bytes(plainyaml.render(values))


def test_nothing_is_waited_for_and_no_stream_is_born_where_nothing_was_logged(store: Path) -> None:
    assert mlflow.get_run(RUN).info.status == "FINISHED"
    assert [run.info.run_id for run in mlflow.search_runs(experiment_names=["mnist"], output_format="list")] == [
        RUN,
        PARENT,
    ]
    assert stream.pump is None


def test_the_experiment_that_was_set_is_found_under_the_id_that_mlflow_gave_it(store: Path) -> None:
    ours = mlflow.set_experiment("mnist").experiment_id
    assert ours == experiment_id_for("mnist") != "123456789012345678"
    assert len(mlflow.search_runs(output_format="list")) == 2
    assert len(mlflow.search_runs([ours], output_format="list")) == 2
    assert mlflow.get_experiment(ours).experiment_id == "123456789012345678"


def test_what_no_agent_carries_is_told_once_and_what_is_there_is_read(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow.start_run():
        mlflow.log_metric("loss", 1.0)
    with caplog.at_level(logging.WARNING, "trainspool"):
        for _ in range(3):
            assert mlflow.get_run(RUN).info.run_id == RUN
    assert [record.getMessage() for record in caplog.records] == [
        "no agent carries to the store what this process logged, so what is there is read. "
        "Next: pip install 'trainspool[agent]', or trainspool sync"
    ]


def test_a_run_that_only_the_spool_has_is_not_found_and_the_message_says_why(store: Path) -> None:
    with mlflow.start_run() as run:
        pass
    with pytest.raises(
        mlflow.TrainspoolException, match=r"not found; the store has not all .* Next: trainspool sync"
    ) as told:
        mlflow.get_run(run.info.run_id)
    assert told.value.error_code == RESOURCE_DOES_NOT_EXIST
    assert mlflow.last_active_run() is run, "what this process knows of it is better than nothing"


def test_the_active_run_is_the_last_active_one(store: Path) -> None:
    assert mlflow.last_active_run() is None
    run = mlflow.start_run()
    assert mlflow.last_active_run() is run


def test_a_run_knows_its_parent(store: Path) -> None:
    parent = mlflow.get_parent_run(RUN)
    assert parent is not None and parent.info.run_id == PARENT and mlflow.get_parent_run(PARENT) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlflow.get_run("e" * 32), f"Run '{'e' * 32}' not found"),
        (lambda: mlflow.get_run("../x"), "Invalid value .* for parameter 'run_id'"),
        (lambda: mlflow.get_experiment("77"), "Could not find experiment with ID 77"),
        (lambda: mlflow.get_experiment("a/b"), "experiment_id"),
        (lambda: mlflow.get_metric_history(RUN, "../x"), "Names may be treated as files"),
        (lambda: mlflow.search_runs(["0"], experiment_names=["mnist"]), "Only experiment_ids or experiment_names"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_told_as_mlflow_tells_it(store: Path, call: Any, message: str) -> None:
    with pytest.raises(mlflow.TrainspoolException, match=message):
        call()


def test_what_the_store_does_not_know_has_no_runs(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert mlflow.search_runs(["77"], output_format="list") == []
    assert mlflow.search_runs(experiment_names=["none", None], output_format="list") == []  # type: ignore[list-item]
    assert "Cannot retrieve experiment by name none" in caplog.text
    assert mlflow.get_experiment_by_name("none") is None


def test_a_table_of_no_runs_has_mlflows_six_columns(store: Path) -> None:
    frame = mlflow.search_runs(["0"])
    assert list(frame.columns) == ["run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time"]
    assert len(frame) == 0


def test_a_table_needs_pandas_and_a_list_does_not(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas, or output_format='list'"):
        mlflow.search_runs()
    assert mlflow.search_runs(output_format="list") == []
    with pytest.raises(ValueError, match="Unsupported output format: json"):
        mlflow.search_runs(output_format="json")


def test_a_run_whose_meta_cannot_be_read_is_an_error_where_it_is_asked_for(store: Path) -> None:
    (store / "123456789012345678" / RUN / "meta.yaml").write_text("")
    with pytest.raises(mlflow.TrainspoolException, match="metadata is in invalid state"):
        mlflow.get_run(RUN)
    assert len(mlflow.search_runs(experiment_names=["mnist"], output_format="list")) == 1


def test_a_stored_run_is_a_plain_value_with_mlflows_fields(store: Path) -> None:
    run = mlflow.get_run(RUN)
    assert run.to_dictionary()["info"]["run_id"] == run.info.run_uuid == RUN
    assert run == mlflow.get_run(RUN) and (run.data.params, run.data.metrics) == ({}, {})
    assert ViewType.ALL == 3 and mlflow.search_experiments(ViewType.ALL, order_by=["name"])[0].name == "Default"


def test_where_nothing_is_logged_on_purpose_everything_is_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_DISABLED", "1")
    with mlflow.start_run():
        mlflow.log_metric("loss", 1.0)
    assert mlflow.get_run(RUN).info.run_id == RUN


# -- names ----------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_listed() -> None:
    for name in mlflow.__all__:
        assert getattr(mlflow, name) is not None and name in dir(mlflow)


@pytest.mark.parametrize("name", ["autolog", "sklearn", "pytorch", "register_model", "start_span", "MlflowClient"])
def test_a_name_that_mlflow_has_and_we_have_not_says_how_to_get_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"trainspool has no {name}: .* MLFLOW_TRACKING_URI=trainspool:") as told:
        getattr(mlflow, name)
    assert isinstance(told.value, mlflow.TrainspoolError) and not hasattr(mlflow, name)


def test_a_name_that_nobody_has_is_pythons_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'trainspool' has no attribute 'log_metrc'$") as told:
        mlflow.log_metrc  # noqa: B018
    assert not isinstance(told.value, mlflow.TrainspoolError)


def test_logging_loads_nothing_that_reads(here: spooled.Place) -> None:
    done = here.run(
        """
        import sys
        import trainspool
        with trainspool.start_run():
            trainspool.log_metric("loss", 1.0)
        print(sorted(m for m in sys.modules if m.startswith(("trainspool.reading", "trainspool.absent"))), end="")
        """
    )
    assert done.out == "[]", done.err


def test_each_function_says_what_it_does() -> None:
    functions = [getattr(mlflow, name) for name in mlflow.__all__ if inspect.isfunction(getattr(mlflow, name))]
    assert [one.__name__ for one in functions if not one.__doc__] == []
