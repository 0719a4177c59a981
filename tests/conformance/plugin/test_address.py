"""``trainspool:`` addresses of stores, and of the artifacts of runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import append_to_uri_path

from trainspool.mlflow_plugin.address import artifact_uri, place_of, root_of
from trainspool.stream import stream

ROOTS = ["/data/mlruns", "/数据/my runs", "/a#b/50%/c?d", "/x%41/y"]


@pytest.mark.parametrize(
    "uri", ["trainspool:///data/mlruns", "trainspool:/data/mlruns", "trainspool:///data/x/../mlruns"]
)
def test_a_folder_is_named_by_its_path(uri: str) -> None:
    assert root_of(uri) == "/data/mlruns"


def test_a_relative_folder_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert root_of("trainspool:runs") == os.path.join(tmp_path, "runs")


@pytest.mark.parametrize("said", ["https://tracking:5000", "/elsewhere", "trainspool:///elsewhere"])
def test_without_a_folder_it_is_trainspools_whatever_mlflow_reads_and_nothing_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINSPOOL_STORE", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", said)
    monkeypatch.setattr(stream, "_store", None)
    assert root_of("trainspool:") == os.path.join(tmp_path, "mlruns") and not caplog.records
    assert stream.store == os.path.join(tmp_path, "mlruns") and not caplog.records


@pytest.mark.parametrize("uri", ["trainspool://host/data", "trainspool:///data?x=1", "trainspool:///data#part"])
def test_what_is_no_folder_is_refused_with_what_to_write(uri: str) -> None:
    with pytest.raises(MlflowException, match="trainspool:///absolute/path"):
        root_of(uri)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("below", ["", "model", "a/artifacts/b/artifacts", "图/x"])
def test_artifacts_are_found_again_however_mlflow_extends_their_address(root: str, below: str) -> None:
    uri = artifact_uri(root, "12", "f" * 32)
    place = place_of(append_to_uri_path(uri, below) if below else uri)
    assert place == (root, "12", "f" * 32, below)
    assert place.folder == f"{root}/12/{'f' * 32}/artifacts"


@pytest.mark.parametrize("uri", ["trainspool:/data/mlruns", "trainspool:/artifacts", "trainspool:1/2/artifacts"])
def test_an_address_of_something_else_is_refused(uri: str) -> None:
    with pytest.raises(MlflowException, match="names no run's artifacts"):
        place_of(uri)
