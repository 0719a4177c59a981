"""One bad file hides nothing else, and is told of once."""

from __future__ import annotations

import builtins
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainspool.entities import Experiment, StoredRun, ViewType
from trainspool.errors import TrainspoolException
from trainspool.reading import experiments, layout, meta, runs, skipping
from trainspool.spool import plainyaml

RUN, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with an experiment of two runs."""
    skipping._told.clear()
    folder = tmp_path / "mlruns" / "5"
    folder.mkdir(parents=True)
    about = {"experiment_id": "5", "name": "five", "artifact_location": "/x", "lifecycle_stage": "active"}
    (folder / "meta.yaml").write_bytes(plainyaml.render({**about, "creation_time": 1, "last_update_time": 2}))
    for run_id in (RUN, OTHER):
        for name in ("metrics", "params/opt", "tags", "artifacts"):
            (folder / run_id / name).mkdir(parents=True)
        (folder / run_id / "meta.yaml").write_bytes(plainyaml.render(run_meta(run_id)))
        (folder / run_id / "metrics/loss").write_text("1 0.5 1\n2 0.25 2\n")
        (folder / run_id / "params/opt/name").write_text("adam")
        (folder / run_id / "tags/note").write_text("x")
    return tmp_path / "mlruns"


def run_meta(run_id: str, **other: Any) -> dict[str, Any]:
    about = {"run_id": run_id, "experiment_id": "5", "user_id": "u", "status": 3, "start_time": 1, "end_time": None}
    return {**about, "artifact_uri": "/x", "run_name": "r", "lifecycle_stage": "active", **other}


def found(root: Path, view_type: int = ViewType.ACTIVE_ONLY) -> list[StoredRun]:
    place = experiments.by_id(str(root), "5")
    assert place is not None
    return list(experiments.runs_of(place, view_type))


def all_of(root: Path) -> list[Experiment]:
    return list(experiments.listed(str(root), ViewType.ALL))


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(data)


HIDES_THE_RUN = {
    "empty": write("meta.yaml", b""),
    "torn": write("meta.yaml", b"run_id: '" + RUN.encode()),
    "zeros": write("meta.yaml", bytes(300)),
    "a list": write("meta.yaml", b"- a\n"),
    "no start": write("meta.yaml", plainyaml.render({k: v for k, v in run_meta(RUN).items() if k != "start_time"})),
    "a status in words": write("meta.yaml", plainyaml.render(run_meta(RUN, status="FINISHED"))),
    "of another run": write("meta.yaml", plainyaml.render(run_meta(OTHER))),
    "of another experiment": write("meta.yaml", plainyaml.render(run_meta(RUN, experiment_id="6"))),
    "a pipe": lambda run: ((run / "meta.yaml").unlink(), os.mkfifo(run / "meta.yaml")),
    "not to be opened": lambda run: ((run / "meta.yaml").unlink(), (run / "meta.yaml").symlink_to(run / "meta.yaml")),
    "nested without end": write("meta.yaml", b"a: " + b"- " * 50_000 + b"\n"),
}


@pytest.mark.parametrize("harm", HIDES_THE_RUN.values(), ids=HIDES_THE_RUN)
def test_a_run_that_cannot_be_read_hides_no_other(root: Path, harm: Callable[[Path], object]) -> None:
    harm(root / "5" / RUN)
    assert [run.info.run_id for run in found(root)] == [OTHER]


def test_what_is_left_out_is_told_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "5" / RUN / "meta.yaml").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "trainspool"):
        for _ in range(3):
            found(root)
    assert len(caplog.records) == 1 and f"{RUN}/meta.yaml" in caplog.text and "empty" in caplog.text


HIDES_NOTHING_ELSE = {
    "a key no reader takes": write("metrics/x~", b"1 1.0 1\n"),
    "a system's file": write("metrics/.DS_Store~", b"\0\1"),
    "no text": write("params/bytes", b"\xff\xfe"),
    "a metric without points": write("metrics/empty", b""),
    "a metric of nonsense": write("metrics/nonsense", b"one two three\n1 2 3 4\n\n1.5 1.0 0\n\xff 1 1\n"),
    "a torn point": write("metrics/torn", b"170"),
    "a folder without files": lambda run: (run / "tags/deep/deeper").mkdir(parents=True),
    "a lost dataset": lambda run: (run / "inputs/one").mkdir(parents=True),
    "a torn input": lambda run: ((run / "inputs/one").mkdir(parents=True), write("inputs/one/meta.yaml", b"{")(run)),
    "a link to nowhere": lambda run: (run / "tags/lost").symlink_to("/nowhere"),
}


@pytest.mark.parametrize("harm", HIDES_NOTHING_ELSE.values(), ids=HIDES_NOTHING_ELSE)
def test_a_file_that_cannot_be_read_hides_nothing_else_of_its_run(root: Path, harm: Callable[[Path], object]) -> None:
    harm(root / "5" / RUN)
    run = next(run for run in found(root) if run.info.run_id == RUN)
    assert run.data == ({"opt/name": "adam"}, {"note": "x"}, {"loss": 0.25})
    assert run.inputs.dataset_inputs == []


def test_the_points_around_a_bad_line_are_read(root: Path) -> None:
    (root / "5" / RUN / "metrics/loss").write_bytes(b"1 0.5 1\r\nnonsense\n2 0.25 2\n3 0.125 \n4 0.0625")
    place = layout.find_run(str(root), RUN)
    assert place is not None
    assert [(p.timestamp, p.value, p.step) for p in runs.history(place, "loss")] == [(1, 0.5, 1), (2, 0.25, 2)]
    assert runs.history(place, "none") == []


@pytest.mark.parametrize("name", [".spool", "my dir", "lost+found", "x.trash", "models", "plain"])
def test_a_foreign_folder_in_the_root_hides_no_experiment(root: Path, name: str) -> None:
    (root / name).mkdir()
    assert [one.name for one in all_of(root)] == ["five"]


@pytest.mark.parametrize("data", [b"", b"name: [", b"experiment_id: '6'\nname: six\n", plainyaml.render({"name": "x"})])
def test_an_experiment_that_cannot_be_read_hides_no_other(root: Path, data: bytes) -> None:
    (root / "9").mkdir()
    (root / "9/meta.yaml").write_bytes(data)
    assert [one.name for one in all_of(root)] == ["five"]


def test_the_experiment_in_use_counts_where_two_have_one_name(root: Path) -> None:
    for number, created, parent in (("6", 9, ""), ("7", 3, ""), ("8", 1, ".trash")):
        folder = root / parent / number
        folder.mkdir(parents=True)
        about = {"experiment_id": number, "name": "twice", "creation_time": created}
        stage = "deleted" if parent else "active"
        (folder / "meta.yaml").write_bytes(plainyaml.render({**about, "lifecycle_stage": stage}))
    chosen = experiments.by_name(str(root), "twice")
    assert chosen is not None and chosen.experiment_id == "7"


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert all_of(tmp_path / "none") == [] and layout.find_run(str(tmp_path / "none"), RUN) is None


@pytest.mark.parametrize("run_id", ["", "../5", "a/b", ".trash", None, 5])
def test_what_is_no_run_id_is_looked_for_nowhere(root: Path, run_id: Any) -> None:
    with pytest.raises(TrainspoolException, match="run_id"):
        layout.find_run(str(root), run_id)


def test_ours_needs_no_library_and_others_say_what_they_need(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "5" / OTHER / "meta.yaml").write_text(f"run_id: {OTHER}\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert [run.info.run_id for run in found(root)] == [RUN]
    assert "PyYAML is missing. Next: pip install pyyaml" in caplog.text
    with pytest.raises(meta.UnreadableMeta, match="pip install pyyaml"):
        meta.read(str(root / "5" / OTHER))


def test_ours_is_read_without_loading_yaml_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *arguments: Any) -> Any:
        assert name != "yaml"
        return real(name, *arguments)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert len(found(root)) == 2
