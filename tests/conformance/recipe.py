"""Does stock MLflow read a store, agree with its bytes, migrate it and serve it?

Source: mlflow-store.md, section 7. Each check takes a root and says by assertion what differs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3.13 and later ask for it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

Snapshot = dict[str, dict[str, Any]]
_INFO = (
    "run_name", "status", "start_time", "end_time", "user_id", "lifecycle_stage", "artifact_uri", "experiment_id",
)  # fmt: skip


def snapshot(uri: Path | str) -> Snapshot:
    """Return everything that MLflow's client tells about the runs behind *uri*."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client, found = MlflowClient(str(uri)), {}
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        runs, token = [], None
        while True:
            page = client.search_runs(
                [experiment.experiment_id], run_view_type=ViewType.ALL, max_results=500, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                break
        for run in runs:
            full = client.get_run(run.info.run_id)  # stricter than search_runs
            history = {
                key: [(m.timestamp, m.step, repr(m.value)) for m in client.get_metric_history(run.info.run_id, key)]
                for key in full.data.metrics
            }
            found[run.info.run_id] = {
                "exp": experiment.name,
                "eid": experiment.experiment_id,
                "stage": experiment.lifecycle_stage,
                "info": dict(full.info),
                "params": full.data.params,
                "tags": full.data.tags,
                "hist": history,
                "latest": {key: repr(value) for key, value in full.data.metrics.items()},
                "inputs": sorted(one.dataset.digest for one in full.inputs.dataset_inputs),
                "outputs": sorted(one.model_id for one in full.outputs.model_outputs),
            }
    return found


def check_bytes(root: Path, snap: Snapshot) -> None:
    """What lies on disk is what MLflow reports, whole lines, none twice."""
    for run_id, seen in snap.items():
        base = root / seen["eid"]
        base = base if base.is_dir() else root / ".trash" / seen["eid"]
        folder = base / run_id / "metrics"
        keys = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        assert sorted(keys) == sorted(seen["latest"]), (run_id, keys)
        for key in keys:
            data = (folder / key).read_bytes()
            assert data.endswith(b"\n"), (run_id, key)
            assert data.count(b"\n") == len(seen["hist"][key]), (run_id, key)
            assert max(Counter(data.splitlines()).values()) == 1, ("duplicate line", run_id, key)


def check_artifacts(root: Path, snap: Snapshot) -> dict[str, list[str]]:
    """Every listed artifact can be downloaded whole; return the paths of each run."""
    from mlflow import MlflowClient

    client = MlflowClient(str(root))
    found: dict[str, list[str]] = {}
    for run_id in snap:
        with tempfile.TemporaryDirectory() as target:
            for file in _walk(client, run_id, None):
                got = client.download_artifacts(run_id, file.path, target)
                assert os.path.getsize(got) == file.file_size, (run_id, file.path)
                found.setdefault(run_id, []).append(file.path)
    return found


def _walk(client: Any, run_id: str, path: str | None) -> Iterator[Any]:
    for file in client.list_artifacts(run_id, path):
        if file.is_dir:
            yield from _walk(client, run_id, file.path)
        else:
            yield file


def check_migration(root: Path, snap: Snapshot, folder: Path) -> None:
    """``mlflow migrate-filestore`` takes all of it, and SQL says the same."""
    target = f"sqlite:///{folder}/migrated.db"
    command = [sys.executable, "-m", "mlflow", "migrate-filestore", "--source", str(root), "--target", target]
    done = subprocess.run([*command, "--no-progress"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sql = snapshot(target)
    assert sorted(sql) == sorted(snap)
    for run_id, ours in snap.items():
        theirs = sql[run_id]
        for field in ("params", "tags", "exp", "stage", "inputs", "outputs"):
            assert ours[field] == theirs[field], (run_id, field)
        for field in _INFO:
            assert ours["info"][field] == theirs["info"][field], (run_id, field)
        for key, points in ours["hist"].items():
            assert sorted(map(_as_in_sql, points)) == sorted(map(_as_in_sql, theirs["hist"][key])), (run_id, key)


def _as_in_sql(point: tuple[int, int, str]) -> tuple[int, int, str]:
    value = float(point[2])
    if math.isinf(value):
        value = math.copysign(1.7976931348623157e308, value)  # SQL has no infinities
    return point[0], point[1], str(value + 0.0)  # nor a negative zero


def check_rest(root: Path, snap: Snapshot) -> None:
    """``mlflow server`` on the store answers as the client does, on the calls its page makes, too."""
    with _server(root) as base:
        kind = json.load(urllib.request.urlopen(base + "/ajax-api/3.0/mlflow/server-info"))["store_type"]
        assert kind == "FileStore", kind
        rest = snapshot(base)
        assert rest.keys() == snap.keys()
        for run_id, ours in snap.items():
            for field in ("params", "tags", "latest", "hist"):
                assert ours[field] == rest[run_id][field], (run_id, field)
        body = json.dumps({"experiment_ids": sorted({seen["eid"] for seen in snap.values()})}).encode()
        for path in ("/api/2.0/mlflow/runs/search", "/ajax-api/2.0/mlflow/runs/search"):
            request = urllib.request.Request(base + path, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200


@contextlib.contextmanager
def _server(root: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", str(root), "--host", "127.0.0.1"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], stdout=log, stderr=log)
        try:
            base = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(base + "/health", timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < until, "mlflow server did not come up"
                    time.sleep(0.3)
            yield base
        finally:
            server.terminate()
            server.wait(30)


def check_all(root: Path, folder: Path) -> Snapshot:
    """Run every check; *folder* takes the migrated database."""
    snap = snapshot(root)
    check_bytes(root, snap)
    check_artifacts(root, snap)
    check_migration(root, snap, folder)
    check_rest(root, snap)
    return snap
