"""Artifacts: captured when the call returns, whatever becomes of the source; a disk that takes nothing is reported."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from spooled import Place, Seen

import trainspool as mlflow
from trainspool import capture, staging
from trainspool.errors import TrainspoolException
from trainspool.spool import events, files

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with files of all kinds of names."""
    folder = tmp_path / "模型 model"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 5000)
    (folder / "empty").write_bytes(b"")
    (folder / "deep" / "结果.txt").write_text("好")
    (folder / "deep" / "deeper" / "a b.txt").write_text("x")
    return folder


def test_a_file_is_captured_whole_with_its_size_and_mode(seen: Seen, source: Path) -> None:
    (source / "weights.bin").chmod(0o640)
    mlflow.log_artifact(source / "weights.bin")
    mlflow.log_artifact(str(source / "empty"), "some/where")
    held = seen()
    assert held.artifacts == {"weights.bin": bytes(range(256)) * 5000, "some/where/empty": b""}
    (first, _) = held.of(events.ARTIFACT)
    assert first[5] == 1_280_000 and first[6] == 0o640
    assert held.folder is not None and {
        path.stat().st_mode & 0o777 for path in (held.folder / "staging").iterdir()
    } == {0o600}


def test_a_folder_is_captured_with_all_it_holds_under_its_name_or_without(seen: Seen, source: Path) -> None:
    mlflow.log_artifact(source)
    mlflow.log_artifacts(source)
    mlflow.log_artifacts(source, "put/here")
    inside = {"weights.bin", "empty", "deep/结果.txt", "deep/deeper/a b.txt"}
    prefixes = ("模型 model/", "", "put/here/")
    assert seen().artifacts.keys() == {prefix + name for prefix in prefixes for name in inside}


def test_a_source_may_go_as_soon_as_the_call_returned(seen: Seen, source: Path) -> None:
    mlflow.log_artifacts(source)
    shutil.rmtree(source)
    assert len(seen().artifacts["weights.bin"]) == 1_280_000


def test_a_source_that_changes_afterwards_does_not_change_what_was_captured(seen: Seen, source: Path) -> None:
    mlflow.log_artifact(source / "deep" / "结果.txt")
    with open(source / "deep" / "结果.txt", "r+") as file:
        file.write("changed")
    assert seen().artifacts["结果.txt"] == "好".encode()


def test_text_and_dictionaries_are_files(seen: Seen) -> None:
    mlflow.log_text("größer", "notes/a.txt")
    mlflow.log_dict({"a": [1, 2], "b": float}, "b.json")
    mlflow.log_dict({"a": [1, 2]}, "c.yaml")
    mlflow.log_dict({"a": 1}, "d")
    found = seen().artifacts
    assert found["notes/a.txt"] == "größer".encode()
    assert json.loads(found["b.json"])["a"] == [1, 2] and json.loads(found["d"]) == {"a": 1}
    assert found["c.yaml"].decode().startswith("a:")


def test_a_fifo_a_socket_and_a_device_are_refused_and_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused: list[str] = []

    def log() -> None:
        for path in (tmp_path / "fifo", Path("/dev/null")):
            try:
                mlflow.log_artifact(path)
            except TrainspoolException as error:
                refused.append(str(error))

    thread = threading.Thread(target=log, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and len(refused) == 2 and "no plain file" in refused[0]


def test_links_are_followed_as_mlflow_does(seen: Seen, source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source / "empty")
    mlflow.log_artifact(tmp_path / "link")
    assert seen().artifacts == {"link": b""}


def test_what_is_not_there_raises(source: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mlflow.log_artifact(source / "missing")
    with pytest.raises(FileNotFoundError):
        mlflow.log_artifacts(source / "missing")
    with pytest.raises(NotADirectoryError):
        mlflow.log_artifacts(source / "empty")


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../x", "..", "a\\b", "a\0b"])
def test_a_path_that_leaves_the_runs_artifacts_is_refused(seen: Seen, source: Path, path: str) -> None:
    for call in (
        lambda: mlflow.log_text("x", path),
        lambda: mlflow.log_artifact(source / "empty", path),
        lambda: mlflow.log_artifacts(source, path),
        lambda: mlflow.log_dict({}, path),
    ):
        with pytest.raises(TrainspoolException, match="Invalid artifact path"):
            call()
    assert seen().of(events.ARTIFACT) == []


@pytest.mark.parametrize("calls", [("create_to_fill",), ("write", "copy_range"), ("make_folder",)])
def test_a_disk_that_takes_nothing_is_reported_not_raised(
    here: Place,
    seen: Seen,
    source: Path,
    calls: tuple[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mlflow.log_metric("a", 1)
    assert mlflow.flush(timeout=20)

    class Full(files.Files):
        def __getattribute__(self, name: str) -> object:
            if name in calls and threading.current_thread() is threading.main_thread():

                def full(*_: object) -> None:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                return full
            return super().__getattribute__(name)

    with monkeypatch.context() as patch:
        patch.setattr(files, "fs", Full())
        mlflow.log_artifact(source / "weights.bin")
        mlflow.log_text("x", "a.txt")
        mlflow.set_tag("large", "y" * 100_000)
        mlflow.log_metric("a", 2, step=1)
    held = seen()
    assert held.of(events.ARTIFACT) == [] and held.steps("a") == [0, 1]
    assert "weights.bin" in caplog.text and "No space left" in caplog.text and "large" in caplog.text
    assert "No space left" in (held.tags["trainspool.problem"] or "")
    assert held.folder is not None and list((held.folder / "staging").iterdir()) == [], "nothing half-made is left"


def test_a_copy_that_the_disk_interrupts_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FillsUp(files.Files):
        written = 0

        def clone(self, source: int, target: int) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))  # else nothing would need room

        def copy_range(self, source: int, target: int, count: int) -> int:
            if self.written > 2_000_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.written += (copied := super().copy_range(source, target, min(count, 1_500_000)))
            return copied

    (source / "large").write_bytes(bytes(5_000_000))
    monkeypatch.setattr(files, "fs", FillsUp())
    with pytest.raises(staging.StagingFailed, match="Next: make room"):
        capture.capture(str(source / "large"), str(tmp_path / "staging"))
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_file_that_grows_while_it_is_captured_is_captured_at_one_length(source: Path, tmp_path: Path) -> None:
    path = source / "log"
    path.write_bytes(b"x" * 1_000_000)
    stop = threading.Event()

    def grow() -> None:
        with open(path, "ab") as file:
            while not stop.is_set():
                file.write(b"y" * 1000)
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(20):
            staged = capture.capture(str(path), str(tmp_path / "staging"))
            assert Path(staged.path).stat().st_size == staged.size >= 1_000_000
            os.truncate(path, 1_000_000)
    finally:
        stop.set()
        thread.join()


def test_staged_names_are_random_and_safe(tmp_path: Path) -> None:
    from trainspool.spool.layout import is_safe_name

    names = {staging.write(b"x", str(tmp_path / "s")).name for _ in range(50)}
    assert len(names) == 50 and all(map(is_safe_name, names))
