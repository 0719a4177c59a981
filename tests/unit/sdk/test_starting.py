"""Runs of this process: what starting, resuming and ending one puts into the stream."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from spooled import Place, Seen

import trainspool as mlflow
from trainspool.errors import TrainspoolException
from trainspool.spool import events

pytestmark = pytest.mark.usefixtures("here")


def test_a_run_starts_with_mlflows_tags_and_ends_as_told(seen: Seen) -> None:
    run = mlflow.start_run(run_name="first", tags={"a": 1}, description="what for")
    assert mlflow.active_run() is run and run.info.status == "RUNNING" and len(run.info.run_id) == 32
    mlflow.end_run("KILLED")
    assert mlflow.active_run() is None and mlflow.last_active_run() is run
    held = seen()
    (start,) = held.of(events.START)
    assert start[1] == run.info.run_id and start[3]["name"] == "first" and start[3]["resume"] is False
    assert held.tags.items() >= {
        "mlflow.runName": "first", "a": "1", "mlflow.note.content": "what for", "mlflow.source.type": "LOCAL",
    }.items()  # fmt: skip
    assert {"mlflow.user", "mlflow.source.name"} <= held.tags.keys()
    assert held.ends == [(run.info.run_id, events.KILLED, None)]
    assert run.info.status == "KILLED" and run.info.end_time >= run.info.start_time


def test_a_with_block_ends_the_run_and_an_exception_in_it_makes_it_failed(seen: Seen) -> None:
    with mlflow.start_run():
        pass
    with pytest.raises(ZeroDivisionError), mlflow.start_run():
        _ = 1 / 0
    assert [(status, reason) for _, status, reason in seen().ends] == [
        (events.FINISHED, None), (events.FAILED, "ZeroDivisionError: division by zero"),
    ]  # fmt: skip


def test_nested_runs_know_their_parents(seen: Seen) -> None:
    with mlflow.start_run() as outer:
        with pytest.raises(TrainspoolException, match="nested=True"):
            mlflow.start_run()
        with mlflow.start_run(nested=True) as inner:
            mlflow.log_metric("a", 1)
        with mlflow.start_run(nested=True, parent_run_id=outer.info.run_id) as sibling:
            mlflow.log_metric("a", 2)
        with pytest.raises(TrainspoolException, match="does not match"):
            mlflow.start_run(nested=True, parent_run_id="0" * 32)
        mlflow.log_metric("a", 3)
    elsewhere = mlflow.start_run(parent_run_id="0" * 32)
    held = seen()
    parents = {event[1]: event[3]["tags"].get("mlflow.parentRunId") for event in held.of(events.START)}
    assert parents == {
        outer.info.run_id: None, inner.info.run_id: outer.info.run_id, sibling.info.run_id: outer.info.run_id,
        elsewhere.info.run_id: "0" * 32,
    }  # fmt: skip
    assert [run for run, *_ in held.points] == [run.info.run_id for run in (inner, sibling, outer)]


def test_a_run_is_resumed_by_its_id_as_argument_or_in_the_environment(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = "0123456789abcdef" * 2
    with mlflow.start_run(run_id=run_id) as run:
        assert run.info.run_id == run_id
    monkeypatch.setenv("TRAINSPOOL_RUN_ID", run_id)
    mlflow.start_run()
    assert mlflow.active_run().info.run_id == run_id and "TRAINSPOOL_RUN_ID" not in os.environ
    mlflow.end_run()
    with mlflow.start_run() as other:
        assert other.info.run_id != run_id
    starts = seen().of(events.START)
    assert [event[3]["resume"] for event in starts] == [True, True, False]
    assert "mlflow.source.name" not in starts[0][3]["tags"], "a resumed run keeps the tags it has"


@pytest.mark.parametrize("run_id", ["../../etc", "a/b", "", "x" * 33])
def test_a_run_id_that_is_no_plain_name_is_refused(run_id: str) -> None:
    if run_id:
        with pytest.raises(TrainspoolException, match="run_id"):
            mlflow.start_run(run_id=run_id)
    with pytest.raises(TrainspoolException, match="run_id"):
        mlflow.log_metric("a", 1, run_id=run_id)


def test_an_unknown_status_is_refused_and_the_run_goes_on() -> None:
    with mlflow.start_run():
        with pytest.raises(TrainspoolException, match="DONE"):
            mlflow.end_run("DONE")
        assert mlflow.active_run() is not None


def test_end_run_without_a_run_does_nothing() -> None:
    mlflow.end_run()


def test_ended_twice_it_ends_once(seen: Seen) -> None:
    run = mlflow.start_run()
    mlflow.end_run()
    run.end("FAILED")
    mlflow.end_run()
    assert [status for _, status, _ in seen().ends] == [events.FINISHED]


def test_a_run_ends_when_it_is_said_to_have_ended(seen: Seen) -> None:
    run = mlflow.start_run()
    run.end(end_time=run.info.start_time + 5)
    assert run.info.end_time == run.info.start_time + 5
    assert [event[2] for event in seen().of(events.END)] == [(run.info.start_time + 5) * 1_000_000]


def test_what_is_logged_after_the_end_still_belongs_to_the_run_as_from_a_guest(seen: Seen) -> None:
    run = mlflow.start_run()
    run.log_metric("a", 1)
    mlflow.end_run()
    run.log_metric("a", 2, step=1)
    run.set_tag("late", "yes")
    held = seen()
    assert [point[0] for point in held.points] == [run.info.run_id] * 2 and held.tags["late"] == "yes"
    assert len(held.ends) == 1


def test_a_log_call_without_a_run_starts_one(seen: Seen) -> None:
    mlflow.log_metric("a", 1)
    assert mlflow.active_run() is not None
    assert len(seen().of(events.START)) == 1


def test_another_runs_id_makes_a_guest(seen: Seen) -> None:
    other = "f" * 32
    with mlflow.start_run() as run:
        mlflow.log_metric("a", 1, run_id=other)
        mlflow.log_metrics({"b": 2}, run_id=other)
        mlflow.log_params({"p": 1}, run_id=other)
        mlflow.log_metric("c", 3, run_id=run.info.run_id)
    held = seen()
    assert [(point[0], point[1]) for point in held.points] == [(other, "a"), (other, "b"), (run.info.run_id, "c")]
    assert held.owned == {run.info.run_id} and [event[1] for event in held.of(events.PARAMS)] == [other]


def test_threads_without_a_run_of_their_own_log_to_the_processs_run(seen: Seen) -> None:
    own: list[str] = []

    def plain() -> None:
        mlflow.log_metric("plain", 1)

    def with_own_run() -> None:
        with mlflow.start_run() as run:
            own.append(run.info.run_id)
            mlflow.log_metric("own", 1)

    with mlflow.start_run() as run:
        for work in (plain, with_own_run, plain):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        mlflow.log_metric("main", 1)
    where = [(point[1], point[0]) for point in seen().points]
    assert where == [
        ("plain", run.info.run_id), ("own", own[0]), ("plain", run.info.run_id), ("main", run.info.run_id),
    ]  # fmt: skip


class Untold(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error", [Untold(), ValueError("\ud800"), ValueError("x" * 10**6), KeyError(b"\xff")], ids=range(4)
)
def test_no_exception_in_a_with_block_is_replaced_by_one_of_ours(seen: Seen, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, mlflow.start_run():
        raise error
    assert raised.value is error
    ((_, status, reason),) = seen().ends
    assert status == events.FAILED and reason.startswith(type(error).__name__) and len(reason) <= 500


def test_many_runs_in_one_process_stay_apart(seen: Seen) -> None:
    runs = []
    for number in range(300):
        with mlflow.start_run() as run:
            mlflow.log_metric("a", number)
            mlflow.log_metrics({"b": number, "c": number})
            runs.append(run.info.run_id)
    held = seen()
    assert [(point[0], point[3]) for point in held.points] == [(run, at) for at, run in enumerate(runs) for _ in "abc"]
    assert [run for run, *_ in held.ends] == runs


@pytest.mark.parametrize("size", [100, 50_000, 2_000_000])
def test_a_run_starts_whatever_the_size_of_its_tags_description_and_name(here: Place, size: int) -> None:
    with mlflow.start_run(tags={"t": "x" * size}, description="y" * size, run_name="z" * size):
        mlflow.log_metric("a", 1)
    assert mlflow.flush(timeout=20)
    held = here.stream()
    assert len(held.of(events.START)) == 1 and len(held.ends) == 1 and held.steps("a") == [0]
    assert (held.tags["t"], held.tags["mlflow.note.content"]) == ("x" * size, "y" * size)
    assert held.tags["mlflow.runName"] == "z" * size


def test_a_generated_name_is_readable_and_another_one_each_time() -> None:
    from trainspool.naming import random_run_name

    names = {random_run_name() for _ in range(200)}
    assert len(names) > 150 and all(len(name) <= 20 and name.count("-") == 2 for name in names)


def test_naming_leaves_the_scripts_random_numbers_alone() -> None:
    import random

    random.seed(7)
    expected = random.random()
    random.seed(7)
    with mlflow.start_run():
        mlflow.log_metric("a", 1)
    assert random.random() == expected


def test_a_run_handed_over_by_the_environment_keeps_its_name_and_experiment(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINSPOOL_RUN_ID", "ab" * 16)
    monkeypatch.setenv("TRAINSPOOL_EXPERIMENT", "the wrapper")
    mlflow.set_experiment("the script")
    with mlflow.start_run() as run:
        assert run.experiment.name == "the wrapper"
    with mlflow.start_run() as second:
        assert second.experiment.name == "the script"
    names = [start[3]["name"] for start in seen().of(events.START)]
    assert names == [None, second.info.run_name]


FORKS = """
    import json, multiprocessing
    import trainspool as mlflow

    def work(number):
        with mlflow.start_run(run_name=f"plain {number}") as plain:
            mlflow.log_metric("own", number)
            with mlflow.start_run(nested=True, run_name=f"below {number}"):
                pass
            try:
                mlflow.start_run()
            except mlflow.TrainspoolException as error:
                assert plain.run_id in str(error)
            else:
                raise AssertionError("a second run")
        with mlflow.start_run(nested=True, run_name=f"nested {number}"):
            pass
        with mlflow.start_run(parent_run_id="e" * 32, run_name=f"of another {number}"):
            pass
        mlflow.log_metric("inherited", number)
        assert mlflow.active_run().run_id == parent.run_id
        return plain.run_id

    with mlflow.start_run(run_name="parent") as parent:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            plain = pool.map(work, range(2), chunksize=1)
            pool.close()
            pool.join()
        mlflow.log_metric("after", 1)
    print(json.dumps([parent.run_id, plain]))
    """


def test_in_a_forked_child_the_parents_run_does_not_stand_in_the_way(here: Place) -> None:
    parent, plain = json.loads(here.run(FORKS).out)
    streams = here.streams()
    starts = {event[3]["name"]: event for held in streams for event in held.of(events.START)}
    parents = {name: event[3]["tags"].get("mlflow.parentRunId") for name, event in starts.items()}
    for number in range(2):
        assert parents[f"plain {number}"] is None and parents[f"below {number}"] == plain[number]
        assert parents[f"nested {number}"] == parent and parents[f"of another {number}"] == "e" * 32
    points = sorted(point for held in streams for point in held.points)
    expected = [(plain[n], "own", 0, float(n)) for n in range(2)] + [
        (parent, "inherited", 0, float(n)) for n in range(2)
    ]
    assert points == sorted([*expected, (parent, "after", 0, 1.0)])
    ends = [end for held in streams for end in held.ends]
    assert len(ends) == len(starts) == 9 and [end[1] for end in ends] == [events.FINISHED] * 9


def test_runs_of_one_millisecond_start_one_after_another(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    monkeypatch.setattr("trainspool.runevents._time_ns", lambda: now)
    runs = []
    for _ in range(3):
        with mlflow.start_run() as run:
            runs.append(run)
    runs.append(mlflow.new_run())
    with mlflow.start_run(run_id=runs[-2].run_id) as again:
        pass
    starts = [run.info.start_time for run in (*runs, again)]
    assert starts == sorted(set(starts)), "a resumed run begins after it ended"
    assert all(run.info.end_time >= run.info.start_time for run in runs[:3])
    ends = [event[2] // 1_000_000 for event in seen().of(events.END)]
    assert ends[:3] == starts[:3] and ends[-1] == starts[-1]


def test_a_tag_that_is_set_beats_the_one_that_its_run_began_with_ahead_of_the_clock(seen: Seen) -> None:
    for number in range(20):
        with mlflow.start_run(tags={"a": number}):
            mlflow.set_tag("a", "set")
    held = seen()
    starts = {event[1]: event[2] for event in held.of(events.START)}
    assert all(event[2] >= starts[event[1]] for event in held.of(events.TAGS) if "a" in event[3])
