"""Which store and which experiment runs land in."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from spooled import Place, Seen

import trainspool as mlflow
from trainspool.errors import TrainspoolException
from trainspool.spool import events, plainyaml
from trainspool.spool.experiments import experiment_id_for
from trainspool.stream import stream

pytestmark = pytest.mark.usefixtures("here")


def make_experiment(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    about = {"experiment_id": folder.name, "name": name, "lifecycle_stage": "active"}
    (folder / "meta.yaml").write_bytes(plainyaml.render(about))


@pytest.mark.parametrize("address", ["http://localhost:5000", "https://x", "sqlite:///a.db", "postgresql://x"])
def test_an_address_of_a_server_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(TrainspoolException, match="Next: set_tracking_uri"):
        mlflow.set_tracking_uri(address)


def test_the_store_is_a_folder_absolute_and_told_to_children(here: Place, tmp_path: Path, seen: Seen) -> None:
    assert mlflow.get_tracking_uri() == str(here.store)
    other = f"{tmp_path}/other"
    for said in (Path(other), f"file://{other}", f"file:{other}", f"trainspool://{other}", "trainspool:"):
        mlflow.set_tracking_uri(said)
        assert mlflow.get_tracking_uri() == os.environ["TRAINSPOOL_STORE"] == str(tmp_path / "other")
    assert mlflow.is_tracking_uri_set()
    with mlflow.start_run() as run:
        assert mlflow.get_artifact_uri("a/b") == f"{tmp_path}/other/0/{run.info.run_id}/artifacts/a/b"


def test_an_experiment_is_chosen_by_name_or_id(seen: Seen) -> None:
    made = mlflow.set_experiment("mnist")
    assert made.name == "mnist" and len(made.experiment_id) == 18
    with mlflow.start_run() as run:
        assert run.info.experiment_id == made.experiment_id
    make_experiment(Path(mlflow.get_tracking_uri(), "7"), "by MLflow")
    assert mlflow.set_experiment(experiment_id="7").name == "by MLflow"
    with mlflow.start_run() as run:
        assert run.info.experiment_id == "7"
    with mlflow.start_run(experiment_id="0") as run:
        assert run.info.experiment_id == "0"
    for wrong in (
        {},
        {"experiment_name": "a", "experiment_id": "1"},
        {"experiment_name": ""},
        {"experiment_id": "a/b"},
    ):
        with pytest.raises(TrainspoolException):
            mlflow.set_experiment(**wrong)
    assert [(event[3], event[4]) for event in seen().of(events.EXPERIMENT)] == [
        (made.experiment_id, "mnist"),
        ("7", None),
    ]


def test_the_environment_names_experiment_and_run(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_EXPERIMENT", "from outside")
    monkeypatch.setenv("TRAINSPOOL_RUN_NAME", "named outside")
    with mlflow.start_run() as run:
        assert run.experiment.name == "from outside" and run.info.run_name == "named outside"
    with mlflow.start_run(run_name="argument") as run:
        assert run.info.run_name == "argument"


@pytest.fixture
def unsaid(here: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody says where runs land; the folder of the process."""
    monkeypatch.delenv("TRAINSPOOL_STORE")
    monkeypatch.chdir(here.folder)
    return here.folder


@pytest.mark.parametrize("uri", ["{}/theirs", "file://{}/theirs", "trainspool://{}/theirs", "theirs"])
def test_mlflows_tracking_address_names_the_folder(unsaid: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(unsaid))
    assert mlflow.is_tracking_uri_set()
    assert mlflow.get_tracking_uri() == f"{unsaid}/theirs" and mlflow.is_tracking_uri_set()
    with mlflow.start_run() as run:
        assert run.info.artifact_uri.startswith(f"{unsaid}/theirs/0/")


@pytest.mark.parametrize("uri", ["https://tracking:5000", "postgresql://me:secret@db/runs", "databricks"])
def test_mlflows_server_is_warned_of_once_and_runs_go_on(
    unsaid: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not mlflow.is_tracking_uri_set()
    with caplog.at_level(logging.WARNING, "trainspool"):
        for _ in range(2):
            with mlflow.start_run() as run:
                mlflow.log_metric("a", 1)
    assert run.store == f"{unsaid}/mlruns" and not mlflow.is_tracking_uri_set()
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"runs go to {unsaid}/mlruns. Next: TRAINSPOOL_STORE=<folder>, or MLflow itself with " in told
    assert "MLFLOW_TRACKING_URI=trainspool:" in told and "secret" not in told


def test_a_store_that_nobody_named_is_not_set_because_it_was_asked_for(unsaid: Path) -> None:
    assert mlflow.get_tracking_uri() == f"{unsaid}/mlruns" and not mlflow.is_tracking_uri_set()
    mlflow.set_tracking_uri("trainspool:")
    assert mlflow.get_tracking_uri() == f"{unsaid}/mlruns" and mlflow.is_tracking_uri_set()


def test_mlflows_variables_name_experiment_and_run(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_RUN_ID", "ab" * 16)
    with mlflow.start_run() as run:
        assert (run.run_id, run.experiment.experiment_id) == ("ab" * 16, "7") and "MLFLOW_RUN_ID" not in os.environ
    with mlflow.start_run() as run:
        assert run.run_id != "ab" * 16 and run.experiment.experiment_id == "7"
    mlflow.set_experiment("mnist")
    with mlflow.start_run() as run:
        assert run.experiment.name == "mnist"
    assert [event[3]["resume"] for event in seen().of(events.START)] == [True, False, False]


def test_a_run_that_trainspool_hands_over_is_not_followed_by_one_of_mlflows(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINSPOOL_RUN_ID", "ab" * 16)
    monkeypatch.setenv("MLFLOW_RUN_ID", "cd" * 16)
    with mlflow.start_run() as run:
        assert run.run_id == "ab" * 16
    with mlflow.start_run() as run:
        assert run.run_id not in ("ab" * 16, "cd" * 16)


def test_an_id_that_nobody_knows_is_no_experiment_to_set(seen: Seen) -> None:
    with pytest.raises(TrainspoolException, match="Could not find experiment with ID 987654321") as told:
        mlflow.set_experiment(experiment_id="987654321")
    assert told.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert stream.pump is None, "nothing was logged"
    with mlflow.start_run() as run:
        assert run.info.experiment_id == "0"
    assert mlflow.set_experiment(experiment_id="0").name == "Default"
    with pytest.raises(TrainspoolException, match="Could not find"):
        mlflow.set_experiment(experiment_id="987654321")
    with mlflow.start_run(experiment_id="987654321"):
        pass
    mlflow.set_experiment(experiment_id="987654321")


def test_an_experiment_of_this_process_is_set_by_its_id_without_the_store(seen: Seen) -> None:
    made = mlflow.set_experiment("mnist")
    mlflow.set_experiment("another")
    assert mlflow.set_experiment(experiment_id=made.experiment_id) == made
    assert made.experiment_id == experiment_id_for("mnist")


def test_where_nothing_is_logged_on_purpose_any_experiment_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_DISABLED", "1")
    assert mlflow.set_experiment(experiment_id="987654321").experiment_id == "987654321"
