"""Real MLflow lists and downloads every artifact with equal content, however it was captured, wherever it lies."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import SHARED_MEMORY, Box
from conformance import recipe
from filesystems import mounted

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
]

EVERY_WAY = """
import hashlib, json, os
import trainspool as mlflow
known = {}
def content(path, size):
    data = hashlib.sha256(path.encode()).digest() * (size // 32)
    known[path] = hashlib.sha256(data).hexdigest()
    return data
def file(path, size):
    os.makedirs(os.path.dirname(f"work/{path}"), exist_ok=True)
    with open(f"work/{path}", "wb") as out:
        out.write(content(path, size))
    return f"work/{path}"
mlflow.set_experiment("every way")
with mlflow.start_run() as run:
    for size in (0, 320, 200_000, 3 << 20):
        for way in ("plain", "move", "link", "background"):
            options = {} if way == "plain" else {way: True}
            mlflow.log_artifact(file(f"{way}/{size}/权重.bin", size), f"{way}/{size}", **options).wait()
        with mlflow.artifact_path(f"path/{size}/last.pt") as path, open(path, "wb") as out:
            out.write(content(f"path/{size}/last.pt", size))
    with mlflow.artifact_path("folder") as path:
        os.makedirs(f"{path}/deep")
        for name in ("one", "deep/two"):
            with open(f"{path}/{name}", "wb") as out:
                out.write(content(f"folder/{name}", 100_000))
    for n in range(2):
        same = file("same.bin", 400_000)
        mlflow.log_artifact(same, f"same/{n}")
        known[f"same/{n}/same.bin"] = known["same.bin"]
    del known["same.bin"]
    for n in range(3):
        mlflow.log_artifact(file("versions/last.bin", 300_000 + 32 * n), "versions")
json.dump([run.info.run_id, known], open("known.json", "w"))
"""
TRAINING = """
import hashlib, json
import torch
import trainspool as mlflow
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
optimizer = torch.optim.Adam(model.parameters())
data = torch.randn(256, 64)
known = {}
with mlflow.start_run() as run:
    for epoch in range(6):
        loss = ((model(data) - data.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mlflow.log_metric("loss", loss.item(), step=epoch)
        torch.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
        with open("last.pt", "rb") as file:
            known[f"epoch{epoch}/last.pt"] = hashlib.sha256(file.read()).hexdigest()
        mlflow.log_artifact("last.pt", f"epoch{epoch}")
json.dump([run.info.run_id, known], open("known.json", "w"))
"""


@pytest.fixture(params=["here", "ext4", "xfs", "btrfs"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    """A box of which spool, store and work lie on one file system: of these kinds xfs and btrfs share blocks."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path if request.param == "here" else stack.enter_context(mounted(request.param))
        yield stack.enter_context(Box(folder))


def digests_by_mlflow(box: Box, run_id: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What MLflow lists, downloaded file by file; a folder is what it says it is."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(str(box.store))
    found = {}
    for file in recipe._walk(client, run_id, None):
        data = Path(client.download_artifacts(run_id, file.path, str(target))).read_bytes()
        assert len(data) == file.file_size
        found[file.path] = hashlib.sha256(data).hexdigest()
    return found


def test_every_way_of_capture_is_listed_and_downloaded_with_equal_content(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = box.run(EVERY_WAY)
    assert done.returncode == 0, done.stderr
    box.sync()
    run_id, known = json.loads((box.folder / "known.json").read_text())
    (tmp_path / "downloads").mkdir()
    assert digests_by_mlflow(box, run_id, tmp_path / "downloads", monkeypatch) == known
    assert recipe.check_artifacts(box.store, recipe.snapshot(box.store)).keys() == {run_id}


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no PyTorch here: pip install torch")
def test_a_pytorch_training_that_overwrites_its_checkpoint_keeps_every_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Box(tmp_path) as box:
        done = box.run(TRAINING)
        assert done.returncode == 0, done.stderr
        box.sync()
        run_id, known = json.loads((box.folder / "known.json").read_text())
        (tmp_path / "downloads").mkdir()
        assert len(set(known.values())) == 6, "the training changed nothing"
        assert digests_by_mlflow(box, run_id, tmp_path / "downloads", monkeypatch) == known
