"""What trainspool offers by name, and what MLflow does."""

from __future__ import annotations

import pytest

import trainspool as mlflow

pytestmark = pytest.mark.usefixtures("here")


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


def test_entities_have_mlflows_fields() -> None:
    with mlflow.start_run(run_name="n") as run:
        mlflow.log_param("p", 1)
        mlflow.set_tag("t", 2)
        info, data = run.info, run.data
    assert info.run_uuid == info.run_id and info.lifecycle_stage == "active" and info.end_time is None
    assert info.artifact_uri.endswith(f"/{info.experiment_id}/{info.run_id}/artifacts")
    assert data.params == {"p": "1"} and data.tags["t"] == "2" and data.metrics == {}
