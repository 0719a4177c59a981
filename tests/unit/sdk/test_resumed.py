"""A run that was begun before: what it is comes from the store, and only when it is asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from spooled import Place, Seen

import trainspool as mlflow
from trainspool import settling
from trainspool.reading import layout
from trainspool.spool import events, plainyaml
from trainspool.stream import stream

RUN, EXPERIMENT = "c" * 32, "123456789012345678"


@pytest.fixture
def store(here: Place) -> Path:
    """The store that this process logs to, with a run in it that ended long ago."""
    settling._told_at.clear()
    root = Path(stream.store)
    write(root / EXPERIMENT, {"experiment_id": EXPERIMENT, "name": "mnist", "lifecycle_stage": "active"})
    folder = root / EXPERIMENT / RUN
    about = {"run_id": RUN, "experiment_id": EXPERIMENT, "user_id": "u", "status": 3, "run_name": "first"}
    write(folder, {**about, "start_time": 1, "end_time": 2, "artifact_uri": f"{folder}/artifacts"})
    for kind, key, text in (
        ("params", "lr", "0.1"), ("tags", "old", "yes"), ("tags", "gone", "yes"), ("metrics", "epoch", "1 7.0 7\n"),
    ):  # fmt: skip
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / key).write_text(text)
    return root


def write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "meta.yaml").write_bytes(plainyaml.render(values))


def test_a_resumed_run_is_what_the_store_has_and_runs_again(store: Path) -> None:
    with mlflow.start_run(run_id=RUN) as run:
        assert (run.info.run_id, run.info.run_name, run.name) == (RUN, "first", "first")
        assert (run.info.start_time, run.info.user_id, run.info.experiment_id) == (1, "u", EXPERIMENT)
        assert (run.info.status, run.info.end_time) == ("RUNNING", None)
        assert run.experiment.name == "mnist" and run.experiment.experiment_id == EXPERIMENT
        assert mlflow.get_artifact_uri("a") == f"{store}/{EXPERIMENT}/{RUN}/artifacts/a"
        assert int(run.data.metrics["epoch"]) == 7 and run.data.params == {"lr": "0.1"}
        assert run.data.tags == {"old": "yes", "gone": "yes"} and run.inputs.dataset_inputs == []
    assert run.info.status == "FINISHED" and run.info.end_time is not None and run.info.end_time > 2


def test_what_this_process_said_since_comes_on_top(store: Path) -> None:
    with mlflow.start_run(run_id=RUN, tags={"old": "no"}) as run:
        mlflow.log_params({"lr": 0.2, "batch": 3})
        mlflow.set_tag("mlflow.runName", "second")
        mlflow.delete_tag("gone")
        with pytest.raises(mlflow.TrainspoolException, match="No tag with name: gone"):
            mlflow.delete_tag("gone")
        assert run.data.params == {"lr": "0.1", "batch": "3"}, "a param keeps its first value"
        assert run.data.tags == {"old": "no", "mlflow.runName": "second"}
        assert run.info.run_name == run.name == "second"
    with mlflow.start_run(run_id=RUN, run_name="third") as run:
        assert run.info.run_name == "third"


def test_neither_resuming_nor_logging_looks_into_the_store(
    store: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        raise AssertionError("looked")

    monkeypatch.setattr(layout, "find_run", look)
    with mlflow.start_run(run_id=RUN, tags={"a": 1}):
        mlflow.log_metric("loss", 1.0)
        mlflow.log_metrics({"loss": 1.0, "acc": 2.0})
        mlflow.log_params({"p": 1})
        mlflow.set_tags({"b": 2})
        mlflow.log_text("x", "a.txt")
        mlflow.log_metric("loss", 1.0, run_id="d" * 32)
    assert len(seen().of(events.END)) == 1


def test_a_run_that_the_store_does_not_have_is_as_it_was_told(here: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trainspool"), mlflow.start_run(run_id=RUN, experiment_id="7") as run:
        assert (run.info.run_name, run.info.experiment_id, run.info.status) == (RUN[:20], "7", "RUNNING")
    assert not caplog.records, "nothing is waited for, and nothing told, where no agent carries"
    assert run.data.metrics == {} and run.data.params == {}


def test_a_guest_is_what_the_store_has(store: Path) -> None:
    from trainspool.starting import run_for

    guest = run_for(RUN)
    assert (guest.info.status, guest.info.experiment_id, guest.name) == ("FINISHED", EXPERIMENT, "first")
    assert guest.data.metrics == {"epoch": 7.0}
