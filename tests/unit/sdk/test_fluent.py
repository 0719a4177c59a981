"""The fluent functions and Run: what each call puts into the stream."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spooled
from spooled import Held, Place, shown

import trainspool as mlflow
from trainspool.errors import TrainspoolException
from trainspool.spool import events
from trainspool.stream import KEYSETS_MAX, stream

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def seen(here: Place) -> Callable[[], Held]:
    """What the stream holds now."""

    def look() -> Held:
        assert mlflow.flush(timeout=20)
        return here.stream()

    return look


Seen = Callable[[], Held]


# -- runs


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


# -- metrics


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (1, 1.0), (True, 1.0), ("1.5", 1.5), ("nan", math.nan), (math.inf, math.inf), (-math.inf, -math.inf),
        (1e300, 1e300), (np.float32(0.25), 0.25), (np.float64(0.1), 0.1), (np.int64(7), 7.0), (np.bool_(True), 1.0),
        (np.array(3.0), 3.0),
        (np.array([4.0]), 4.0), (10**20, 1e20), (-0.0, -0.0),
    ],
    ids=shown,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Conversion of an array")
def test_values_are_logged_as_float_makes_them_first_time_and_later(seen: Seen, value: Any, logged: float) -> None:
    for step in range(3):
        mlflow.log_metric("a", value, step=step)
        mlflow.log_metrics({"b": value, "c": 1}, step=step)
    found = [point[3] for point in seen().points if point[1] in "ab"]
    assert len(found) == 6 and all(math.isnan(one) if math.isnan(logged) else one == logged for one in found)


@pytest.mark.parametrize("value", ["abc", None, [1], {}, object(), np.array([1.0, 2.0]), 1j, ""], ids=shown)
def test_a_value_that_is_no_number_is_refused_first_time_and_later_and_nothing_is_logged(
    seen: Seen, value: Any
) -> None:
    mlflow.log_metric("known", 1)
    mlflow.log_metrics({"known": 1, "too": 2})
    for call in (
        lambda: mlflow.log_metric("known", value),
        lambda: mlflow.log_metric("new", value),
        lambda: mlflow.log_metrics({"known": value, "too": 2}),
        lambda: mlflow.log_metrics({"fine": 1, "new": value}),
    ):
        with pytest.raises(TrainspoolException):
            call()
    mlflow.log_metric("known", 2)
    assert [(point[1], point[3]) for point in seen().points] == [("known", 1), ("known", 1), ("too", 2), ("known", 2)]


@pytest.mark.parametrize(
    "step", [0, -1, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 3.0, np.int64(5), np.int64(2**40)]
)
def test_steps_of_64_bits_are_kept_first_time_and_later(seen: Seen, step: Any) -> None:
    for _ in range(2):
        mlflow.log_metric("a", 1, step=step)
        mlflow.log_metrics({"b": 1}, step=step)
    assert [point[2] for point in seen().points] == [int(step)] * 4


@pytest.mark.parametrize("step", ["1", 1.5, 2**63, math.nan], ids=shown)
def test_other_steps_are_refused_first_time_and_later(step: Any) -> None:
    for _ in range(2):
        with pytest.raises(TrainspoolException, match="step"):
            mlflow.log_metric("a", 1, step=step)
        with pytest.raises(TrainspoolException, match="step"):
            mlflow.log_metrics({"a": 1}, step=step)
        mlflow.log_metric("a", 1)
        mlflow.log_metrics({"a": 1})


def test_no_step_is_zero_and_no_time_is_now(seen: Seen) -> None:
    before = time.time_ns()
    for _ in range(2):
        mlflow.log_metric("a", 1)
        mlflow.log_metrics({"b": 1})
        mlflow.log_metric("c", 1, timestamp=1_700_000_000_123)
        mlflow.log_metrics({"d": 1}, timestamp=1_700_000_000_123)
    after = time.time_ns()
    for event in (event for event in seen().events if event[0] in (events.POINT, events.POINTS)):
        assert event[4] == 0
        if "c" in event[2] or "d" in event[2]:
            assert event[3] == 1_700_000_000_123_000_000
        else:
            assert before <= event[3] <= after


@pytest.mark.parametrize("count", [1, 20, 4096, 4097, 10_000])
def test_batches_of_any_size_are_kept_first_time_and_later(seen: Seen, count: int) -> None:
    batch = {f"key {number}": float(number) for number in range(count)}
    for step in range(3):
        mlflow.log_metrics(batch, step=step)
    assert [point[1:] for point in seen().points] == [(key, step, batch[key]) for step in range(3) for key in batch]


def test_a_batch_of_long_names_is_not_too_large_for_the_ring(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_RING_BYTES", str(256 << 10))
    batch = {f"{number:0250d}": float(number) for number in range(2000)}
    for step in range(2):
        for begin in range(0, 2000, 500):
            mlflow.log_metrics(dict(list(batch.items())[begin : begin + 500]), step=step)
            assert mlflow.flush(timeout=20)
    held = here.stream()
    assert [point[1] for point in held.points] == [*batch] * 2 and held.drops == {}


def test_thousands_of_long_names_at_once_fit_into_the_default_ring(here: Place) -> None:
    batch = {f"{number:0250d}": float(number) for number in range(9000)}
    for step in range(2):
        mlflow.log_metrics(batch, step=step)
    assert mlflow.flush(timeout=20)
    held = here.stream()
    assert [point[1] for point in held.points] == [*batch] * 2 and held.drops == {}


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


def test_an_empty_batch_is_nothing(seen: Seen) -> None:
    mlflow.start_run()
    mlflow.log_metrics({})
    mlflow.log_params({})
    mlflow.set_tags({})
    assert len(seen().events) == 1


def test_more_combinations_of_keys_than_are_remembered_are_kept_all_the_same(seen: Seen) -> None:
    for _ in range(2):
        for number in range(KEYSETS_MAX + 300):
            mlflow.log_metrics({"a": 1, f"b{number}": 2}, step=number)
    assert seen().steps("a") == [*range(KEYSETS_MAX + 300)] * 2
    assert len(stream.keysets) <= KEYSETS_MAX


def test_keys_beyond_every_size_of_an_id_are_kept(seen: Seen) -> None:
    mlflow.start_run()
    logged = [f"k{number}" for number in range(66_000)]
    for at, key in enumerate(logged):
        mlflow.log_metric(key, 1.0, step=at)
        if at % 5000 == 0:
            mlflow.flush(timeout=20)
    for at, key in ((126, "k126"), (127, "k127"), (128, "k128"), (255, "k255"), (256, "k256"), (65_535, "k65535")):
        mlflow.log_metric(key, 2.0, step=at)
    mlflow.log_metric("k65999", 2.0, step=65_999)
    held = seen()
    assert [point[1] for point in held.points][:66_000] == logged and held.drops == {}
    assert [(point[1], point[2]) for point in held.points if point[3] == 2.0][-1] == ("k65999", 65_999)


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


# -- params and tags


def test_params_are_kept_as_text_and_returned_as_given(seen: Seen) -> None:
    value = [1, 2]
    assert mlflow.log_param("list", value) is value
    mlflow.log_params({"none": None, "float": 1e-3, "text": "a\r\nb\rc", "bool": True, "np": np.float32(0.5)})
    assert seen().params == {
        "list": "[1, 2]", "none": "None", "float": "0.001", "text": "a\nb\nc", "bool": "True", "np": "0.5",
    }  # fmt: skip


def test_a_params_second_value_goes_on_and_warns_once_per_call(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.log_param("p", 1)
    mlflow.log_param("p", 1)
    assert caplog.records == []
    mlflow.log_param("p", 2)
    mlflow.log_params({"p": 3, "q": 1})
    mlflow.log_metric("a", 1)
    assert len(caplog.records) == 2 and "already '1'" in caplog.text and "param.p.v2" in caplog.text
    held = seen()
    assert held.params == {"p": "1", "q": "1"}
    assert [event[3] for event in held.of(events.PARAMS)] == [["p", "1"], ["p", "1"], ["p", "2"], ["p", "3", "q", "1"]]


def test_a_long_param_is_cut_and_said_so(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.log_param("p", "x" * 6000)
    assert caplog.records == []
    mlflow.log_param("q", "x" * 6001)
    assert "truncated to 6000 characters" in caplog.text
    assert {len(value) for value in seen().params.values()} == {6000}


def test_thousands_of_params_and_tags_in_one_call_are_kept(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_RING_BYTES", str(1 << 20))
    params = {f"p{number}": "é" * 300 for number in range(900)}
    mlflow.log_params(params)
    mlflow.flush(timeout=20)
    mlflow.set_tags(params)
    mlflow.flush(timeout=20)
    held = here.stream()
    assert held.params == params and held.tags.items() >= params.items()


@pytest.mark.parametrize("size", [31_000, 32_768, 32_769, 200_000, 3_000_000])
@pytest.mark.parametrize("letter", ["x", "学", "😀"])
def test_large_tags_are_kept_whole_even_beside_a_small_ring(
    here: Place, size: int, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINSPOOL_RING_BYTES", str(256 << 10))
    text = letter * (size // len(letter.encode()))
    mlflow.set_tags({"before": "b" * 8000, "large": text, "again": text, "after": "a"})
    assert mlflow.flush(timeout=20)
    tags = here.stream().tags
    assert (tags["before"], tags["large"], tags["again"], tags["after"]) == ("b" * 8000, text, text, "a")


@pytest.mark.parametrize("size", [100, 50_000, 2_000_000])
def test_a_run_starts_whatever_the_size_of_its_tags_description_and_name(here: Place, size: int) -> None:
    with mlflow.start_run(tags={"t": "x" * size}, description="y" * size, run_name="z" * size):
        mlflow.log_metric("a", 1)
    assert mlflow.flush(timeout=20)
    held = here.stream()
    assert len(held.of(events.START)) == 1 and len(held.ends) == 1 and held.steps("a") == [0]
    assert (held.tags["t"], held.tags["mlflow.note.content"]) == ("x" * size, "y" * size)
    assert held.tags["mlflow.runName"] == "z" * size


def test_tags_are_set_changed_and_deleted(seen: Seen) -> None:
    mlflow.set_tag("a", 1)
    mlflow.set_tag("a", None)
    mlflow.set_tags({"b": "1", "mlflow.runName": "renamed"})
    mlflow.delete_tag("b")
    with pytest.raises(TrainspoolException) as refused:
        mlflow.delete_tag("never set")
    assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert mlflow.active_run().info.run_name == "renamed"
    held = seen()
    assert held.tags["a"] == "" and held.tags["b"] is None and "never set" not in held.tags


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "😀" * 10, "\udcff"])
def test_texts_of_any_kind_are_kept(seen: Seen, text: str) -> None:
    mlflow.set_tag("a", text)
    mlflow.log_param("p", text)
    held = seen()
    assert held.tags["a"] is not None and held.params["p"] is not None


@pytest.mark.parametrize("call", [mlflow.log_param, mlflow.set_tag, mlflow.log_metric])
@pytest.mark.parametrize("key", ["", "a*b", "../a", None, 5, "x" * 251])
def test_a_key_that_cannot_be_one_is_refused_at_the_call(call: Any, key: Any) -> None:
    with pytest.raises(TrainspoolException) as refused:
        call(key, 1)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE" and isinstance(refused.value, ValueError)


# -- where


@pytest.mark.parametrize(
    "address", ["http://localhost:5000", "https://x", "databricks", "sqlite:///a.db", "postgresql://x"]
)
def test_an_address_of_a_server_is_refused_with_what_to_do(address: str) -> None:
    if address == "databricks":
        pytest.skip("a plain word is a folder's name")
    with pytest.raises(TrainspoolException, match="Next: set_tracking_uri"):
        mlflow.set_tracking_uri(address)


def test_the_store_is_a_folder_absolute_and_told_to_children(here: Place, tmp_path: Path, seen: Seen) -> None:
    assert mlflow.get_tracking_uri() == str(here.store)
    for said in (tmp_path / "other", f"file://{tmp_path}/other", f"file:{tmp_path}/other"):
        mlflow.set_tracking_uri(said)
        assert mlflow.get_tracking_uri() == os.environ["TRAINSPOOL_STORE"] == str(tmp_path / "other")
    assert mlflow.is_tracking_uri_set()
    with mlflow.start_run() as run:
        assert mlflow.get_artifact_uri("a/b") == f"{tmp_path}/other/0/{run.info.run_id}/artifacts/a/b"


def test_an_experiment_is_chosen_by_name_or_id(seen: Seen) -> None:
    made = mlflow.set_experiment("mnist")
    assert made.name == "mnist" and len(made.experiment_id) == 18
    with mlflow.start_run() as run:
        assert run.info.experiment_id == made.experiment_id
    mlflow.set_experiment(experiment_id="7")
    with mlflow.start_run() as run:
        assert run.info.experiment_id == "7"
    with mlflow.start_run(experiment_id="0") as run:
        assert run.info.experiment_id == "0"
    for wrong in (
        {},
        {"experiment_name": "a", "experiment_id": "1"},
        {"experiment_name": ""},
        {"experiment_id": "a/b"},
    ):
        with pytest.raises(TrainspoolException):
            mlflow.set_experiment(**wrong)
    assert [(event[3], event[4]) for event in seen().of(events.EXPERIMENT)] == [
        (made.experiment_id, "mnist"),
        ("7", None),
    ]


def test_the_environment_names_experiment_and_run(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_EXPERIMENT", "from outside")
    monkeypatch.setenv("TRAINSPOOL_RUN_NAME", "named outside")
    with mlflow.start_run() as run:
        assert run.experiment.name == "from outside" and run.info.run_name == "named outside"
    with mlflow.start_run(run_name="argument") as run:
        assert run.info.run_name == "argument"


# -- waiting


def test_flush_says_whether_the_spool_has_all(seen: Seen) -> None:
    assert mlflow.flush() is True, "nothing was logged"
    for step in range(1000):
        mlflow.log_metric("a", 1, step=step)
    assert mlflow.flush(timeout=20) is True
    assert mlflow.flush(durable=True, timeout=20) is True
    assert stream.pump is not None and stream.pump.synced_offset >= stream.ring.end


def test_wait_says_that_the_store_has_not_all_where_no_agent_is(seen: Seen) -> None:
    mlflow.log_metric("a", 1)
    begun = time.monotonic()
    assert mlflow.wait(timeout=0.2) is False
    assert time.monotonic() - begun < 5


def test_the_public_names_are_mlflows_and_documented() -> None:
    import mlflow as theirs

    ours = [name for name in mlflow.__all__ if callable(getattr(mlflow, name)) and name[0].islower()]
    assert len(ours) > 20
    for name in ours:
        assert getattr(mlflow, name).__doc__, name
    assert {"start_run", "log_metric", "log_metrics", "log_param", "set_tag", "log_artifact"} <= set(ours)
    import inspect

    for name in set(ours) & set(dir(theirs)) - {"wait", "flush"}:
        accepted = inspect.signature(getattr(mlflow, name)).parameters
        missing = [
            parameter for parameter in inspect.signature(getattr(theirs, name)).parameters if parameter not in accepted
        ]
        assert missing == [], f"{name} does not take {missing}"


def test_doctests_hold() -> None:
    import doctest
    import importlib
    import pkgutil

    import trainspool

    for module in pkgutil.walk_packages(trainspool.__path__, "trainspool."):
        if module.name.startswith("trainspool.integrations."):
            continue  # each needs its framework
        assert doctest.testmod(importlib.import_module(module.name)).failed == 0


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


def test_entities_have_mlflows_fields() -> None:
    with mlflow.start_run(run_name="n") as run:
        mlflow.log_param("p", 1)
        mlflow.set_tag("t", 2)
        info, data = run.info, run.data
    assert info.run_uuid == info.run_id and info.lifecycle_stage == "active" and info.end_time is None
    assert info.artifact_uri.endswith(f"/{info.experiment_id}/{info.run_id}/artifacts")
    assert data.params == {"p": "1"} and data.tags["t"] == "2" and data.metrics == {}


def test_oracle_agrees_with_the_readers_count(seen: Seen) -> None:
    for step in range(10):
        mlflow.log_metrics({"a": 1, "b": 2}, step=step)
    held = seen()
    assert held.counts == (11, 20) and isinstance(spooled.Held, type)


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
