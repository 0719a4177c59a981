"""What the fluent calls return: plain values, iterated as MLflow's are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from trainspool import entities

METRIC = entities.Metric("loss", 0.5, 10, 1)
DATASET = entities.Dataset("mnist", "d", "local", "{}")
INPUT = entities.DatasetInput(DATASET, [entities.InputTag("a", "b")])
INFO = entities.RunInfo("r" * 32, "name", "0", "u", "FINISHED", 1, 2, "/store/0/r/artifacts")
DATA = entities.RunData({"p": "1"}, {"t": "2"}, {"m": 3.0})
RUN = entities.StoredRun(INFO, DATA, entities.RunInputs([INPUT]))
EVERY = [METRIC, DATASET, INPUT, INPUT.tags[0], INFO, DATA, RUN, RUN.inputs, entities.FileInfo("a", False, 1),
         entities.Experiment("0", "Default", "/store/0")]  # fmt: skip


@pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)
def test_an_entity_is_a_dictionary_by_its_names_as_in_mlflow(one: Any) -> None:
    pairs = dict(one)
    assert list(pairs) == sorted(one.__match_args__) and all(getattr(one, name) == pairs[name] for name in pairs)


@pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)
def test_an_entity_is_copied_changed_and_pickled_as_a_plain_value(one: Any) -> None:
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), one._replace()):
        assert type(other) is type(one) and other == one and repr(other) == repr(one)
    first = one.__match_args__[0]
    assert one._replace(**{first: "x"})._asdict() == {**one._asdict(), first: "x"}


def test_a_run_is_plain_values_all_the_way_down() -> None:
    assert RUN.to_dictionary() == {
        "info": dict(INFO),
        "data": {"metrics": {"m": 3.0}, "params": {"p": "1"}, "tags": {"t": "2"}},
        "inputs": {"dataset_inputs": [{"dataset": dict(DATASET), "tags": {"a": "b"}}]},
    }
    assert METRIC.to_dictionary()["value"] == 0.5
