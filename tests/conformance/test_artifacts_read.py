"""``trainspool.artifacts`` gives what ``mlflow.artifacts`` gives, on the same store."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trainspool
from trainspool.stream import stream

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("download_artifacts", "list_artifacts", "load_dict", "load_image", "load_text")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run that MLflow made, in a store that both libraries are told of."""
    before = dict(os.environ)
    os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true")
    root = tmp_path_factory.mktemp("store") / "mlruns"
    mlflow.set_tracking_uri(str(root))
    mlflow.set_experiment("x")
    with mlflow.start_run() as made:
        mlflow.log_text("deep 损", "a/b/c.txt")
        mlflow.log_dict({"x": [1, None]}, "d.json")
        mlflow.log_text("no json", "top.txt")
    trainspool.set_tracking_uri(str(root))
    yield made.info
    stream._store = None
    os.environ.clear()
    os.environ.update(before)


QUESTIONS: list[dict[str, str]] = [
    {"run_id": "RUN", "artifact_path": "a/b/c.txt"},
    {"run_id": "RUN", "artifact_path": "a"},
    {"run_id": "RUN"},
    {"artifact_uri": "URI/a/b/c.txt"},
    {"artifact_uri": "file://URI/a/b"},
    {"artifact_uri": "URI"},
    {"artifact_uri": "runs:/RUN/a/b/c.txt"},
    {"artifact_uri": "runs:/RUN/a"},
    {"artifact_uri": "runs:/RUN"},
    {"artifact_uri": "URI", "run_id": "RUN"},
    {"artifact_uri": "URI", "artifact_path": "a"},
    {},
]


def asked(question: dict[str, str], run: Any) -> dict[str, str]:
    return {key: text.replace("RUN", run.run_id).replace("URI", run.artifact_uri) for key, text in question.items()}


def outcome(call: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return call(*arguments, **named)
    except Exception:  # noqa: BLE001  that both raise is compared
        return "raised"


def tree(path: str) -> Any:
    found = Path(path)
    if found.is_file():
        return found.name, found.read_bytes()
    return {str(one.relative_to(found)): one.read_bytes() for one in found.rglob("*") if one.is_file()}


@pytest.mark.parametrize("question", [*QUESTIONS, {"run_id": "RUN", "artifact_path": "nope"}], ids=str)
def test_what_is_downloaded_is_what_mlflow_downloads(run: Any, tmp_path: Path, question: dict[str, str]) -> None:
    kept = tree(run.artifact_uri)
    for where in ({}, {"dst_path": str(tmp_path / "to")}):
        they, we = (
            outcome(
                library.artifacts.download_artifacts,
                **asked(question, run),
                **{k: v + library.__name__ for k, v in where.items()},
            )
            for library in (mlflow, trainspool)
        )
        if they == "raised":
            assert we == "raised"
            continue
        assert tree(we) == tree(they)
        assert we.startswith(run.artifact_uri) == they.startswith(run.artifact_uri), "a copy where MLflow makes one"
        if where:
            assert tree(str(tmp_path / "totrainspool")) == tree(str(tmp_path / "tomlflow"))
    assert tree(run.artifact_uri) == kept


@pytest.mark.parametrize("question", [*QUESTIONS, {"run_id": "RUN", "artifact_path": "nope"}], ids=str)
def test_what_is_listed_is_what_mlflow_lists(run: Any, question: dict[str, str]) -> None:
    they, we = (outcome(library.artifacts.list_artifacts, **asked(question, run)) for library in (mlflow, trainspool))
    assert (they == "raised") == (we == "raised")
    if they != "raised":
        assert [dict(one) for one in we] == [dict(one) for one in they]


@pytest.mark.parametrize("path", ["a/b/c.txt", "d.json", "top.txt", "nope", "a"])
def test_what_is_loaded_is_what_mlflow_loads(run: Any, path: str) -> None:
    for address in (f"{run.artifact_uri}/{path}", f"runs:/{run.run_id}/{path}"):
        for name in ("load_text", "load_dict", "load_image"):
            they, we = (outcome(getattr(library.artifacts, name), address) for library in (mlflow, trainspool))
            assert they == we


def test_a_picture_is_loaded(run: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    path = f"{run.artifact_uri}/p.png"
    image.new("RGB", (3, 2), (1, 2, 3)).save(path)
    try:
        assert trainspool.artifacts.load_image(path).getpixel((2, 1)) == (1, 2, 3)
    finally:
        os.unlink(path)


@pytest.mark.parametrize("path", ["../meta.yaml", "a/../../meta.yaml", "/etc/hostname", "a\\..\\b"])
def test_no_path_leaves_the_run(run: Any, path: str) -> None:
    with pytest.raises(trainspool.TrainspoolException, match="leaves the run's artifacts"):
        trainspool.artifacts.download_artifacts(run_id=run.run_id, artifact_path=path)


def test_no_link_leaves_the_run(run: Any) -> None:
    beside = Path(f"{run.artifact_uri}-beside")
    beside.mkdir()
    (beside / "hostname").write_text("x")
    link = Path(run.artifact_uri) / "link"
    link.symlink_to(beside)
    try:
        with pytest.raises(trainspool.TrainspoolException, match="a link leads out"):
            trainspool.artifacts.download_artifacts(run_id=run.run_id, artifact_path="link/hostname")
    finally:
        link.unlink()


def test_another_kind_of_address_is_refused(run: Any) -> None:
    with pytest.raises(trainspool.TrainspoolException, match="cannot read 's3://bucket/x'"):
        trainspool.artifacts.load_text("s3://bucket/x")


def test_the_names_and_arguments_are_mlflows() -> None:
    for name in NAMES:
        theirs, ours = (inspect.signature(getattr(one.artifacts, name)).parameters for one in (mlflow, trainspool))
        assert [(p.name, p.default) for p in theirs.values()] == [(p.name, p.default) for p in ours.values()]
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        trainspool.artifacts.nonsense  # noqa: B018
