"""``load_table`` reads MLflow's files as they are, MLflow's own or ours, with pandas and without."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trainspool.entities import Experiment
from trainspool.errors import TrainspoolException
from trainspool.reading import tables

EXPERIMENT = Experiment("7", "Größe: a'b", "")
TABLE = {"columns": ["q", "n"], "data": [["x", 1], ["y", None]]}


class Store:
    """A store with one experiment, made by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.meta(root / "7", "experiment_id: '7'", 'name: "Gr\\xF6\\u00DFe: a\'b"')

    def meta(self, folder: Path, *lines: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.yaml").write_text("\n".join(lines))

    def run(self, run_id: str, start: int, table: dict[str, Any] | None = None, stage: str = "active") -> Path:
        folder = self.root / "7" / run_id
        self.meta(folder, f"run_id: {run_id}", f"start_time: {start}", "end_time: null", "status: 3", "user_id: me",
                  "experiment_id: '7'", "artifact_uri: /x", f"lifecycle_stage: {stage}")  # fmt: skip
        for name in ("artifacts/deep", "params", "tags", "metrics"):
            (folder / name).mkdir(parents=True)
        (folder / "params/lr").write_text("0.5")
        (folder / "metrics/loss").write_text("1 0.5 2\n3 0.25 7\n2 0.75 7\n")
        if table is not None:
            (folder / "artifacts/deep/t.json").write_text(json.dumps(table))
            (folder / "tags/mlflow.loggedArtifacts").write_text('[{"path": "deep/t.json", "type": "table"}]')
        return folder

    def load(self, run_ids: list[str] | None = None, extra: list[str] | None = None) -> Any:
        return tables.load(str(self.root), EXPERIMENT, "deep/t.json", run_ids, extra)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.run("a" * 32, 10, TABLE)
    made.run("b" * 32, 20, {"columns": ["q", "other"], "data": [["z", True]]})
    made.run("c" * 32, 30)
    made.run("d" * 32, 40, TABLE, "deleted")
    return made


@pytest.fixture(params=["pandas", "no pandas"])
def pandas(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no pandas":
        monkeypatch.setitem(sys.modules, "pandas", None)
    return str(request.param)


def columns(found: Any) -> dict[str, list[Any]]:
    """As a dictionary, NaN as None."""
    table = found if isinstance(found, dict) else json.loads(found.to_json(orient="split"))
    if found is table:
        return dict(table)
    return {name: [row[at] for row in table["data"]] for at, name in enumerate(table["columns"])}


def test_all_runs_of_the_experiment_the_last_started_first(store: Store, pandas: str) -> None:
    found = columns(store.load())
    assert found == {"q": ["z", "x", "y"], "other": [True, None, None], "n": [None, 1, None]}


def test_the_runs_that_are_asked_for(store: Store, pandas: str, caplog: pytest.LogCaptureFixture) -> None:
    assert columns(store.load(["a" * 32])) == {"q": ["x", "y"], "n": [1, None]}
    assert not caplog.records
    assert columns(store.load(["a" * 32, "c" * 32, "../7"])) == {"q": ["x", "y"], "n": [1, None]}
    assert "Some runs will be skipped" in caplog.text


def test_columns_of_the_run_are_added(store: Store, pandas: str, caplog: pytest.LogCaptureFixture) -> None:
    extra = ["run_id", "params.lr", "metrics.loss", "status", "start_time", "experiment_id"]
    found = columns(store.load(["a" * 32], extra))
    added = {name: cells[0] for name, cells in found.items() if name not in TABLE["columns"]}
    assert added == {"run_id": "a" * 32, "params.lr": "0.5", "metrics.loss": 0.25, "status": "FINISHED",
                     "start_time": 10, "experiment_id": "7"}  # fmt: skip
    with pytest.raises(KeyError):
        store.load(["a" * 32], ["params.none"])


def test_a_column_that_is_there_already_gets_another_name(
    store: Store, pandas: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_extra", lambda run, column: "extra")
    assert columns(store.load(["a" * 32], ["q"])) == {"q": ["x", "y"], "n": [1, None], "q_": ["extra", "extra"]}


def test_a_table_that_no_run_has_is_told(store: Store) -> None:
    with pytest.raises(TrainspoolException, match="No runs found") as caught:
        store.load(["c" * 32])
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    (store.root / "7" / ("a" * 32) / "artifacts/deep/t.json").unlink()
    with pytest.raises(TrainspoolException, match=r"deep/t.json not found for run aaaa"):
        store.load(["a" * 32])


def test_an_experiment_is_found_by_its_name_too(store: Store) -> None:
    """A store that MLflow made gave it another id than the one that its name has with us."""
    elsewhere = Experiment("123456789012345678", "Größe: a'b", "")
    found = tables.load(str(store.root), elsewhere, "deep/t.json", None, None)
    assert len(found) == 3
