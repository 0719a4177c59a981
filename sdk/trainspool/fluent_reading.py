"""MLflow's function names that read the store: runs, experiments, points, in this process or in a fresh one.

Each first waits, not for ever, until the store has what this process logged. There is no client class: MlflowClient's
one reading call that has no fluent name, ``get_metric_history``, is a function here; code that is written to the class
is served by MLflow itself on trainspool's plugin.

Source: mlflow-store.md 4, tiers 2 and 3; MLflow's messages for what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trainspool import active, destination, validation
from trainspool.complaints import warn
from trainspool.entities import Experiment, Metric, StoredRun, ViewType
from trainspool.errors import RESOURCE_DOES_NOT_EXIST, TrainspoolException
from trainspool.reading import experiments, filters, layout, meta, runs
from trainspool.reading.layout import Place
from trainspool.run import Run
from trainspool.settling import settle
from trainspool.spool.experiments import DEFAULT_ID
from trainspool.stream import stream

PARENT_TAG = "mlflow.parentRunId"
OUTPUT_FORMATS = ("pandas", "list")


# -- runs -----------------------------------------------------------------------------------------------------------


def get_run(run_id: str) -> StoredRun:
    """Return a run as the store has it, deleted ones too.

    Raises:
        TrainspoolException: the store has no such run, or its ``meta.yaml`` cannot be read.
    """
    place = place_of_run(run_id)
    try:
        return runs.read(place)
    except (OSError, meta.UnreadableMeta) as error:
        message = f"Run '{run_id}' metadata is in invalid state: {place.folder}/{meta.META}: {error}"
        raise TrainspoolException(message, "INVALID_STATE") from error


def get_parent_run(run_id: str) -> StoredRun | None:
    """Return the run that *run_id* is nested in, or None. Errors as ``get_run``."""
    parent = get_run(run_id).data.tags.get(PARENT_TAG)
    return get_run(parent) if parent is not None else None


def last_active_run() -> Run | StoredRun | None:
    """Return the active run; else the one that was last active in this process, as the store has it; else None."""
    if active.current() is not None:
        return active.current()
    last = active.last()
    if last is None:
        return None
    settle()
    place = layout.find_run(stream.store, last.run_id)
    return last if place is None else get_run(last.run_id)


def get_metric_history(run_id: str, key: str) -> list[Metric]:
    """Return every point of a metric, in the order in which the store has them; none if the run has no such metric.

    Raises:
        TrainspoolException: there is no such run, or *key* can be no metric's.
    """
    validation.check_key(key)
    return runs.history(place_of_run(run_id), key)


def search_runs(
    experiment_ids: Sequence[str] | None = None,
    filter_string: str = "",
    run_view_type: int = ViewType.ACTIVE_ONLY,
    max_results: int = 100000,
    order_by: Sequence[str] | None = None,
    output_format: str = "pandas",
    search_all_experiments: bool = False,
    experiment_names: Sequence[str] | None = None,
) -> Any:
    """Return the runs of experiments that a filter takes.

    Args:
        experiment_ids: none, and no names: the current experiment.
        filter_string: e.g. ``metrics.loss < 0.5 AND params.model = 'cnn'``.
        run_view_type: 1 runs in use, 2 deleted ones, 3 all.
        max_results: the first so many.
        order_by: e.g. ``["metrics.loss ASC"]``; then, and without it, the last started first.
        output_format: ``pandas`` for a DataFrame, ``list`` for a list of runs.

    Raises:
        TrainspoolException: ids as well as names, or a filter that cannot be understood.
        ValueError: another output format.
        ImportError: pandas is not installed.
    """
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"Unsupported output format: {output_format}. Supported string values are 'pandas' or 'list'")
    if experiment_ids and experiment_names:
        raise TrainspoolException("Only experiment_ids or experiment_names can be used, but not both")
    settle()
    places = _places(experiment_ids, experiment_names, search_all_experiments)
    found = filters.search_runs(
        (run for place in places for run in experiments.runs_of(place, run_view_type)), filter_string, order_by
    )[:max_results]
    if output_format == "list":
        return found
    from trainspool.reading import frames

    return frames.frame(found)


def _places(ids: Sequence[str] | None, names: Sequence[str] | None, every: bool) -> Iterable[Place]:
    root = stream.store
    if ids:
        wanted = [stored_id(validation.check_experiment_id(one)) for one in ids]
    elif names:
        wanted = list(_ids_of(names))
    elif every:
        wanted = [place.name for place in layout.experiments(root) if not place.deleted]
    else:
        wanted = [current_experiment_id()]
    found = {place.name: place for place in reversed(list(layout.experiments(root)))}
    return [found[one] for one in dict.fromkeys(wanted) if one in found]


def _ids_of(names: Sequence[str]) -> Iterable[str]:
    for name in names:
        experiment = experiments.by_name(stream.store, name) if name is not None else None
        if experiment is not None:
            yield experiment.experiment_id
        elif name is not None:
            warn("Cannot retrieve experiment by name %s", name)


def place_of_run(run_id: str) -> Place:
    """Return where the store has a run, once it has what this process logged.

    Raises:
        TrainspoolException: it has no such run.
    """
    is_settled = settle()
    place = layout.find_run(stream.store, run_id)
    if place is None:
        raise not_found(f"Run '{run_id}' not found", is_settled)
    return place


# -- experiments ----------------------------------------------------------------------------------------------------


def get_experiment(experiment_id: str) -> Experiment:
    """Return an experiment as the store has it, deleted ones too.

    Raises:
        TrainspoolException: the store has no such experiment.
    """
    is_settled = settle()
    number = stored_id(validation.check_experiment_id(DEFAULT_ID if experiment_id is None else experiment_id))
    place = experiments.by_id(stream.store, number)
    found = experiments.read(place) if place is not None else None
    if found is None:
        raise not_found(f"Could not find experiment with ID {experiment_id}", is_settled)
    return found


def get_experiment_by_name(name: str) -> Experiment | None:
    """Return the experiment of that name as the store has it, deleted ones too, or None."""
    settle()
    return experiments.by_name(stream.store, name)


def search_experiments(
    view_type: int = ViewType.ACTIVE_ONLY,
    max_results: int | None = None,
    filter_string: str | None = None,
    order_by: Sequence[str] | None = None,
) -> list[Experiment]:
    """Return the experiments that a filter takes.

    Args:
        view_type: 1 those in use, 2 deleted ones, 3 all.
        max_results: the first so many; None: all.
        filter_string: e.g. ``name LIKE 'mnist%' AND tags.team = 'vision'``.
        order_by: e.g. ``["name"]``; without it the last created first.

    Raises:
        TrainspoolException: a filter that cannot be understood.
    """
    settle()
    return filters.search_experiments(experiments.listed(stream.store, view_type), filter_string, order_by)[
        :max_results
    ]


def current_experiment_id() -> str:
    """Return the id by which the store knows, or will know, the experiment that new runs belong to."""
    return stored_id(destination.current_experiment().experiment_id)


def stored_id(experiment_id: str) -> str:
    """Return the store's id of an experiment that this process knows by one made of its name.

    MLflow gives ids at random, so an experiment that it made has another one than we said when it was set.
    """
    name = destination.names_by_id.get(experiment_id)
    if name is None or experiments.by_id(stream.store, experiment_id) is not None:
        return experiment_id
    found = experiments.by_name(stream.store, name)
    return experiment_id if found is None else found.experiment_id


def not_found(message: str, is_settled: bool) -> TrainspoolException:
    """Return what to raise for a thing that the store does not have, or not yet."""
    if not is_settled:
        message += "; the store has not all that this process logged. Next: trainspool sync"
    return TrainspoolException(message, RESOURCE_DOES_NOT_EXIST)
