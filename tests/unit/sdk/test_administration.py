"""Experiments and runs made, tagged, deleted and restored, where no agent carries."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spooled
from faults import KILLED, FaultyFiles, Killed, under

import trainspool as mlflow
from trainspool import administration, deletion
from trainspool.errors import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from trainspool.reading import layout, meta
from trainspool.spool import events, metalock, plainyaml
from trainspool.spool.experiments import experiment_id_for
from trainspool.stream import stream

RUN, DELETED = "c" * 32, "d" * 32
NUMBER = "123456789012345678"


@pytest.fixture
def store(here: spooled.Place) -> Path:
    administration._made.clear()
    root = Path(stream.store)
    for number, name in (("0", "Default"), (NUMBER, "mnist")):
        write(root / number, {"experiment_id": number, "name": name, "lifecycle_stage": "active", "note": "a person's"})
    (root / NUMBER / "tags").mkdir()
    (root / NUMBER / "tags" / "team").write_text("vision")
    for run_id, stage in ((RUN, "active"), (DELETED, "deleted")):
        about = {"run_id": run_id, "experiment_id": NUMBER, "user_id": "u", "status": 1, "start_time": 1}
        write(root / NUMBER / run_id, {**about, "end_time": None, "lifecycle_stage": stage, "note": "a person's"})
    return root


def write(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "meta.yaml").write_bytes(plainyaml.render(values))


def experiment_events(place: spooled.Place) -> list[list[Any]]:
    assert mlflow.flush(timeout=20)
    return [event[2:] for event in place.stream().of(events.EXPERIMENT)]


# -- making and tagging ---------------------------------------------------------------------------------------------


def test_an_experiment_is_made_by_an_event_of_its_own_before_it_gets_its_tags(store: Path, here: spooled.Place) -> None:
    number = mlflow.create_experiment("new", tags={"team": "audio", "n": 5, "none": None})
    assert number == experiment_id_for("new")
    where = [str(store), number, "new"]
    assert experiment_events(here) == [[*where, []], [*where, ["team", "audio", "n", "5", "none", ""]]]


def test_runs_start_in_the_experiment_that_was_made(store: Path) -> None:
    with mlflow.start_run(experiment_id=mlflow.create_experiment("new")) as run:
        assert run.experiment.name == "new"


def given_by_the_store() -> str:
    return "mnist"


def made_before() -> str:
    mlflow.create_experiment("new")
    return "new"


def set_before() -> str:
    return mlflow.set_experiment("new").name


@pytest.mark.parametrize("given", [given_by_the_store, made_before, set_before])
def test_a_name_is_given_once(store: Path, given: Callable[[], str]) -> None:
    name = given()
    with pytest.raises(mlflow.TrainspoolException, match=f"Experiment '{name}' already exists") as told:
        mlflow.create_experiment(name)
    assert told.value.error_code == RESOURCE_ALREADY_EXISTS


def test_a_deleted_experiment_keeps_its_name(store: Path) -> None:
    mlflow.delete_experiment(NUMBER)
    with pytest.raises(mlflow.TrainspoolException, match="already exists in deleted state"):
        mlflow.create_experiment("mnist")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "Invalid experiment name"),
        ({"name": "it's"}, "single quote"),
        ({"name": "x", "tags": {"a//b": 1}}, "Names may be treated as files"),
        ({"name": "x", "tags": {"a": "x" * 20_001}}, "exceeds the maximum length"),
        ({"name": "x", "artifact_location": "s3://bucket/x"}, "leave out artifact_location"),
        ({"name": "x", "trace_location": object()}, "Unity Catalog"),
    ],
)
def test_what_cannot_be_made_is_told_and_nothing_is_logged(
    store: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(mlflow.TrainspoolException, match=message):
        mlflow.create_experiment(**arguments)
    assert stream.pump is None


def test_artifacts_stay_in_the_store_and_another_folder_is_warned_of(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.create_experiment("one", artifact_location=(store / experiment_id_for("one")).as_uri())
    assert "artifact_location" not in caplog.text
    mlflow.create_experiment("two", artifact_location="/elsewhere")
    assert "not in artifact_location '/elsewhere'" in caplog.text


def test_tags_are_set_by_events_and_reading_nothing(store: Path, here: spooled.Place) -> None:
    mlflow.set_experiment("mnist")
    mlflow.set_experiment_tag("a", 1)
    mlflow.set_experiment_tags({"b": "x", "c": "y" * 20_000, "d": "z"})
    where = [str(store), experiment_id_for("mnist"), "mnist"]
    assert experiment_events(here)[1:] == [
        [*where, ["a", "1"]],
        [*where, ["b", "x", "c", "y" * 20_000]],
        [*where, ["d", "z"]],
    ]


def test_a_tag_that_is_there_is_deleted_by_an_event(store: Path, here: spooled.Place) -> None:
    os.environ["TRAINSPOOL_EXPERIMENT"] = "mnist"
    mlflow.delete_experiment_tag("team")
    assert experiment_events(here) == [[str(store), experiment_id_for("mnist"), "mnist", ["team", None]]]


def test_a_tag_that_is_not_there_cannot_be_deleted(store: Path) -> None:
    os.environ["TRAINSPOOL_EXPERIMENT"] = "mnist"
    with pytest.raises(mlflow.TrainspoolException, match=f"No tag with name: none in experiment with id {NUMBER}"):
        mlflow.delete_experiment_tag("none")
    mlflow.delete_experiment(NUMBER)
    with pytest.raises(mlflow.TrainspoolException, match="must be in the 'active' lifecycle_stage"):
        mlflow.delete_experiment_tag("team")


# -- deleting and restoring -----------------------------------------------------------------------------------------


def stored(folder: Path) -> dict[str, Any]:
    return meta.read(str(folder))


def test_a_run_is_deleted_and_restored_and_all_else_stays(store: Path) -> None:
    folder = store / NUMBER / RUN
    before = stored(folder)
    mlflow.delete_run(RUN)
    deleted = stored(folder)
    assert deleted.pop("deleted_time") > 0
    assert deleted == {**before, "lifecycle_stage": "deleted"}
    assert mlflow.get_run(RUN).info.lifecycle_stage == "deleted"
    mlflow.restore_run(RUN)
    assert stored(folder) == before
    assert list((store / NUMBER / ".trainspool").iterdir()) == []


def test_an_experiment_goes_to_the_trash_with_its_runs_and_comes_back(store: Path) -> None:
    mlflow.delete_experiment(NUMBER)
    trashed = store / ".trash" / NUMBER
    assert not (store / NUMBER).exists() and stored(trashed)["lifecycle_stage"] == "deleted"
    assert {stored(trashed / run)["lifecycle_stage"] for run in (RUN, DELETED)} == {"deleted"}
    assert mlflow.get_experiment(NUMBER).lifecycle_stage == "deleted"
    assert mlflow.get_run(RUN).info.lifecycle_stage == "deleted"
    mlflow.restore_experiment(NUMBER)
    back = stored(store / NUMBER)
    assert (back["lifecycle_stage"], back["note"]) == ("active", "a person's") and back["last_update_time"] > 0
    assert not trashed.exists()
    assert {stored(store / NUMBER / run)["lifecycle_stage"] for run in (RUN, DELETED)} == {"active"}


@pytest.mark.parametrize(
    ("call", "message", "code"),
    [
        (lambda: mlflow.delete_run("e" * 32), f"Run '{'e' * 32}' not found", RESOURCE_DOES_NOT_EXIST),
        (lambda: mlflow.restore_run("e" * 32), "not found", RESOURCE_DOES_NOT_EXIST),
        (lambda: mlflow.delete_experiment("77"), "Could not find experiment with ID 77", RESOURCE_DOES_NOT_EXIST),
        (lambda: mlflow.restore_experiment(NUMBER), "Could not find deleted experiment", RESOURCE_DOES_NOT_EXIST),
        (lambda: mlflow.delete_experiment("0"), "Cannot delete the default experiment '0'", "INVALID_PARAMETER_VALUE"),
    ],
)
def test_what_is_not_there_is_told_as_mlflow_tells_it(
    store: Path, call: Callable[[], None], message: str, code: str
) -> None:
    with pytest.raises(mlflow.TrainspoolException, match=message) as told:
        call()
    assert told.value.error_code == code


def test_an_experiment_is_not_restored_over_one_in_use(store: Path) -> None:
    mlflow.delete_experiment(NUMBER)
    write(store / NUMBER, {"experiment_id": NUMBER, "name": "another", "lifecycle_stage": "active"})
    with pytest.raises(mlflow.TrainspoolException, match="An experiment with same ID already exists"):
        mlflow.restore_experiment(NUMBER)


def test_a_run_that_cannot_be_read_stops_no_deletion_of_the_experiment(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (store / NUMBER / RUN / "meta.yaml").write_text("")
    with pytest.raises(mlflow.TrainspoolException, match="metadata is in invalid state"):
        mlflow.delete_run(RUN)
    mlflow.delete_experiment(NUMBER)
    assert (store / ".trash" / NUMBER / RUN / "meta.yaml").read_text() == "" and RUN in caplog.text


def test_where_nothing_is_logged_on_purpose_nothing_is_deleted(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_DISABLED", "1")
    mlflow.delete_run(RUN)
    mlflow.delete_experiment(NUMBER)
    assert stored(store / NUMBER / RUN)["lifecycle_stage"] == "active"
    assert mlflow.create_experiment("new") == experiment_id_for("new") and not (store / "new").exists()


def test_two_who_change_one_meta_take_turns(store: Path) -> None:
    folder = store / NUMBER / RUN
    place = layout.find_run(str(store), RUN)
    assert place is not None
    with metalock.held(str(folder / "meta.yaml")):
        values = stored(folder)
        other = threading.Thread(target=deletion.mark_run, args=(place,), kwargs={"deleted": True})
        other.start()
        (folder / "meta.yaml").write_bytes(plainyaml.render({**values, "status": 3}))
    other.join()
    assert (stored(folder)["status"], stored(folder)["lifecycle_stage"]) == (3, "deleted")


def test_one_who_was_stopped_holding_the_lock_stops_nobody(store: Path) -> None:
    with metalock.held(str(store / NUMBER / RUN / "meta.yaml")):
        mlflow.delete_run(RUN)
    assert stored(store / NUMBER / RUN)["lifecycle_stage"] == "deleted"


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, KILLED])
@pytest.mark.parametrize("deleting", [True, False])
def test_what_broke_off_at_any_step_is_done_by_the_same_call_again(
    store: Path, tmp_path: Path, error: int | str, deleting: bool
) -> None:
    if not deleting:
        mlflow.delete_experiment(NUMBER)
    call = mlflow.delete_experiment if deleting else mlflow.restore_experiment
    before = shutil.copytree(store, tmp_path / "before")
    disk, step = FaultyFiles(), 0
    while True:
        step += 1
        disk.steps = disk.failed = 0
        disk.fail_at(step, error, until_healed=error != KILLED)
        with under(disk):
            with contextlib.suppress(OSError, Killed):
                call(NUMBER)
            disk.heal()
            if not disk.failed:
                break
            assert len(mlflow.search_runs([NUMBER], run_view_type=3, output_format="list")) == 2, "all can be read"
            if (store / ".trash" / NUMBER).exists() != deleting:
                call(NUMBER)
        check_stage(store, deleted=deleting)
        shutil.rmtree(store)
        shutil.copytree(before, store)
    assert step > 10
    check_stage(store, deleted=deleting)


def check_stage(store: Path, *, deleted: bool) -> None:
    folder = store / (".trash" if deleted else "") / NUMBER
    stages = {stored(one)["lifecycle_stage"] for one in (folder, folder / RUN, folder / DELETED)}
    assert stages == {"deleted" if deleted else "active"}


def test_none_is_told_as_mlflow_tells_it(store: Path, here: spooled.Place) -> None:
    mlflow.set_experiment_tag("q", None)
    mlflow.set_experiment_tags({"w": None})
    assert [event[3] for event in experiment_events(here)] == [["q", "None"], ["w", "None"]]
