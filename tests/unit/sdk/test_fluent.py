"""The logging functions and Run: what each call puts into the stream."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import spooled
from spooled import Place, Seen, shown

import trainspool as mlflow
from trainspool.errors import TrainspoolException
from trainspool.spool import events
from trainspool.stream import KEYSETS_MAX, stream

pytestmark = pytest.mark.usefixtures("here")


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
    assert held.tags["a"] == "None" and held.tags["b"] is None and "never set" not in held.tags


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


def test_oracle_agrees_with_the_readers_count(seen: Seen) -> None:
    for step in range(10):
        mlflow.log_metrics({"a": 1, "b": 2}, step=step)
    held = seen()
    assert held.counts == (11, 20) and isinstance(spooled.Held, type)


TENSORS = """
    import sys, warnings
    import torch
    import trainspool as mlflow

    warnings.simplefilter("error") if "error" in sys.argv else None
    loss = torch.tensor(1.5, requires_grad=True) * 2
    with mlflow.start_run():
        for step in range(3):
            mlflow.log_metric("loss", loss, step=step)
            mlflow.log_metrics({"a": loss, "b": torch.tensor([True])}, step=step)
            mlflow.log_metric("float first", loss if step else 0.0, step=step)
        try:
            mlflow.log_metric("two", torch.tensor([1.0, 2.0], requires_grad=True))
        except mlflow.TrainspoolException:
            print("refused", end="")
    """


@pytest.mark.parametrize("how", ["plain", "error"])
def test_a_tensor_with_a_gradient_is_logged_without_a_warning(here: Place, how: str) -> None:
    pytest.importorskip("torch")
    done = here.run(TENSORS, how)
    assert (done.out, done.err) == ("refused", "")
    values = {(key, step): value for _, key, step, value in here.stream().points}
    expected = {"loss": 3.0, "a": 3.0, "b": 1.0, "float first": 3.0}
    assert values == {(key, step): expected[key] for key in expected for step in range(3)} | {("float first", 0): 0.0}
