"""What may be logged, compared with MLflow's own validation, key by key and value by value."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spooled import shown

from trainspool import validation
from trainspool.errors import TrainspoolException

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation as theirs

KEYS = [
    "loss", "train/loss", "a b", "a-b_c.d:e", "a/b/c", "é", "学习率", "данные", "a.", ".a", "a..b", "1", "-", "_",
    "", "/", "/a", "a/", "a//b", "./a", "a/./b", "a/../b", "..", "../a", ".", "...", "..a", "a\\b", "a\tb", "a*b",
    "a?b", "a%b", "a@b", "a#b", "a,b", "a(b)", "a+b", "a=b", "a'b", 'a"b', "a\nb", "a\0b", "😀", "x" * 249, "x" * 250,
]  # fmt: skip
VALUES = [
    0, 1, -1, 1.5, 10**30, True, False, math.nan, math.inf, -math.inf, np.float32(0.5), np.int64(3), np.bool_(True),
    np.array(2.5), np.array([2.5]),
    np.array([[1]]), np.array([1, 2]), np.array([]), np.float16("nan"),
    None, "abc", "", object(), [], {}, 1j, b"1", (1,),
]  # fmt: skip


def refusal(check: Any, *arguments: Any) -> str | None:
    """Return the message with which *check* refuses, None if it accepts."""
    try:
        check(*arguments)
    except (TrainspoolException, MlflowException) as error:
        assert error.error_code == "INVALID_PARAMETER_VALUE"
        return error.message
    return None


@pytest.mark.parametrize("key", KEYS, ids=shown)
def test_keys_are_taken_and_refused_as_by_mlflow_and_in_its_words(key: str) -> None:
    for check, parameter in (
        (theirs._validate_metric_name, "name"),
        (theirs._validate_param_name, "key"),
        (theirs._validate_tag_name, "key"),
    ):
        assert refusal(validation.check_key, key, parameter) == refusal(check, key)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab/. -_:*\\\té\0") | st.characters(codec="utf-8"), max_size=12))
def test_any_key_is_taken_or_refused_as_by_mlflow(key: str) -> None:
    if key.endswith("\n"):  # its pattern ends in $, which looks past a last newline; a file of that name breaks it
        assert refusal(validation.check_key, key)
    else:
        assert refusal(validation.check_key, key) == refusal(theirs._validate_metric_name, key)


def test_keys_that_its_stores_cannot_take_are_refused() -> None:
    for key in ("x" * 251, "é" * 128, "a/" + "学" * 86, None, 5, b"loss", ["a"]):
        assert refusal(validation.check_key, key)
    assert not refusal(validation.check_key, "é" * 127) and not refusal(
        validation.check_key, "学" * 85 + "/" + "学" * 85
    )


@pytest.mark.parametrize("value", VALUES, ids=shown)
def test_metric_values_are_taken_and_refused_as_by_mlflow(value: Any) -> None:
    from mlflow.tracking.metric_value_conversion_utils import convert_metric_value_to_float_if_possible

    def of_mlflow() -> float:
        converted = convert_metric_value_to_float_if_possible(value)
        theirs._validate_metric("k", converted, 1, 0)
        return float(converted)

    try:
        expected: Any = of_mlflow()
    except (MlflowException, TypeError, ValueError):
        with pytest.raises(TrainspoolException):
            validation.metric_value("k", value, 1)
        return
    found = validation.metric_value("k", value, 1)
    assert type(found) is float and (found == expected or (math.isnan(found) and math.isnan(expected)))


@pytest.mark.parametrize("step", [0, 5, -3, 2**62, -(2**63), 2**63 - 1, 3.0, np.int32(4), None])
def test_whole_steps_are_taken(step: Any) -> None:
    assert validation.step_number("k", 1.0, step) == int(step or 0)


@pytest.mark.parametrize("step", ["a", "1", 1.5, math.nan, math.inf, 2**63, -(2**63) - 1, [], object()], ids=shown)
def test_steps_that_mlflow_could_not_read_back_are_refused_in_its_words(step: Any) -> None:
    said = refusal(validation.step_number, "k", 1.0, step)
    assert said is not None and "metric 'k' (value=1.0). Step must be a valid long (64-bit integer)." in said


@pytest.mark.parametrize("timestamp", [-1, "x", math.nan, math.inf, [], object()], ids=shown)
def test_timestamps_are_refused_in_mlflows_words(timestamp: Any) -> None:
    said = refusal(validation.time_ns_from_ms, "k", 1.0, timestamp)
    assert said is not None and "Timestamp must be a nonnegative long (64-bit integer)" in said


def test_timestamps_are_milliseconds() -> None:
    assert validation.time_ns_from_ms("k", 1.0, 1_700_000_000_123) == 1_700_000_000_123_000_000
    assert validation.time_ns_from_ms("k", 1.0, 12.9) == 12_000_000


@pytest.mark.parametrize(
    "name", ["", None, "x" * 500, "x" * 501, "a b/c", "实验", 5, "tab\t"], ids=lambda v: repr(v)[:20]
)
def test_experiment_names_are_taken_and_refused_as_by_mlflow(name: Any) -> None:
    assert refusal(validation.check_experiment_name, name) == refusal(theirs._validate_experiment_name, name)


def test_an_experiment_name_that_mlflow_cannot_look_up_is_refused() -> None:
    assert refusal(validation.check_experiment_name, "it's")


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("abz09_-./ \n"), max_size=40))
def test_run_ids_are_a_part_of_those_mlflow_takes(run_id: str) -> None:
    if not refusal(validation.check_run_id, run_id):
        assert not refusal(theirs._validate_run_id, run_id) and len(run_id) <= 32


@pytest.mark.parametrize("run_id", ["", "../../etc", "a/b", "a b", "x" * 33, None, 7, "-a", "a\n"], ids=shown)
def test_run_ids_that_are_no_plain_names_are_refused(run_id: Any) -> None:
    assert refusal(validation.check_run_id, run_id)


@pytest.mark.parametrize("number", ["0", "123456789012345678", "a-b_c", 7])
def test_experiment_ids_are_plain_names(number: Any) -> None:
    assert validation.check_experiment_id(number) == str(number)
    for bad in ("", "..", "a/b", "-a", "x" * 65, None, 1.5, "0\n"):
        assert refusal(validation.check_experiment_id, bad)
