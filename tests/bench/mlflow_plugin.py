"""What ``MLFLOW_TRACKING_URI=trainspool:`` adds to a log call: MLflow's layer over our store and one of nothing."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from typing import Any

from bench.harness import Place, Spread, short, spread, time_calls, worker
from bench.table import Line

ADDED_US_MAX = 20.0
BATCH = 20
ROUNDS = 4
STORES = ("nothing:", "trainspool:")


def plugin(place: Place, quick: bool) -> list[Line]:
    """Fluent and client calls, p50 and p99 in µs; the budget is for what the plugin adds to the p50."""
    found = worker(measure, place, calls=100 if quick else 1000)
    return [_line(name, *(Spread(*found[name][store]) for store in STORES)) for name in found]


def _line(name: str, nothing: Spread, ours: Spread) -> Line:
    added = ours.p50 - nothing.p50
    return Line(
        f"plugin: {name}, p50 / p99",
        f"{short(ours.p50)} / {short(ours.p99)} µs, adds {short(max(0.0, added))}",
        f"adds ≤ {ADDED_US_MAX:g} µs",
        ((added, ADDED_US_MAX),),
        f"a store that does nothing: {short(nothing.p50)} / {short(nothing.p99)} µs",
        ours.p50 / nothing.p50,
    )


def measure(calls: int) -> dict[str, dict[str, Spread]]:
    """In a process of its own: the two stores in turn, so that both meet the same box."""
    import mlflow
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    _tracking_store_registry.register("nothing", _does_nothing)
    taken: dict[str, dict[str, array[int]]] = {}
    for _ in range(ROUNDS):
        for store in STORES:
            mlflow.set_tracking_uri(store)
            with mlflow.start_run(experiment_id="0") as run:
                for name, call in _calls(run.info.run_id).items():
                    time_calls(call, calls // 10)
                    taken.setdefault(name, {}).setdefault(store, array("q")).extend(time_calls(call, calls))
    return {name: {store: spread(times) for store, times in stores.items()} for name, stores in taken.items()}


def _calls(run_id: str) -> dict[str, Callable[[str, float, int], Any]]:
    import mlflow
    from mlflow.entities import Metric

    client = mlflow.MlflowClient()
    values = {f"metric {number}": number / 7 for number in range(BATCH)}

    def log_batch(key: str, value: float, step: int) -> None:
        client.log_batch(run_id, [Metric(name, value, 1_600_000_000_000, step) for name in values])

    return {
        "MlflowClient.log_metric": lambda key, value, step: client.log_metric(run_id, key, value, step=step),
        f"MlflowClient.log_batch of {BATCH}": log_batch,
        "mlflow.log_metric": lambda key, value, step: mlflow.log_metric(key, value, step=step),
        "mlflow.log_metric(run_id=)": lambda key, value, step: mlflow.log_metric(key, value, step=step, run_id=run_id),
        f"mlflow.log_metrics of {BATCH}": lambda key, value, step: mlflow.log_metrics(values, step=step),
        "mlflow.set_tag": lambda key, value, step: mlflow.set_tag("at", step),
    }


def _does_nothing(store_uri: str, artifact_uri: str | None = None) -> Any:
    from mlflow.entities import Run, RunData, RunInfo, RunInputs, RunOutputs
    from mlflow.store.tracking.abstract_store import AbstractStore

    info = RunInfo("f" * 32, "0", "bench", "RUNNING", 1, None, "active", "/nowhere", "bench")
    run = Run(info, RunData(), RunInputs([]), RunOutputs([]))

    class DoesNothing(AbstractStore):
        def create_run(self, *_: Any, **__: Any) -> Any:
            return run

        get_run = create_run

        def log_batch(self, *_: Any, **__: Any) -> None:
            return None

        log_metric = log_param = set_tag = update_run_info = log_batch

    return DoesNothing()
