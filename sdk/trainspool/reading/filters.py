"""Which runs and experiments a filter takes, and their order.

Source: mlflow/utils/search_utils.py of MLflow 3.17 for the meaning of each comparison and the order of what is absent.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trainspool.entities import Experiment, StoredRun
from trainspool.errors import TrainspoolException
from trainspool.reading import grammar
from trainspool.reading.grammar import ATTRIBUTE, DATASET, METRIC, PARAM, TAG, Clause, Language, Order

_CONTEXT_TAG = "mlflow.data.context"
_RUN_ATTRIBUTES = frozenset(("artifact_uri", "end_time", "run_id", "run_name", "start_time", "status", "user_id"))
_TIME_ALIASES = {"created": "start_time", "Created": "start_time"}
_NAME_ALIASES = dict.fromkeys(("run name", "Run name", "Run Name"), "run_name")
_EXPERIMENT_ATTRIBUTES = frozenset(("name", "experiment_id", "creation_time", "last_update_time"))

RUNS = Language(
    kinds={
        **dict.fromkeys(("metric", "metrics"), METRIC),
        **dict.fromkeys(("parameter", "parameters", "param", "params"), PARAM),
        **dict.fromkeys(("tag", "tags"), TAG),
        **dict.fromkeys(("attribute", "attributes", "attr", "run"), ATTRIBUTE),
        **dict.fromkeys(("dataset", "datasets"), DATASET),
    },
    shown="['metric', 'parameter', 'tag', 'attribute', 'dataset']",
    keys={
        ATTRIBUTE: _RUN_ATTRIBUTES | frozenset((*_TIME_ALIASES, *_NAME_ALIASES)),
        DATASET: frozenset(("name", "digest", "context")),
    },
    numeric=frozenset(("start_time", "end_time", *_TIME_ALIASES)),
    lists=frozenset(((ATTRIBUTE, "run_id"), (DATASET, "name"), (DATASET, "digest"), (DATASET, "context"))),
    nulls=frozenset((TAG, PARAM)),
    nulls_shown="tags and params",
    aliases={**_TIME_ALIASES, **_NAME_ALIASES},
    orders=_RUN_ATTRIBUTES | frozenset(_TIME_ALIASES),
)
EXPERIMENTS = Language(
    kinds={"attribute": ATTRIBUTE, "tag": TAG, "tags": TAG},
    shown="('attribute', 'tag', 'tags')",
    keys={ATTRIBUTE: _EXPERIMENT_ATTRIBUTES},
    numeric=frozenset(("creation_time", "last_update_time")),
    lists=frozenset(((ATTRIBUTE, "experiment_id"),)),
    nulls=frozenset((TAG,)),
    nulls_shown="tags",
    aliases={},
    orders=_EXPERIMENT_ATTRIBUTES,
)


# -- runs -----------------------------------------------------------------------------------------------------------


def search_runs(runs: Iterable[StoredRun], filter_string: str, order_by: Sequence[str] | None) -> list[StoredRun]:
    """Return the runs that the filter takes; ordered as said, then the last started first, then by id.

    Raises:
        TrainspoolException: the filter or an order cannot be understood.
    """
    clauses = grammar.parse_filter(RUNS, filter_string)
    orders = [grammar.parse_order(RUNS, text) for text in order_by or ()]
    if any(order.kind == DATASET for order in orders):
        raise TrainspoolException(f"Invalid order_by entity type '{DATASET}'")
    found = [run for run in runs if all(_takes(clause, _of_run(run, clause)) for clause in clauses)]
    found.sort(key=lambda run: (-run.info.start_time, run.info.run_id))
    for order in reversed(orders):
        found.sort(key=functools.partial(_rank, order), reverse=not order.ascending)
    return found


def _of_run(run: StoredRun, clause: Clause | Order) -> list[Any]:
    """Return what a run has for an identifier: one value, or None, or of each of its datasets."""
    kind, key = clause.kind, clause.key
    if kind == DATASET:
        used = run.inputs.dataset_inputs
        if key == "context":
            return [tag.value for one in used for tag in one.tags if tag.key == _CONTEXT_TAG]
        return [getattr(one.dataset, key) for one in used]
    if kind == ATTRIBUTE:
        return [getattr(run.info, key)]
    if kind == METRIC:
        return [run.data.metrics.get(key)]
    return [(run.data.params if kind == PARAM else run.data.tags).get(key)]


def _rank(order: Order, run: StoredRun) -> tuple[bool, Any]:
    """What is absent comes last either way, before it what is no number."""
    value = _of_run(run, order)[0]
    infinity = math.inf if order.ascending else -math.inf
    if value is None:
        return order.ascending, infinity
    if isinstance(value, float) and math.isnan(value):
        return order.ascending, -infinity
    return not order.ascending, value


# -- experiments ----------------------------------------------------------------------------------------------------


def search_experiments(
    experiments: Iterable[Experiment], filter_string: str | None, order_by: Sequence[str] | None
) -> list[Experiment]:
    """Return the experiments that the filter takes; ordered as said, else the last created first.

    Raises:
        TrainspoolException: the filter or an order cannot be understood.
    """
    clauses = grammar.parse_filter(EXPERIMENTS, filter_string)
    orders = [grammar.parse_order(EXPERIMENTS, text) for text in order_by or ("creation_time DESC", "experiment_id")]
    for order in orders:
        if order.kind != ATTRIBUTE:
            raise TrainspoolException(f"Invalid order_by entity: {order.kind}")
    found = [one for one in experiments if all(_takes(clause, [_of_experiment(one, clause)]) for clause in clauses)]
    found.sort(key=lambda one: one.experiment_id, reverse=True)
    for order in reversed(orders):
        absent = [one for one in found if getattr(one, order.key) is None]
        present = [one for one in found if getattr(one, order.key) is not None]
        present.sort(key=operator.attrgetter(order.key), reverse=not order.ascending)
        found = present + absent
    return found


def _of_experiment(experiment: Experiment, clause: Clause) -> Any:
    return experiment.tags.get(clause.key) if clause.kind == TAG else getattr(experiment, clause.key)


# -- comparisons ----------------------------------------------------------------------------------------------------


def _takes(clause: Clause, values: list[Any]) -> bool:
    if clause.comparator in grammar.NULL_COMPARATORS:
        return (values[0] is None) == (clause.comparator == "IS NULL")
    compare = _COMPARISONS[clause.comparator]
    return any(value is not None and compare(value, clause.value) for value in values)


def _like(text: str, pattern: Any, flags: int = 0) -> bool:
    return _like_pattern(pattern, flags).match(text) is not None


@functools.lru_cache(maxsize=256)
def _like_pattern(pattern: str, flags: int) -> re.Pattern[str]:
    wild = {"%": ".*", "_": "."}
    expression = "".join(wild.get(character) or re.escape(character) for character in pattern)
    return re.compile(expression if pattern.endswith("%") else expression + "$", flags)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "LIKE": _like,
    "ILIKE": functools.partial(_like, flags=re.IGNORECASE),
    "IN": lambda value, listed: value in listed,
    "NOT IN": lambda value, listed: value not in listed,
}
