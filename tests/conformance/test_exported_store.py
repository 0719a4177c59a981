"""An export is all of a store or nothing, and says which file stands in the way; real MLflow migrates and reads."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from box import until
from click.testing import CliRunner, Result
from conformance import recipe  # noqa: F401  it allows the file store
from mlflow import MlflowClient

from trainspool_agent import export as package
from trainspool_agent.cli import main
from trainspool_agent.export import ExportFailed, export, migration, target
from trainspool_agent.export.lines import BadLine, look, without_repeats

pytestmark = pytest.mark.filterwarnings("ignore")
TRAINSPOOL = str(Path(sys.executable).with_name("trainspool"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of stock MLflow's that has each kind of thing, and the point twice that its log_model leaves."""

    class Same(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
        def predict(self, context, model_input):  # type: ignore[no-untyped-def]
            return model_input

    root = tmp_path_factory.mktemp("everything") / "mlruns"
    mlflow.set_tracking_uri(str(root))
    try:
        mlflow.set_experiment("all")
        with mlflow.start_run() as run:
            mlflow.log_metric("loss", 1.0, step=0)
            mlflow.log_metric("val/loss", 1.0, step=0)
            mlflow.log_param("lr", 0.1)
            mlflow.log_input(mlflow.data.from_numpy(__import__("numpy").zeros(3), name="d"), context="train")
            mlflow.pyfunc.log_model(name="m", python_model=Same(), registered_model_name="reg one", pip_requirements=[])
        MlflowClient().set_registered_model_alias("reg one", "champion", 1)
        with mlflow.start_span("traced") as span:
            trace = span.trace_id
        mlflow.flush_trace_async_logging()
        mlflow.log_feedback(trace_id=trace, name="good", value=1.0)
        assert run.info.run_id
    finally:
        mlflow.set_tracking_uri(None)
    return root


@pytest.fixture
def store(everything: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(everything, tmp_path / "mlruns"))


def make_store(root: Path, *names: str) -> list[Path]:
    """A small store; return the folders of a run in each experiment."""
    client, found = MlflowClient(str(root)), []
    for name in names or ("one",):
        experiment = client.create_experiment(name)
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "loss", 1.0, step=1)
        found.append(root / experiment / run)
    return found


def test_every_kind_of_thing_is_counted_and_a_point_that_stands_twice_is_one(store: Path, tmp_path: Path) -> None:
    before = sorted(store.rglob("*"))
    said = call("export", "mlflow-db", f"sqlite:///{tmp_path}/all.db", "--store", store)
    assert said.exit_code == 0, said.output
    report = export(store, f"sqlite:///{tmp_path}/again.db")
    one_each = "runs params datasets inputs outputs traces assessments logged_models registered_models model_versions"
    assert {name: report.counts[name] for name in one_each.split()} == dict.fromkeys(one_each.split(), 1)
    assert report.counts["metrics"] == 2 and report.counts["registered_model_aliases"] == 1
    assert report.repeats >= 1 and "metrics/loss:2" in said.output
    client = MlflowClient(f"sqlite:///{tmp_path}/all.db")
    [run] = client.search_runs([client.get_experiment_by_name("all").experiment_id])
    assert run.data.metrics == {"loss": 1.0, "val/loss": 1.0} and len(client.search_model_versions()) == 1
    assert sorted(store.rglob("*")) == before, "the store is only read"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.db", "all.db", "mlruns"]


@pytest.mark.parametrize(
    "torn",
    [
        "*/meta.yaml", "*/traces/*/trace_info.yaml", "*/traces/*/assessments/*.yaml", "*/models/*/meta.yaml",
        "*/datasets/*/meta.yaml", "*/*/inputs/*/meta.yaml", "*/*/outputs/*/meta.yaml", "models/*/meta.yaml",
        "models/*/version-1/meta.yaml", "[0-9]*/*/meta.yaml",
    ],
)  # fmt: skip
def test_a_torn_file_is_named_and_nothing_is_exported(store: Path, tmp_path: Path, torn: str) -> None:
    file = next(path for path in sorted(store.glob(torn)) if path.relative_to(store).parts[0] != "0")
    file.write_bytes(b"name: [")
    with pytest.raises(ExportFailed, match=r"nothing was exported(?s:.*)Next: put it right") as caught:
        export(store, f"sqlite:///{tmp_path}/x.db")
    assert str(file) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_what_mlflow_passes_over_unseen_is_missed_by_the_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "mlruns")
    real = package.counting.count
    monkeypatch.setattr(package.counting, "count", lambda file: {**real(file), "traces": 7})
    with pytest.raises(ExportFailed, match="7 of 0 traces"):
        export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/x.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_a_store_that_grew_meanwhile_is_said_to_be_logged_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [run] = make_store(tmp_path / "mlruns")
    real = package.migrate

    def migrate(store: str, folder: Path, lock: int) -> Path:
        with open(run / "metrics" / "loss", "ab") as file:
            file.write(b"2 2.0 2\n")
        return real(store, folder, lock)

    monkeypatch.setattr(package, "migrate", migrate)
    with pytest.raises(ExportFailed, match=r"a run is being logged to.*Next: the same when it has ended"):
        export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/x.db")


def rename_experiment(run: Path) -> None:
    run.parent.rename(run.parent.with_name("my-experiment"))


def copy_experiment(run: Path) -> None:
    shutil.copytree(run.parent, run.parent.parent / ".trash" / run.parent.name)


def name_twice(run: Path) -> None:
    twin = Path(shutil.copytree(run.parent, run.parent.with_name("77")))
    shutil.rmtree(twin / run.name)


def copy_run(run: Path) -> None:
    shutil.copytree(run, run.with_name("f" * 32))


def lose_experiment(run: Path) -> None:
    (run.parent / "meta.yaml").unlink()


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename_experiment, r"my-experiment: its id is no number.*rename the folder"),
        (copy_experiment, r"has the experiment id \d+, as .*move one of them"),
        (name_twice, r"has the experiment name 'one', as "),
        (copy_run, r"has the run id '\w+', as "),
        (lose_experiment, r"holds runs, and no meta.yaml"),
        (write("metrics/loss", b"1 1.0 9223372036854775808\n"), r"metrics/loss: line 1 has a time or step"),
        (write("metrics/loss", b"1 1.0 1\n170"), r"metrics/loss: line 2 is no `time value step`"),
        (write("metrics/loss", b"1 1.0 1\n1 \xff 1\n"), r"metrics/loss: line 2 is not UTF-8"),
        (write("params/lr", b"\xff"), r"params/lr: is no text.*write it anew"),
        (write("inputs/x/meta.yaml", b"source_id: gone\n"), r"inputs/x: is of a dataset that is not there: gone"),
    ],
)
def test_what_mlflow_would_stop_at_is_said_before_with_the_file(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    [run] = make_store(tmp_path / "mlruns")
    change(run)
    with pytest.raises(ExportFailed, match=f"(?s){said}"):
        export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/x.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_what_only_mlflow_knows_is_shown_as_it_says_it(store: Path, tmp_path: Path) -> None:
    [dataset] = store.glob("*/datasets/*")
    shutil.copytree(dataset, dataset.with_name("another"))
    with pytest.raises(ExportFailed, match=r"(?s)MLflow refuses .*UNIQUE constraint.*Next: mend or move out"):
        export(store, f"sqlite:///{tmp_path}/x.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_linked_runs_long_run_ids_and_the_parent_of_mlruns_are_no_hindrance(tmp_path: Path) -> None:
    linked, long = make_store(tmp_path / "mlruns", "one", "two")
    shutil.move(linked, tmp_path / "scratch")
    linked.symlink_to(tmp_path / "scratch")
    renamed = long.with_name("r" * 40)
    long.rename(renamed)
    text = (renamed / "meta.yaml").read_text()
    (renamed / "meta.yaml").write_text(text.replace(long.name, renamed.name))
    with open(renamed / "metrics" / "loss", "ab") as file:
        file.write((renamed / "metrics" / "loss").read_bytes())
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "meta.yaml").write_text("{% set conda = 1 %}")
    report = export(tmp_path, f"sqlite:///{tmp_path}/x.db")
    assert (report.counts["runs"], report.counts["metrics"], report.repeats) == (2, 2, 1)


def test_a_folder_that_is_no_store_is_refused_with_what_to_do(tmp_path: Path) -> None:
    [run] = make_store(tmp_path / "mlruns")
    for folder, said in (
        (run, "a part of a store"),
        (run.parent, "a part of"),
        (run / "metrics", "no experiment lies"),
    ):
        with pytest.raises(ExportFailed, match=f"{said}.*Next: --store"):
            export(folder, f"sqlite:///{tmp_path}/x.db")
    shutil.copytree(tmp_path / "mlruns", tmp_path / "mlruns" / "mlruns")
    with pytest.raises(ExportFailed, match=r"both hold experiments.*Next: move"):
        export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/x.db")


def test_a_target_inside_a_store_is_refused_and_nothing_is_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [run] = make_store(tmp_path / "mlruns")
    make_store(tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "mlruns")
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path / "mlruns", run, tmp_path / "link", tmp_path / "other"):
        monkeypatch.chdir(folder)
        said = call("export", "mlflow-db", "sqlite:///mlflow.db", "--store", tmp_path / "mlruns")
        assert said.exit_code == 1 and "Next: a place outside" in said.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b", "a b'"])
def test_the_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    make_store(tmp_path / "mlruns")
    shutil.move(tmp_path / "mlruns", folder / "mlruns")
    monkeypatch.chdir(folder)
    said = call("export", "mlflow-db", "sqlite:///mlflow.db")
    assert said.exit_code == 0, said.output
    assert sorted(os.listdir()) == ["mlflow.db", "mlruns"] and os.listdir(tmp_path) == [name]
    with contextlib.closing(sqlite3.connect("mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


@pytest.mark.parametrize("name", ["a?b.db", "a%20b.db"])
def test_a_name_that_an_address_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    make_store(tmp_path / "mlruns")
    with pytest.raises(ExportFailed, match="Next: cd there"):
        export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/{name}")
    assert os.listdir(tmp_path) == ["mlruns"]


@pytest.mark.parametrize("kind", ["journal", "wal"])
def test_what_a_database_of_that_name_left_is_not_taken_for_the_new_ones(tmp_path: Path, kind: str) -> None:
    make_store(tmp_path / "mlruns", "one")
    (tmp_path / f"mlflow.db-{kind}").write_bytes(b"old")
    done = call("export", "mlflow-db", f"sqlite:///{tmp_path}/mlflow.db", "--store", tmp_path / "mlruns")
    assert done.exit_code == 1 and f"mlflow.db-{kind}" in done.stderr and "Next: move it away" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()


def test_a_module_of_the_users_does_not_shadow_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "mlruns")
    (tmp_path / "queue.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert call("export", "mlflow-db", "sqlite:///mlflow.db").exit_code == 0


def test_a_full_disk_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "mlruns")
    program = "raise SystemExit('sqlite3.OperationalError: database or disk is full')"
    monkeypatch.setattr(migration, "PROGRAM", program)
    with pytest.raises(ExportFailed, match=r"not enough space in .*Next: make room"):
        export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/x.db")


STANDING_STILL = """
import os, time
def migrate(source, target, progress):
    open("mlflow.db", "w").close()
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.02)
"""


def start_export(folder: Path, place: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start an export, and wait until it builds; an MLflow at *place* does so as long as the export lives."""
    package_of_it = place / "mlflow" / "store" / "fs2db"
    package_of_it.mkdir(parents=True)
    (package_of_it / "__init__.py").write_text(STANDING_STILL)
    (place / "mlflow" / "__init__.py").touch()
    command = [TRAINSPOOL, "export", "mlflow-db", "sqlite:///x.db"]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(place)})
    built = until(lambda: list(folder.glob(".x.db.unfinished-*/mlflow.db")), "a database is built")
    return process, built[0].parent


def test_what_a_stopped_export_built_is_removed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    make_store(tmp_path / "mlruns")
    process, _ = start_export(tmp_path, tmp_path_factory.mktemp("still"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM and os.listdir(tmp_path) == ["mlruns"]


def test_what_a_killed_export_left_is_removed_by_the_next_and_what_another_builds_is_not(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    make_store(tmp_path / "mlruns")
    process, left = start_export(tmp_path, tmp_path_factory.mktemp("still"))
    assert is_locked(left)
    process.kill()
    process.wait()
    until(lambda: not is_locked(left), "MLflow, which held it too, has left")
    with target.unfinished(tmp_path / "other.db") as (alive, _):
        assert call("export", "mlflow-db", f"sqlite:///{tmp_path}/x.db", "--store", tmp_path / "mlruns").exit_code == 0
        assert not left.exists() and alive.exists()
    assert sorted(os.listdir(tmp_path)) == ["mlruns", "x.db"]


def is_locked(folder: Path) -> bool:
    with open(folder / "trainspool.locked", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_file_system_without_hard_links_gets_its_database_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path / "mlruns")

    def link(source: object, name: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(target.os, "link", link)
    assert export(tmp_path / "mlruns", f"sqlite:///{tmp_path}/x.db").counts["runs"] == 1
    assert sorted(os.listdir(tmp_path)) == ["mlruns", "x.db"]
    (tmp_path / "built").write_text("new")
    with pytest.raises(FileExistsError):
        target.publish(tmp_path / "built", tmp_path / "x.db")


def test_points_that_are_one_to_a_database_are_one() -> None:
    data = b"1 nan 2\n1 NaN 2\n1 inf 3\n1 1.7976931348623157e308 3\n1 0.0 4\n1 -0.0 4 d x\n5 1\n5 1.0 0\n"
    assert look(data) == (4, 4, 2)
    assert without_repeats(data) == b"1 nan 2\n1 inf 3\n1 0.0 4\n5 1\n"
    assert look(without_repeats(data)) == (4, 0, 0)
    with pytest.raises(BadLine, match="line 2 is of the time and step of another"):
        look(b"1 1.0 2 r\n1 2.0 2 r\n", of_a_model=True)
