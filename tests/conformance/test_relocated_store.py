"""Which addresses of a moved store are mended, and which stay: whatever lies where, real MLflow finds it afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner, Result
from conformance import recipe  # noqa: F401  it allows the file store
from mlflow import MlflowClient

from trainspool import deletion
from trainspool.reading import layout as sdk_layout
from trainspool_agent import relocate as package
from trainspool_agent.cli import main
from trainspool_agent.relocate import rewrite
from trainspool_agent.store import meta

pytestmark = pytest.mark.filterwarnings("ignore")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def make_run(root: Path, text: str | None = "x", location: str | None = None) -> tuple[str, str]:
    """A run of stock MLflow; return the ids of its experiment and itself."""
    client = MlflowClient(str(root))
    found = client.get_experiment_by_name("made")
    experiment = found.experiment_id if found else client.create_experiment("made", location)
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "loss", 1.0)
    if text is not None:
        client.log_text(run, text, "a.txt")
    return experiment, run


def listed(root: Path | str, run: str) -> list[str]:
    return [one.path for one in MlflowClient(str(root)).list_artifacts(run)]


def uri(root: Path, run: str) -> str:
    return str(MlflowClient(str(root)).get_run(run).info.artifact_uri)


def make_beside(root: Path, big: Path) -> tuple[str, str, str]:
    """As `mlflow server --default-artifact-root BIG --no-serve-artifacts`; a run with and one without artifacts."""
    from mlflow.store.tracking.file_store import FileStore

    store = FileStore(str(root), str(big))
    experiment = store.create_experiment("made")
    _, run = make_run(root)
    return experiment, run, make_run(root, None)[1]


def test_artifacts_that_always_lay_outside_the_store_stay_there(tmp_path: Path) -> None:
    root, big = tmp_path / "mlruns", tmp_path / "big" / "art"
    experiment, run, empty = make_beside(root, big)
    said = call("relocate", root)
    assert said.exit_code == 0 and "0 addresses mended" in said.output and "none of them in the store" in said.output
    shutil.move(root, tmp_path / "moved")  # and they did not move with it
    said = call("relocate", tmp_path / "moved")
    assert said.exit_code == 0 and "0 addresses mended" in said.output, said.output
    assert listed(tmp_path / "moved", run) == ["a.txt"]
    assert uri(tmp_path / "moved", empty) == f"{big}/{experiment}/{empty}/artifacts"


def test_an_artifact_root_that_is_not_mounted_now_is_not_forgotten(tmp_path: Path) -> None:
    root, big = tmp_path / "mlruns", tmp_path / "big" / "art"
    _, run, _ = make_beside(root, big)
    shutil.move(tmp_path / "big", tmp_path / "unmounted")
    said = call("relocate", root)
    assert said.exit_code == 0 and f"--from {big}" in said.output and "0 addresses mended" in said.output
    shutil.move(tmp_path / "unmounted", tmp_path / "big")
    assert listed(root, run) == ["a.txt"]


def test_a_copy_is_mended_though_the_old_place_still_has_every_file(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    _, empty = make_run(old, None)
    shutil.copytree(old, new)
    MlflowClient(str(old)).log_text(run, "y", "later.txt")  # the cluster goes on
    assert call("relocate", new).exit_code == 0
    assert listed(new, run) == ["a.txt"]
    assert {uri(new, one) for one in (run, empty)} == {f"{new}/{experiment}/{one}/artifacts" for one in (run, empty)}
    assert listed(old, run) == ["a.txt", "later.txt"], "the old one is as it was"


def test_one_file_that_came_to_the_old_place_afterwards_does_not_make_it_a_place_of_its_own(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    (experiment, run), (_, other), (_, empty) = make_run(old), make_run(old), make_run(old, None)
    _, third = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "new")
    late = old / experiment / run / "artifacts" / "late.txt"  # of a training that went on
    late.parent.mkdir(parents=True)
    late.write_text("x")
    said = call("relocate", new)
    assert f"left {late.parent}: files lie there that are not in the store" in said.output
    assert all(uri(new, one).startswith(str(new)) for one in (other, third, empty))
    assert MlflowClient(str(new)).get_experiment(experiment).artifact_location == f"{new}/{experiment}"


def test_a_copy_without_its_artifacts_keeps_the_addresses_that_have_them(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    _, run = make_run(old)
    shutil.copytree(old, new)
    next(new.glob(f"*/{run}/artifacts/a.txt")).unlink()  # rsync --exclude 'artifacts/*'
    said = call("relocate", new)
    assert f"left {uri(old, run)}" in said.output and uri(new, run) == uri(old, run)


def test_a_moved_store_without_any_artifact_is_mended_on_its_owners_word(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old, None)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert f"say --from {old}" in call("relocate", new).output and uri(new, run).startswith(str(old))
    assert call("relocate", new, "--from", old).exit_code == 0
    assert uri(new, run) == f"{new}/{experiment}/{run}/artifacts"


def test_models_traces_and_the_registry_move_along(tmp_path: Path) -> None:
    class Same(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context: Any, model_input: Any) -> Any:
            return model_input

    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    try:
        mlflow.set_tracking_uri(str(old))
        mlflow.set_experiment("made")
        with mlflow.start_run() as run:
            mlflow.pyfunc.log_model(name="m", python_model=Same(), registered_model_name="reg one", pip_requirements=[])
            mlflow.log_text("x", "model/a.txt")
        with mlflow.start_span("traced") as span:
            trace = span.trace_id
        mlflow.flush_trace_async_logging()
        client = MlflowClient(str(old))
        client.create_model_version("reg one", f"{run.info.artifact_uri}/model", run.info.run_id)  # MLflow 2's way
        client.set_registered_model_alias("reg one", "champion", 1)
        shutil.move(tmp_path / "old", tmp_path / "new")
        said = call("relocate", new)
        assert said.exit_code == 0 and "  left" not in said.output, said.output
        mlflow.set_tracking_uri(str(new))
        for name in ("models:/reg one/1", "models:/reg one@champion"):
            assert mlflow.pyfunc.load_model(name).predict([1]) == [1]
        assert [one.name for one in MlflowClient(str(new)).get_trace(trace).data.spans] == ["traced"]
        second = MlflowClient(str(new)).get_model_version("reg one", "2")
        assert [second.source, MlflowClient(str(new)).get_model_version_download_uri("reg one", "2")] == [
            f"{new}/{run.info.experiment_id}/{run.info.run_id}/artifacts/model"
        ] * 2
    finally:
        mlflow.set_tracking_uri(None)


def test_addresses_behind_links_are_mended_and_links_to_nowhere_are_named(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    _, other = make_run(old)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shutil.move(old / experiment / run, scratch / run)
    (old / experiment / run).symlink_to(scratch / run)
    shutil.move(old / experiment, scratch / experiment)
    (old / experiment).symlink_to(scratch / experiment)
    (old / "77").symlink_to(tmp_path / "nowhere")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert listed(new, run) == []
    said = call("relocate", new)
    assert said.exit_code == 1 and f"{new}/77" in said.output and "which is not there" in said.output
    assert listed(new, run) == listed(new, other) == ["a.txt"]
    assert not list(scratch.rglob(f"{rewrite.PREFIX}*")) and (new / experiment / run).is_symlink()


def test_a_mended_file_keeps_its_owner_and_mode(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    file = new / experiment / run / "meta.yaml"
    shutil.move(tmp_path / "old", tmp_path / "new")
    file.chmod(0o660)
    if os.geteuid() == 0:
        os.chown(file, 1234, 4321)
    before = file.stat()
    assert call("relocate", new).exit_code == 0 and str(new) in file.read_text()
    after = file.stat()
    assert stat.S_IMODE(after.st_mode) == 0o660 and (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_a_deletion_between_reading_and_writing_is_not_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "new")
    folder, threads = new / experiment / run, []

    def replace(path: str, data: bytes, work: str) -> None:
        if path == f"{folder}/meta.yaml":
            place = sdk_layout.find_run(str(new), run)
            threads.append(threading.Thread(target=deletion.mark_run, args=(place,), kwargs={"deleted": True}))
            threads[0].start()
            threads[0].join(0.2)  # without a lock it is through by now
        rewrite.replace(path, data, work)

    monkeypatch.setattr(package, "replace", replace)
    assert call("relocate", new).exit_code == 0
    threads[0].join()
    values = meta.read(folder / "meta.yaml")
    assert values["lifecycle_stage"] == "deleted" and values["artifact_uri"] == f"{folder}/artifacts"


def test_one_bad_file_is_named_and_the_others_are_mended(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    _, linked = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "new")
    file = new / experiment / linked / "meta.yaml"
    shutil.move(file, tmp_path / "elsewhere.yaml")
    file.symlink_to(tmp_path / "elsewhere.yaml")
    folder = new / experiment / ("f" * 32) / "meta.yaml"
    folder.mkdir(parents=True)
    said = call("relocate", new)
    assert said.exit_code == 1 and str(file) in said.output and str(folder) in said.output
    assert listed(new, run) == ["a.txt"]


def test_a_file_that_cannot_be_written_is_named_and_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    _, run = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "new")

    def sync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rewrite.files.fs, "sync", sync)
    said = call("relocate", new)
    assert said.exit_code == 1 and "No space left" in said.output and uri(new, run).startswith(str(old))
    assert not list(new.rglob(f"{rewrite.PREFIX}*"))


def test_a_stopped_call_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    _, run = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "new")
    before = sorted(new.rglob("*"))
    monkeypatch.setattr(rewrite.files.fs, "sync", lambda fd: os.kill(os.getpid(), signal.SIGTERM))
    assert call("relocate", new).exit_code == 128 + signal.SIGTERM
    assert sorted(new.rglob("*")) == before and uri(new, run).startswith(str(old))


def test_what_a_killed_call_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "new")
    left = new / experiment / run / f"{rewrite.PREFIX}1-0"
    left.write_text("half")
    assert call("relocate", new).exit_code == 0 and not left.exists()


def test_a_folder_that_is_no_store_is_refused_with_what_to_do(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    experiment, run = make_run(root)
    for folder in (root / experiment, root / experiment / run, root / ".trash", root / "models"):
        said = call("relocate", folder)
        assert said.exit_code == 1 and "Next: name the store itself" in said.output, said.output
        assert "Kept: the store as it was" in said.output and "spool" not in said.output.replace("trainspool", "")
    assert f"Next: the same with {root}" in call("relocate", tmp_path).output
    assert "Next: name the folder" in call("relocate", root / experiment / run / "artifacts").output


def test_an_experiment_that_lies_in_the_trash_too_is_named(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    experiment, _ = make_run(root)
    shutil.copytree(root / experiment, root / ".trash" / experiment)
    said = call("relocate", root)
    assert said.exit_code == 1 and f"{root}/.trash/{experiment}" in said.output and "move the runs" in said.output


def test_deleted_and_restored_experiments_find_their_artifacts(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "new" / "mlruns"
    experiment, run = make_run(old)
    MlflowClient(str(old)).delete_experiment(experiment)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert call("relocate", new).exit_code == 0
    MlflowClient(str(new)).restore_experiment(experiment)
    assert listed(new, run) == ["a.txt"]


def test_below_a_path_with_an_escape_mlflow_finds_the_files_and_the_user_is_told_how(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "mlruns", tmp_path / "a%20b" / "mlruns"
    _, run = make_run(old)
    shutil.move(tmp_path / "old", tmp_path / "a%20b")
    said = call("relocate", new)
    assert said.exit_code == 0 and f"it opens the store as {new.as_uri()} only" in said.output
    assert "a%2520b" in new.as_uri() and listed(new.as_uri(), run) == ["a.txt"]
    assert "0 addresses mended" in call("relocate", new).output
