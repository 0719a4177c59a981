"""`doctor`: what it says of good and bad boxes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainspool_agent import doctor
from trainspool_agent.doctor import FAIL, OK, WARN
from trainspool_agent.doctor import box as machine

from .conftest import Box


def states(found: list[doctor.Finding]) -> list[str]:
    return [finding.state for finding in found]


def test_a_good_box_passes_and_the_self_test_reads_back_what_it_logged(box: Box) -> None:
    found = box.call("doctor", "--json")
    checks = {one["check"]: one for one in box.json("doctor", "--json")["checks"]}
    assert found.exit_code == 0, found.stdout
    assert checks["self-test"]["state"] == OK and "log_metric p50" in checks["self-test"]["what"]
    assert "ring" in checks and str(box.rings) in checks["ring"]["what"]
    assert os.listdir(box.rings) == []


def test_a_store_below_a_folder_called_artifacts_fails(tmp_path: Path) -> None:
    assert states(list(doctor.store_folder(tmp_path / "artifacts" / "mlruns"))) == [FAIL]


def test_an_address_is_no_store(box: Box) -> None:
    found = box.process(*box.trainspool("doctor"), TRAINSPOOL_STORE="http://tracking:5000")
    assert found.returncode == 1 and "is an address" in found.stdout


def test_a_store_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("")
    assert states(list(doctor.store_folder(tmp_path / "mlruns"))) == [FAIL]


def test_our_runs_and_mlflows_are_told_apart(box: Box) -> None:
    box.log("with ts.start_run(): ts.log_metric('a', 1)")
    box.sync()
    (finding,) = doctor.store_folder(box.store)
    assert "1 runs, 1 of them written by trainspool" in finding.what


def test_default_mlruns_is_warned_of_where_mlflow_asks_for_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default")
    monkeypatch.setattr(doctor, "_version", lambda package: "3.17.2" if package == "mlflow" else "")
    found = list(doctor.mlflow(tmp_path / "mlruns"))
    assert states(found) == [OK, WARN]
    assert f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {tmp_path}/mlruns" in found[0].what


def test_an_older_mlflow_needs_no_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "2.22.0" if package == "mlflow" else "")
    (finding,) = doctor.mlflow(tmp_path / "mlruns")
    assert "MLFLOW_ALLOW_FILE_STORE" not in finding.what


def test_few_watches_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "inotify_limit", lambda name: 8192 if "watches" in name else 128)
    monkeypatch.setattr(machine, "inotify_use", lambda: (10, 8000))
    (finding,) = doctor.watches()
    assert finding.state == WARN and "sysctl" in finding.next_step


def test_a_spool_that_cannot_be_written_fails() -> None:
    assert states(list(doctor.spool(Path("/proc/nowhere")))) == [FAIL]


def test_shared_memory_is_known_as_such(box: Box) -> None:
    assert machine.kind_of(box.rings).kind == "tmpfs" and not machine.kind_of(box.rings).is_network
