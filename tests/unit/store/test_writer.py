"""The store as its follower uses it: experiments, runs, edits by others, artifacts, limits."""

from __future__ import annotations

import asyncio
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from handmade import BOOT, Stream, contents, feed, open_store

from trainspool.spool import events as ev
from trainspool.spool.experiments import experiment_id_for, experiment_ids_for
from trainspool_agent import files
from trainspool_agent.compact import Dictionary, RunRef
from trainspool_agent.store import limits, memory, meta, reader
from trainspool_agent.store.changes import ExperimentChange
from trainspool_agent.store.errors import StoreRefused

RUN = "a" * 32
OWNER = RunRef(RUN, "/store", None, "exp", True)


def meta_of(root: Path, run_id: str = RUN) -> dict[str, Any]:
    (path,) = root.rglob(f"{run_id}/meta.yaml")
    return dict(yaml.safe_load(path.read_text()))


def a_run(experiment: str | None = "exp", run_id: str = RUN, experiment_id: str | None = None) -> tuple[Stream, int]:
    stream = Stream()
    run = stream.run(run_id, experiment, experiment_id=experiment_id)
    stream.start(run, "name")
    stream.frame()
    return stream, run


def test_a_root_is_complete_from_birth(tmp_path: Path) -> None:
    open_store(tmp_path / "new/mlruns").close()
    assert {path.name for path in (tmp_path / "new/mlruns").iterdir()} == {"0", ".trash", "models"}


def test_a_root_that_mlflow_could_not_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "artifacts/mlruns", tmp_path / "file/mlruns", Path("http://host")):
        with pytest.raises(StoreRefused, match="Next: "):
            open_store(root)


def test_an_experiment_that_is_there_keeps_its_id_and_a_new_one_gets_the_derived(tmp_path: Path) -> None:
    (tmp_path / "123").mkdir()
    (tmp_path / "123/meta.yaml").write_bytes(meta.render(meta.experiment_meta("123", "exp", "/x", 1)))
    store = open_store(tmp_path)
    feed(store, a_run("exp")[0])
    feed(store, a_run("new", "b" * 32)[0])
    feed(store, a_run(None, "c" * 32, experiment_id="not-digits")[0])
    feed(store, a_run(None, "d" * 32, experiment_id="77")[0])
    found = {run.run_id: run.experiment_id for run in reader.runs(tmp_path)}
    assert found == {RUN: "123", "b" * 32: experiment_id_for("new"), "c" * 32: "0", "d" * 32: "77"}
    store.close()


def rename(root: Path, experiment_id: str, name: str) -> None:
    """As MLflow does it: nothing but the content of ``meta.yaml`` changes."""
    path = root / experiment_id / "meta.yaml"
    values = yaml.safe_load(path.read_text()) | {"name": name}
    path.write_text(yaml.safe_dump(values))


def names(root: Path) -> dict[str, str]:
    return {path.parent.name: yaml.safe_load(path.read_text())["name"] for path in root.glob("*/meta.yaml")}


def experiments_of(root: Path) -> dict[str, str]:
    return {run.run_id[0]: run.experiment_id for run in reader.runs(root)}


def test_a_name_that_an_experiment_no_longer_bears_is_a_new_ones(tmp_path: Path) -> None:
    store, number = open_store(tmp_path), experiment_id_for("exp")
    feed(store, a_run("exp")[0])
    rename(tmp_path, number, "old")
    feed(store, a_run("exp", "b" * 32, experiment_id="5")[0])
    feed(store, a_run("exp", "c" * 32)[0])
    feed(store, a_run("old", "d" * 32)[0])
    assert experiments_of(tmp_path) == {"a": number, "b": "5", "c": "5", "d": number}
    assert names(tmp_path) == {"0": "Default", number: "old", "5": "exp"}
    store.close()


def test_runs_of_a_renamed_experiment_go_on_in_it_until_its_name_is_chosen_anew(tmp_path: Path) -> None:
    store, number = open_store(tmp_path), experiment_id_for("exp")
    feed(store, a_run("exp", experiment_id=number)[0])
    rename(tmp_path, number, "old")
    feed(store, a_run("exp", "b" * 32, experiment_id=number)[0])
    asyncio.run(store.apply_experiment(ExperimentChange(1, 1, "/store", number, "exp", {"a": "1"})))
    assert names(tmp_path) == {"0": "Default", number: "old"}
    asyncio.run(store.apply_experiment(ExperimentChange(1, 1, "/store", number, "exp", {})))
    (made,) = names(tmp_path).keys() - {"0", number}
    feed(store, a_run("exp", "c" * 32, experiment_id=number)[0])
    assert experiments_of(tmp_path) == {"a": number, "b": number, "c": made} and names(tmp_path)[made] == "exp"
    assert made == list(islice(experiment_ids_for("exp"), 2))[1], "the same for every process that chooses it"
    store.close()


def test_an_experiment_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = open_store(tmp_path), type(files.fs).rename

    def look(fs: object, source: str, target: str) -> None:
        assert all((folder / "meta.yaml").exists() for folder in tmp_path.iterdir() if folder.name.isdigit())
        real(files.fs, source, target)

    monkeypatch.setattr(type(files.fs), "rename", look)
    feed(store, a_run("exp")[0])
    assert len(names(tmp_path)) == 2 and not [path for path in tmp_path.rglob(".trainspool/*") if path.is_dir()]
    store.close()


def test_edits_of_others_stay(tmp_path: Path) -> None:
    stream, run = a_run()
    store, dictionary = open_store(tmp_path), Dictionary()
    feed(store, stream, dictionary=dictionary)
    (path,) = tmp_path.rglob(f"{RUN}/meta.yaml")
    values = meta_of(tmp_path) | {"run_name": "renamed", "lifecycle_stage": "deleted", "note": "by hand: [1, 2]"}
    path.write_text(yaml.safe_dump(values))
    stream.point(run, "a", 1.0)
    stream.end(run, ev.FAILED)
    feed(store, stream, frames=[stream.frame()], dictionary=dictionary)
    after = meta_of(tmp_path)
    assert (after["run_name"], after["lifecycle_stage"], after["note"]) == ("renamed", "deleted", "by hand: [1, 2]")
    assert (after["status"], after["end_time"] is not None) == (4, True)
    store.close()


def test_a_meta_that_is_empty_just_now_is_left_alone_and_caught_up_later(tmp_path: Path) -> None:
    stream, run = a_run()
    store, dictionary = open_store(tmp_path), Dictionary()
    feed(store, stream, dictionary=dictionary)
    (path,) = tmp_path.rglob(f"{RUN}/meta.yaml")
    whole = path.read_bytes()
    path.write_bytes(b"")
    stream.end(run)
    feed(store, stream, frames=[stream.frame()], dictionary=dictionary)
    assert path.read_bytes() == b""
    assert not store.is_settled(OWNER, stream.id)
    path.write_bytes(whole)
    asyncio.run(store.make_durable())
    assert meta_of(tmp_path)["status"] == 3
    asyncio.run(store.make_durable())
    assert store.is_settled(OWNER, stream.id)
    store.close()


def test_a_rename_event_changes_both_places(tmp_path: Path) -> None:
    stream, run = a_run()
    store, dictionary = open_store(tmp_path), Dictionary()
    feed(store, stream, dictionary=dictionary)
    stream.tags(run, {"mlflow.runName": "n" * 300})
    feed(store, stream, frames=[stream.frame()], dictionary=dictionary)
    (tag,) = tmp_path.rglob("mlflow.runName")
    assert meta_of(tmp_path)["run_name"] == tag.read_text() == "n" * 249 + "…"
    store.close()


def test_a_guest_before_its_owner_makes_the_run_and_the_owner_dates_it(tmp_path: Path) -> None:
    guest = Stream()
    guest.now += 10**12
    guest.point(guest.run(RUN, "exp", owner=False), "a", 1.0)
    guest.frame()
    store = open_store(tmp_path)
    feed(store, guest)
    assert meta_of(tmp_path)["status"] == 1
    stream, run = a_run()
    stream.end(run)
    stream.frame()
    feed(store, stream)
    assert (meta_of(tmp_path)["start_time"], meta_of(tmp_path)["status"]) == ((stream.now - 7_000_000) // 1_000_000, 3)
    store.close()


def test_artifacts_arrive_by_link_or_copy_and_replace_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    stream, run = a_run()
    for name, data in (("1", b"one"), ("2", b"two")):
        (staging / name).write_bytes(data)
        stream.artifact(run, "d/f", name)
    stream.artifact(run, "again", "2")
    stream.artifact(run, "again", "2")
    stream.frame()
    store = open_store(tmp_path / "runs")
    feed(store, stream, staging)
    (folder,) = (tmp_path / "runs").rglob(f"{RUN}/artifacts")
    assert (folder / "d/f").read_bytes() == b"two" and os.path.samefile(folder / "d/f", staging / "2")

    def no_link(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    stream.artifact(run, "copied", "1")
    stream.frame()
    feed(store, stream, staging)
    assert (folder / "copied").read_bytes() == b"one" and not os.path.samefile(folder / "copied", staging / "1")
    assert not list(folder.parent.parent.glob(".trainspool/*"))
    store.close()


def test_artifacts_that_attack_or_are_missing_are_said_and_nothing_else(tmp_path: Path) -> None:
    staging, secret = tmp_path / "staging", tmp_path / "secret"
    staging.mkdir()
    secret.write_text("secret")
    (staging / "link").symlink_to(secret)
    (staging / "ok").write_text("ok")
    os.mkfifo(staging / "pipe")
    stream, run = a_run()
    store, dictionary = open_store(tmp_path / "runs"), Dictionary()
    feed(store, stream, dictionary=dictionary)
    (folder,) = (tmp_path / "runs").rglob(f"{RUN}/artifacts")
    (folder / "out").symlink_to(tmp_path)
    attacks = [("a", "link"), ("b", "missing"), ("c", "../secret"), ("d", "pipe")]
    attacks += [("out/e", "ok"), ("../f", "ok"), ("/g", "ok")]
    for path, staged in attacks:
        stream.artifact(run, path, staged)
    stream.point(run, "m", 1.0)
    feed(store, stream, staging, frames=[stream.frame()], dictionary=dictionary)
    assert {path.name for path in folder.iterdir()} == {"out"}
    assert not (tmp_path / "e").exists()
    (tag,) = (tmp_path / "runs").rglob("trainspool.problem")
    assert tag.read_text().count("\n") == 6
    account = store.account(RUN)
    assert (account["refused_events"], account["stored"]) == (7, 1)
    store.close()


def test_many_runs_stay_within_memory_and_each_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "RUNS_IN_MEMORY_MAX", 8)
    monkeypatch.setattr(memory, "OPEN_FILES_MAX", 4)
    stream, store, dictionary = Stream(), open_store(tmp_path), Dictionary()
    for turn in range(2):
        for number in range(30):
            run = stream.run(f"{number:032x}")
            if turn == 0:
                stream.start(run, f"run {number}")
            stream.points(run, {"a": turn, "b": number}, turn)
            if turn:
                stream.end(run)
            feed(store, stream, frames=[stream.frame()], dictionary=dictionary)
    assert len(store._memory._states) <= 8 and len(store._memory._open_files) <= 4
    asyncio.run(store.make_durable())
    for number in range(30):
        ref = RunRef(f"{number:032x}", "", None, "exp", True)
        assert store.is_settled(ref, stream.id)
        assert store.account(ref.run_id)["stored"] == 4
    store.close()


def test_the_account_of_a_run_is_read_from_its_folder_by_another_process(tmp_path: Path) -> None:
    stream, run = a_run()
    stream.points(run, {"a": 1.0, "b": 2.0})
    stream.event(ev.GAP, run, stream.now, 10, 2)
    stream.event(ev.GAP, run, stream.now, 17, 3)
    stream.frame()
    store = open_store(tmp_path)
    feed(store, stream)
    store.note_damage(OWNER, 5, 1)
    store.note_lag(OWNER, 42)
    store.checkpoint(force=True)
    found = reader.find_run(tmp_path, RUN[:5])
    assert found is not None
    account = reader.account(found, BOOT)
    assert account is not None and account == store.account(RUN)
    expected = {"accepted": 7, "stored": 2, "folded": 0, "dropped": 17, "damaged": 5, "unknown_tail": False}
    assert {key: account[key] for key in expected} == expected and account["worst_lag_ms"] == 42
    store.close()


def test_params_have_versions_and_tags_a_last_word(tmp_path: Path) -> None:
    stream, run = a_run()
    for number in range(limits.PARAM_VERSIONS_MAX + 3):
        stream.params(run, lr=f"{number}\r\n")
    stream.tags(run, {"t": "old"}, time=5)
    stream.tags(run, {"t": None}, time=9)
    stream.tags(run, {"t": "middle"}, time=7)
    stream.frame()
    store = open_store(tmp_path)
    feed(store, stream)
    files = {name.split("/", 2)[2]: data for name, data in contents(tmp_path).items() if f"/{RUN}/" in name}
    assert files["params/lr"] == b"0\n" and files["tags/param.lr.v16"] == b"15\n" and "tags/param.lr.v17" not in files
    assert "tags/t" not in files
    assert store.account(RUN)["refused_events"] == 3
    store.close()


def test_a_second_agent_on_the_same_root_finds_what_the_first_made(tmp_path: Path) -> None:
    one, two = open_store(tmp_path), open_store(tmp_path)
    stream, run = a_run()
    stream.point(run, "a", 1.0)
    stream.frame()
    feed(one, stream)
    feed(two, stream)
    (path,) = tmp_path.rglob("metrics/a")
    assert path.read_bytes().count(b"\n") == 1
    one.close()
    two.close()
