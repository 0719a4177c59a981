"""A store made from hand-written events, read by real MLflow: client, server, migration, and MLflow 2."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conformance import recipe
from handmade import Stream, feed, open_store

from trainspool.spool import events as ev
from trainspool.spool.experiments import experiment_id_for

FINISHED, FAILED, KILLED, RESUMED, RUNNING = (digit * 32 for digit in "abcde")
CHILD = "0123456789" * 3 + "12"  # all digits: YAML would take it for a number
NAN, INF = float("nan"), float("inf")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with runs of every fate, written in two streams."""
    folder = tmp_path_factory.mktemp("store")
    staging = folder / "staging"
    staging.mkdir()
    (staging / "one").write_bytes("你好".encode())
    (staging / "two").write_bytes(bytes(range(256)) * 300)
    (staging / "tag").write_text("x" * 300_000)
    root = folder / "mlruns"
    opened = open_store(root)
    feed(opened, _first_process(), staging)
    feed(opened, _second_process(), staging)
    asyncio.run(opened.make_durable(all=True))
    opened.close()
    return root


def _first_process() -> Stream:
    stream = Stream()
    stream.event(
        ev.EXPERIMENT, stream.tick(), "/store", None, "图像 分类", ["team", "视觉", "mlflow.note.content", "# hi"]
    )
    run = stream.run(FINISHED, "图像 分类")
    stream.start(run, "第一次 训练: yes", **{"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL"})
    stream.params(run, lr="0.1", **{"优化器/名称": "adam\r\nw", "empty": ""})
    stream.params(run, lr="0.2")
    for step in range(40):
        stream.points(
            run, {"train/损失": 1 / (step + 3), "train/acc": step / 40, "odd": [NAN, INF, -INF, -0.0][step % 4]}, step
        )
    for value in (1e-300, 1.7976931348623157e308, 0.1 + 0.2, -5.0):
        stream.point(run, "values", value, -3)
    stream.tags(run, {"note": "first", "gone": "soon"})
    stream.tags(run, {"note": "第二", "gone": None})
    stream.event(ev.STAGED_TAG, run, stream.tick(), "large", "tag")
    stream.artifact(run, "模型/权重 v1.bin", "two")
    stream.artifact(run, "readme.txt", "one")
    stream.artifact(run, "../../escape", "one")
    stream.frame()
    child = stream.run(CHILD, "图像 分类")
    stream.start(child, "child", **{"mlflow.parentRunId": FINISHED})
    stream.point(child, "loss", 0.5)
    stream.point(child, "loss/fine", 0.25)
    stream.end(child)
    stream.end(run)
    stream.frame()
    failed = stream.run(FAILED, "图像 分类")
    stream.start(failed, "null")
    stream.point(failed, "loss", 3.5, 7)
    stream.end(failed, ev.FAILED, "ValueError: 坏了")
    resumed = stream.run(RESUMED, "other")
    stream.start(resumed, "resumed")
    stream.point(resumed, "loss", 1.0, 1)
    stream.end(resumed, ev.FAILED, "first attempt")
    stream.frame()
    return stream


def _second_process() -> Stream:
    stream = Stream()
    stream.now += 10**12
    killed = stream.run(KILLED, "Default")
    stream.start(killed, '2024-01-01 "quoted" \\ back', k="v")
    stream.point(killed, "loss", 2.0)
    resumed = stream.run(RESUMED, "other")
    stream.start(resumed, None, resume=True)
    stream.point(resumed, "loss", 0.5, 2)
    stream.end(resumed)
    stream.epitaph()
    stream.frame()
    running = Stream()
    number = running.run(RUNNING, "other")
    running.start(number, "running")
    running.point(number, "loss", 9.0)
    running.frame()
    begin = stream.frames[-1].end
    stream.frames += [frame._replace(offset=begin, end=begin + len(frame.events)) for frame in running.frames]
    return stream


@pytest.fixture(scope="module")
def seen(store: Path) -> recipe.Snapshot:
    return recipe.snapshot(store)


def test_every_run_is_there_with_its_fate(seen: recipe.Snapshot) -> None:
    fates = {run_id: (run["info"]["status"], run["exp"]) for run_id, run in seen.items()}
    assert fates == {
        FINISHED: ("FINISHED", "图像 分类"),
        CHILD: ("FINISHED", "图像 分类"),
        FAILED: ("FAILED", "图像 分类"),
        KILLED: ("KILLED", "Default"),
        RESUMED: ("FINISHED", "other"),
        RUNNING: ("RUNNING", "other"),
    }
    assert seen[FINISHED]["eid"] == experiment_id_for("图像 分类")
    assert seen[KILLED]["eid"] == "0"
    assert seen[FAILED]["tags"]["trainspool.end_reason"] == "ValueError: 坏了"
    assert seen[KILLED]["tags"]["trainspool.end_reason"] == "killed by signal 9"
    assert "trainspool.end_reason" not in seen[RESUMED]["tags"]


def test_names_params_and_tags_are_as_logged(seen: recipe.Snapshot) -> None:
    run = seen[FINISHED]
    assert run["info"]["run_name"] == run["tags"]["mlflow.runName"] == "第一次 训练: yes"
    assert run["params"] == {"lr": "0.1", "优化器/名称": "adam\nw", "empty": ""}
    assert run["tags"]["param.lr.v2"] == "0.2"
    assert (run["tags"]["note"], run["tags"]["large"], "gone" in run["tags"]) == ("第二", "x" * 300_000, False)
    assert seen[KILLED]["info"]["run_name"] == '2024-01-01 "quoted" \\ back'
    assert seen[FAILED]["info"]["run_name"] == "null"
    assert seen[CHILD]["tags"]["mlflow.parentRunId"] == FINISHED


def test_points_are_as_logged_with_what_is_not_finite(seen: recipe.Snapshot) -> None:
    history = seen[FINISHED]["hist"]
    assert [value for _, _, value in history["values"]] == [
        "1e-300",
        "1.7976931348623157e+308",
        "0.30000000000000004",
        "-5.0",
    ]
    assert [value for _, _, value in history["odd"][:4]] == ["nan", "inf", "-inf", "-0.0"]
    assert [step for _, step, _ in history["train/损失"]] == list(range(40))


def test_a_key_that_clashes_with_a_folder_is_kept_under_another_name_and_said_so(seen: recipe.Snapshot) -> None:
    history, problem = seen[CHILD]["hist"], seen[CHILD]["tags"]["trainspool.problem"]
    assert history["loss"][0][2] == "0.5"
    (escaped,) = set(history) - {"loss"}
    assert history[escaped][0][2] == "0.25"
    assert "loss/fine" in problem and escaped in problem


def test_artifacts_download_whole_and_none_escapes(store: Path, seen: recipe.Snapshot) -> None:
    assert recipe.check_artifacts(store, seen) == {FINISHED: ["readme.txt", "模型/权重 v1.bin"]}
    assert "escape" in seen[FINISHED]["tags"]["trainspool.problem"]
    assert not list(store.rglob("escape")) and not (store.parent / "escape").exists()


def test_bytes_agree_with_the_client(store: Path, seen: recipe.Snapshot) -> None:
    recipe.check_bytes(store, seen)


def test_migration_to_sql_takes_all_of_it(store: Path, seen: recipe.Snapshot, tmp_path: Path) -> None:
    recipe.check_migration(store, seen, tmp_path)


def test_the_server_says_the_same(store: Path, seen: recipe.Snapshot) -> None:
    recipe.check_rest(store, seen)


def test_latest_metric_agrees_with_mlflow(store: Path, tmp_path: Path, seen: recipe.Snapshot) -> None:
    """What MLflow writes itself for the same points reads the same."""
    from mlflow import MlflowClient

    client = MlflowClient(str(tmp_path / "theirs"))
    run_id = client.create_run(client.create_experiment("x")).info.run_id
    for key, points in seen[FINISHED]["hist"].items():
        for ms, step, value in points:
            client.log_metric(run_id, key, float(value), timestamp=ms, step=step)
    theirs = recipe.snapshot(tmp_path / "theirs")[run_id]
    assert theirs["latest"] == seen[FINISHED]["latest"]
    assert theirs["hist"] == seen[FINISHED]["hist"]


def test_mlflow_2_reads_the_same_store(store: Path, seen: recipe.Snapshot) -> None:
    answer = _read_by_mlflow2(store)
    assert answer["version"].startswith("2.")
    assert answer["runs"].keys() == seen.keys()
    for run_id, theirs in answer["runs"].items():
        ours = seen[run_id]
        assert theirs["hist"] == {key: [list(point) for point in points] for key, points in ours["hist"].items()}
        assert (theirs["params"], theirs["tags"], theirs["exp"]) == (ours["params"], ours["tags"], ours["exp"])
        assert (theirs["status"], theirs["run_name"]) == (ours["info"]["status"], ours["info"]["run_name"])


def _read_by_mlflow2(store: Path) -> dict[str, Any]:
    here = Path(__file__).parent
    python = os.environ.get("TRAINSPOOL_MLFLOW2_PYTHON") or str(here.parents[1] / ".venv-mlflow2/bin/python")
    if not Path(python).exists():
        missing = f"no MLflow 2 at {python}: `make setup` makes it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    done = subprocess.run(
        [python, str(here / "read_by_mlflow2.py"), str(store)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
