"""What a framework's names and values become: nothing that it reports may end a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainspool import validation
from trainspool.integrations import training


@given(st.text(max_size=600) | st.text("损a./ -", max_size=600))
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    key = training.key_of(name)
    assert validation.check_key(key) == key


@pytest.mark.parametrize("name", ["loss", "val/loss", "a b.c-d:e_f", "损失", "epoch"])
def test_a_name_that_mlflow_takes_stays_as_it_is(name: str) -> None:
    assert training.key_of(name) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("x" * 248 + "/..b", "x" * 248),
        ("a/" + "损" * 100, "a/" + "损" * 85),
        ("loss (mean)", "loss _mean_"),
        ("a//b/", "a/b"),
        ("/a", "a"),
        ("../a", "a"),
        ("", "_"),
        ("f1@0.5%", "f1_0.5_"),
    ],
)
def test_a_name_that_mlflow_refuses_is_mended(name: str, key: str) -> None:
    assert training.key_of(name) == key


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0), (True, 1.0), (numpy.float32(0.5), 0.5), (numpy.array([2.0]), 2.0), (numpy.array(3), 3.0),
        ("1.5", None), (b"1", None), (None, None), ([1.0], None), ({}, None), (numpy.ones(2), None), (10**400, None),
    ],
)  # fmt: skip
def test_one_number_of_any_kind_is_a_metric_and_nothing_else_is(value: Any, number: float | None) -> None:
    assert training.number(value) == number


class NotToBeShown:
    def __str__(self) -> str:
        raise RuntimeError("of its own")

    __float__ = __str__  # type: ignore[assignment]


def test_what_raises_when_it_is_asked_is_no_metric_and_a_param_by_its_kind() -> None:
    assert training.number(NotToBeShown()) is None
    assert training.text(NotToBeShown()) == "<NotToBeShown>"


def test_params_within_params_are_told_by_their_paths() -> None:
    nested = {"lr": 0.1, "optimizer": {"name": "sgd", "schedule": {"gamma": 2}}, "none": {}, 3: "three"}
    assert training.flat(nested) == {
        "lr": 0.1, "optimizer/name": "sgd", "optimizer/schedule/gamma": 2, "none": {}, "3": "three",
    }  # fmt: skip


def test_numbers_are_logged_together_and_the_rest_is_left_out() -> None:
    logged: list[tuple[dict[str, float], int]] = []
    run: Any = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((metrics, step)))
    training.log_numbers(run, {"loss (a)": 1, "text": "no", "pair": [1, 2]}, 3, prefix="p/")
    assert logged == [({"p/loss _a_": 1.0}, 3)]
