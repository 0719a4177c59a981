"""Which store and which experiment runs land in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spooled import Place, Seen

import trainspool as mlflow
from trainspool.errors import TrainspoolException
from trainspool.spool import events

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("address", ["http://localhost:5000", "https://x", "sqlite:///a.db", "postgresql://x"])
def test_an_address_of_a_server_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(TrainspoolException, match="Next: set_tracking_uri"):
        mlflow.set_tracking_uri(address)


def test_the_store_is_a_folder_absolute_and_told_to_children(here: Place, tmp_path: Path, seen: Seen) -> None:
    assert mlflow.get_tracking_uri() == str(here.store)
    for said in (tmp_path / "other", f"file://{tmp_path}/other", f"file:{tmp_path}/other"):
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
    mlflow.set_experiment(experiment_id="7")
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
