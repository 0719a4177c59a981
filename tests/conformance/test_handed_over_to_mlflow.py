"""A store that moves on: copied and relocated, merged by rsync, exported to a database; real MLflow reads each."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conformance import recipe  # noqa: F401  it allows the file store
from handmade import Stream, feed, open_store
from mlflow import MlflowClient

from trainspool.spool import events as ev
from trainspool_agent.cli import main
from trainspool_agent.export import ExportFailed, export
from trainspool_agent.relocate import relocate

RUNS = ("a" * 32, "b" * 32)
pytestmark = pytest.mark.filterwarnings("ignore")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def make_store(root: Path, run_id: str = RUNS[0], experiment: str = "moving", value: float = 1.5) -> Path:
    """One ended run with an artifact, a param and two points."""
    staging = root.parent / f"staging of {root.name}"
    staging.mkdir(parents=True)
    (staging / "file").write_bytes(run_id.encode())
    stream = Stream()
    stream.event(ev.EXPERIMENT, stream.tick(), str(root), None, experiment, [])
    run = stream.run(run_id, experiment=experiment)
    stream.start(run, f"run {run_id[0]}")
    stream.params(run, lr="0.1")
    stream.artifact(run, "model/weights #1.bin", "file", 32)
    stream.point(run, "loss", value, 1)
    stream.point(run, "loss", value / 2, 2)
    stream.end(run)
    stream.frame()
    store = open_store(root)
    feed(store, stream, staging)
    store.close()
    return root


def artifacts(root: Path) -> dict[str, list[str]]:
    client = MlflowClient(str(root))
    return {
        run.info.run_id: [one.path for one in client.list_artifacts(run.info.run_id, "model")]
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    }


def test_after_a_copy_mlflow_finds_the_files_again(tmp_path: Path) -> None:
    make_store(tmp_path / "cluster" / "mlruns")
    moved = tmp_path / "my laptop" / "runs"
    shutil.copytree(tmp_path / "cluster" / "mlruns", moved)
    shutil.rmtree(tmp_path / "cluster")
    assert artifacts(moved) == {RUNS[0]: []}, "what users meet"
    said = call("relocate", moved, "--dry-run")
    assert "would be mended" in said.output and artifacts(moved) == {RUNS[0]: []}
    said = call("relocate", moved)
    assert said.exit_code == 0 and "3 addresses mended, 0 were right" in said.output, said.output  # Default's, too
    assert artifacts(moved) == {RUNS[0]: ["model/weights #1.bin"]}
    experiment = MlflowClient(str(moved)).get_experiment_by_name("moving")
    assert experiment is not None and experiment.artifact_location == f"{moved}/{experiment.experiment_id}"
    assert "0 addresses mended, 3 were right" in call("relocate", moved).output


def test_what_mlflow_itself_wrote_is_mended_in_its_own_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old runs", tmp_path / "new runs"
    client = MlflowClient(old.as_uri())
    ours, elsewhere = client.create_experiment("ours"), client.create_experiment("s3", "s3://bucket/place")
    run = client.create_run(ours)
    client.log_text(run.info.run_id, "x", "model/a.txt")
    client.create_run(elsewhere)
    client.delete_experiment(elsewhere)
    shutil.move(old, new)
    report = relocate(new)
    assert {one.address for one in report.left} == {
        "s3://bucket/place",
        *(one.address for one in report.left if one.address.startswith("s3://bucket/place/")),
    } and len(report.left) == 2
    assert artifacts(new)[run.info.run_id] == ["model/a.txt"]
    after = MlflowClient(str(new)).get_run(run.info.run_id).info.artifact_uri
    assert after is not None and after.startswith("file:///") and "new%20runs" in after


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_mended(tmp_path: Path) -> None:
    make_store(tmp_path / "mlruns")
    shutil.move(tmp_path / "mlruns", tmp_path / "runs")
    [folder] = (tmp_path / "runs").glob(f"*/{RUNS[0]}")
    torn = folder.with_name("c" * 32)
    torn.mkdir()
    (torn / "meta.yaml").write_text("artifact_uri: [")
    said = call("relocate", tmp_path / "runs")
    assert said.exit_code == 1 and str(torn) in said.output and "3 addresses mended" in said.output
    nothing = call("relocate", tmp_path)
    assert nothing.exit_code == 1 and "Next: name the folder" in nothing.output


def test_stores_of_two_boxes_merged_by_copying_are_one_store(tmp_path: Path) -> None:
    one, two = make_store(tmp_path / "one" / "mlruns"), make_store(tmp_path / "two" / "mlruns", RUNS[1], value=8.0)
    shutil.copytree(two, one, dirs_exist_ok=True)  # rsync -a two/mlruns/ one/mlruns/
    shutil.rmtree(tmp_path / "two")
    relocate(one)
    client = MlflowClient(str(one))
    found = client.get_experiment_by_name("moving")
    assert found is not None and len(client.search_experiments()) == 2, "the same name has the same id on both boxes"
    assert {run.info.run_id for run in client.search_runs([found.experiment_id])} == set(RUNS)
    assert artifacts(one) == {run_id: ["model/weights #1.bin"] for run_id in RUNS}
    report = export(one, f"sqlite:///{tmp_path}/both.db")
    counted = ("experiments", "runs", "metrics", "params")
    assert [report.counts[name] for name in counted] == [2, 2, 4, 2] and report.repeats == 0


def test_an_export_holds_what_the_store_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "mlruns")
    monkeypatch.chdir(tmp_path)
    said = call("export", "mlflow-db", "sqlite:///mlflow.db")
    assert said.exit_code == 0 and "1 runs, 2 points, 1 params" in said.output, said.output
    assert sorted(path.name for path in tmp_path.iterdir() if "mlflow" in path.name) == ["mlflow.db"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [point.value for point in client.get_metric_history(RUNS[0], "loss")] == [1.5, 0.75]
    assert [one.path for one in client.list_artifacts(RUNS[0], "model")] == ["model/weights #1.bin"]
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again = call("export", "mlflow-db", "sqlite:///mlflow.db")
    assert again.exit_code == 1 and "is not overwritten" in again.output


@pytest.mark.parametrize(
    ("target", "next_step"),
    [("postgresql://host/db", "sqlite:///"), ("sqlite:///", "sqlite:///"), ("sqlite:////nowhere/at/all.db", "mkdir")],
)
def test_a_target_that_cannot_be_is_refused_with_what_to_do(tmp_path: Path, target: str, next_step: str) -> None:
    with pytest.raises(ExportFailed, match=f"Next: .*{next_step}"):
        export(make_store(tmp_path / "mlruns"), target)
