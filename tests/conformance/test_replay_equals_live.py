"""A store made again from the spool equals the one that the agent made live: byte for byte, and to MLflow's eyes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import SHARED_MEMORY, Box, until
from conformance import recipe
from handmade import contents

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

TRAINER = """
import sys
import trainspool as mlflow
def log_media(number):
    import numpy as np
    pixels = np.arange(48 * 40 * 3, dtype=np.uint8).reshape(48, 40, 3)
    mlflow.log_image(pixels + number, key="val/picture", step=number)
    mlflow.log_image(pixels / 300, "float.png")
    mlflow.log_histogram("w", pixels, step=number)
    mlflow.log_audio(np.sin(np.arange(8000) / 9), 8000, key="a")
    for row in range(5):
        mlflow.log_table({"row": [row], "text": ["é"]}, "tables/all.json")
    mlflow.log_table({"other": [1.5]}, "tables/all.json")
    data = {"name": "digits", "digest": "5e1f", "source_type": "local", "source": "{}"}
    mlflow.log_input(data, context="train")
name, runs, ending = sys.argv[1], int(sys.argv[2]), sys.argv[3]
mlflow.set_experiment("replay " + name)
for number in range(runs):
    with mlflow.start_run(run_name=f"{name} 第{number}"):
        mlflow.log_params({"lr": 0.1 * number, "优化器/name": "adam"})
        for step in range(400):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
            odd = [float("nan"), float("inf"), -0.0][step % 3]
            mlflow.log_metrics({"acc/train": step * 0.25, "odd": odd}, step=step)
        mlflow.set_tags({"note": "first", "gone": "soon"})
        mlflow.set_tag("note", "第二")
        mlflow.set_tag("large", "x" * 300_000)
        mlflow.log_text(f"{name} {number}", "文本/总结.txt")
        log_media(number)
        if number == 1:
            try:
                with mlflow.start_run(nested=True, run_name="fails"):
                    mlflow.log_metric("loss", 3.0)
                    raise ValueError("坏了")
            except ValueError:
                pass
        if ending == "killed" and number == runs - 1:
            import os, signal
            mlflow.flush()
            mlflow.log_metric("last", 1.0)
            os.kill(os.getpid(), signal.SIGKILL)
"""
LEFT_OPEN = """
import os
import trainspool as mlflow
mlflow.start_run()
mlflow.log_metric("loss", 1.0)
mlflow.flush()
os.kill(os.getpid(), 9)
"""


def replay(box: Box, *arguments: object, status: int = 0) -> dict[str, Any]:
    """Run ``trainspool replay --json``; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "trainspool_agent", "replay", "--json", *map(str, arguments)],
        env=box.environment, cwd=box.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-3000:])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def comparable(root: Path) -> dict[str, bytes]:
    """Every file of every run and experiment; of meta.yaml not what names the root, or when an experiment was made."""
    found = contents(root)
    for name in found:
        if name.endswith("meta.yaml"):
            own = (b"artifact_uri", b"artifact_location", b"creation_time", b"last_update_time")
            found[name] = b"".join(line for line in found[name].splitlines(keepends=True) if not line.startswith(own))
    return found


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Three processes carried live, one of them killed with events in its ring; the agent has left."""
    with Box(tmp_path_factory.mktemp("replay")) as made:
        agent = made.start_agent()
        assert made.run(TRAINER, "one", 3, "orderly").returncode == 0
        assert made.run(TRAINER, "two", 2, "orderly").returncode == 0
        assert made.run(TRAINER, "three", 2, "killed").returncode == -9
        until(made.is_quiet, "all carried")
        made.stop(agent)
        assert len(made.stored()) == 10
        yield made


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path / "again"


@pytest.fixture
def live(box: Box, tmp_path: Path) -> Path:
    """A copy of the store that the agent made, checkpoints included."""
    copy = tmp_path / "live"
    shutil.copytree(box.store, copy)
    return copy


def test_a_store_made_again_equals_the_live_one_byte_for_byte(box: Box, empty: Path) -> None:
    said = replay(box, box.spool, "--to", empty)
    assert said["ok"] and said["runs"] == 10 and said["missing_artifacts"] == 0
    assert comparable(empty) == comparable(box.store)
    for run in empty.glob("*/*/meta.yaml"):
        assert f'artifact_uri: "{run.parent}/artifacts"\n' in run.read_text()


def test_replaying_twice_writes_nothing(box: Box, empty: Path) -> None:
    replay(box, box.spool, "--to", empty)
    before = contents(empty)
    said = replay(box, box.spool, "--to", empty)
    assert said["stored"] == said["points"] == 0
    said = replay(box, box.spool, "--to", empty, "--again")
    assert said["stored"] == 0 and said["folded"] > 5000
    assert contents(empty) == before


def test_streams_copied_apart_come_in_any_order(box: Box, tmp_path: Path) -> None:
    copies = [tmp_path / name for name in ("一", "copied", "three")]
    for copy, stream in zip(copies, box.streams(), strict=True):
        shutil.copytree(stream, copy / "some folder")
    there, back = tmp_path / "there", tmp_path / "back"
    for copy in copies:
        replay(box, copy, "--to", there)
    for copy in reversed(copies):
        replay(box, copy, copy / "some folder", "--to", back)
    assert comparable(there) == comparable(back) == comparable(box.store)


def test_replay_into_the_live_store_adds_nothing(box: Box, live: Path) -> None:
    before = contents(live, without=())
    said = replay(box, box.spool, "--to", live)
    assert said["ok"] and said["points"] == 0
    assert contents(live, without=()) == before


def test_a_metric_file_that_was_removed_comes_back_and_the_account_stays(box: Box, live: Path) -> None:
    [file, *_] = sorted(live.glob("*/*/metrics/acc/train"))
    run, text = file.parents[2], file.read_bytes()
    param = run / "params" / "lr"
    said_of_it, value = account(box, live, run.name), param.read_bytes()
    file.unlink()
    param.unlink()
    said = replay(box, box.spool, "--to", live)
    assert (said["stored"], said["runs"]) == (text.count(b"\n"), 1)
    assert (file.read_bytes(), param.read_bytes()) == (text, value)
    assert account(box, live, run.name) == said_of_it
    assert replay(box, box.spool, "--to", live)["points"] == 0


def test_a_metric_file_that_was_cut_is_whole_again(box: Box, live: Path) -> None:
    file = sorted(live.glob("*/*/metrics/loss"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2 + 3])
    replay(box, box.spool, "--to", live)
    assert file.read_bytes() == whole


def test_what_people_removed_comes_back_with_again_alone(box: Box, live: Path) -> None:
    tag, artifact = sorted(live.glob("*/*/tags/note"))[0], sorted(live.glob("*/*/artifacts/文本/总结.txt"))[0]
    edited = sorted(live.glob("*/*/tags/large"))[0]
    edited.write_text("mine")
    before = comparable(live)
    tag.unlink()
    artifact.unlink()
    replay(box, box.spool, "--to", live)
    assert not tag.exists() and not artifact.exists()
    replay(box, box.spool, "--to", live, "--again")
    assert comparable(live) == before and edited.read_text() == "mine"


def test_lost_checkpoints_cost_a_second_look_and_change_nothing(box: Box, live: Path) -> None:
    before = comparable(live)
    for path in live.rglob("trainspool.*"):
        path.unlink()
    said = replay(box, box.spool, "--to", live)
    assert said["runs"] == 10
    assert comparable(live) == before


def test_a_run_whose_folder_or_meta_is_gone_is_made_again(box: Box, live: Path) -> None:
    before = comparable(live)
    runs = sorted(path.parent for path in live.glob("*/*/meta.yaml"))
    shutil.rmtree(runs[0])
    (runs[1] / "meta.yaml").unlink()
    replay(box, box.spool, "--to", live)
    assert comparable(live) == before


def test_a_filtered_replay_takes_whole_runs_and_others_later(box: Box, empty: Path) -> None:
    preview = replay(box, box.spool, "--to", empty, "--experiment", "replay two", "--dry-run")["runs"]
    assert not empty.exists() and len(preview) == 3
    said = replay(box, box.spool, "--to", empty, "--experiment", "replay two")
    assert said["points"] == sum(run["points"] for run in preview) and said["runs"] == 3
    assert {path.name for path in empty.glob("[1-9]*/*") if len(path.name) == 32} == {run["run_id"] for run in preview}
    one = preview[0]["run_id"]
    other = empty.with_name("other")
    assert replay(box, box.spool, "--to", other, "--run", one[:12])["runs"] == 1
    began = sorted(run["began"] for run in replay(box, box.spool, "--to", other, "--dry-run")["runs"])
    assert replay(box, box.spool, "--to", other, "--until", "2001-01-01", "--dry-run")["runs"] == []
    assert len(replay(box, box.spool, "--to", other, "--since", "2001-01-01", "--dry-run")["runs"]) == len(began)
    replay(box, box.spool, "--to", empty)
    assert comparable(empty) == comparable(box.store)


def test_mlflow_reads_what_was_replayed(box: Box, empty: Path, tmp_path: Path) -> None:
    replay(box, box.spool, "--to", empty)
    seen, live = recipe.snapshot(empty), recipe.snapshot(box.store)
    for run in (*seen.values(), *live.values()):
        run["info"].pop("artifact_uri")
    assert seen == live
    snap = recipe.snapshot(empty)
    recipe.check_bytes(empty, snap)
    recipe.check_artifacts(empty, snap)
    recipe.check_migration(empty, snap, tmp_path)


def test_the_spool_is_only_read(box: Box, empty: Path, tmp_path: Path) -> None:
    copy = tmp_path / "media"
    shutil.copytree(box.spool, copy)
    before = {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))}
    for path in before:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        replay(box, copy, "--to", empty)
        assert {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))} == before
    finally:
        for path in before:
            path.chmod(0o700)
    assert comparable(empty) == comparable(box.store)


def test_staged_files_that_were_not_copied_are_counted_and_the_rest_is_there(
    box: Box, empty: Path, live: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(box.spool, copy, ignore=shutil.ignore_patterns("staging"))
    said = replay(box, copy, "--to", empty, status=1)
    assert said["missing_artifacts"] == len(list(box.spool.glob("streams/*/*/staging/*"))) > 0
    assert {path.name for path in empty.glob("*/*") if len(path.name) == 32} == set(box.stored())
    assert replay(box, copy, "--to", live, "--again")["missing_artifacts"] == 0


def test_an_end_that_nobody_wrote_is_not_invented(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        assert box.run(LEFT_OPEN).returncode == -9
        said = replay(box, box.spool, "--to", tmp_path / "again")
        [note] = said["notes"]
        assert said["ok"] and "no epitaph" in note["what"]
        [run] = (tmp_path / "again").glob("0/*/meta.yaml")
        assert "status: 1\n" in run.read_text() and list(box.rings.glob("*.ring"))
        box.sync()
        replay(box, box.spool, "--to", tmp_path / "again")
        assert "status: 5\n" in run.read_text()


def account(box: Box, root: Path, run_id: str) -> dict[str, Any]:
    from trainspool_agent.liveness import boot_id
    from trainspool_agent.store import reader

    run = reader.find_run(root, run_id)
    assert run is not None
    found = reader.account(run, boot_id())
    assert found is not None
    return found
