"""Metrics as MLflow's client hands them over → the log calls of trainspool's Run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from trainspool import validation
from trainspool.run import Run
from trainspool.stream import stream

_TIMESTAMP_END, _STEP_END = 1 << 43, 1 << 63


class _Epoch(int):
    """1970-01-01: Run takes a 0 for "now", as MLflow's fluent calls do; its client, and so its store, means it."""

    def __bool__(self) -> bool:
        return True


_EPOCH = _Epoch()


def log_metric(run: Run, metric: Any) -> None:
    """Log one point.

    Raises:
        TrainspoolException: MLflow would refuse it.
    """
    run.log_metric(metric.key, metric.value, metric.step, metric.timestamp or _EPOCH)


class Points(NamedTuple):
    """A batch that was looked through: points by step and time, and those that belong to a logged model, too."""

    batches: list[tuple[dict[str, float], int, int]]
    of_models: list[Any]

    def log(self, run: Run) -> None:
        for values, step, timestamp in self.batches:
            run.log_metrics(values, step, timestamp or _EPOCH)


def checked(metrics: Iterable[Any]) -> Points:
    """Return *metrics* ready to be logged.

    Raises:
        TrainspoolException: one of them is none that MLflow takes; then none is logged.
    """
    found = Points([], [])
    known = stream.keys  # what the stream has a number for was looked at before
    values: dict[str, float] = {}
    at: tuple[int, int] | None = None
    for metric in metrics:
        key, value, step, timestamp = metric.key, metric.value, metric.step, metric.timestamp
        if not (
            key in known
            and type(value) is float
            and type(step) is type(timestamp) is int
            and 0 <= timestamp < _TIMESTAMP_END
            and -_STEP_END <= step < _STEP_END
        ):
            _check(key, value, step, timestamp)
        if (step, timestamp) != at or key in values:
            at, values = (step, timestamp), {}
            found.batches.append((values, step, timestamp))
        values[key] = value
        if getattr(metric, "model_id", None) is not None:
            found.of_models.append(metric)
    return found


def _check(key: Any, value: Any, step: Any, timestamp: Any) -> None:
    validation.check_key(key)
    validation.metric_value(key, value, timestamp)
    validation.step_number(key, value, step)
    validation.time_ns_from_ms(key, value, timestamp)
