"""Where runs land: the store, and the experiment."""

from __future__ import annotations

import os
import time
from typing import Any

from trainspool import settings, validation
from trainspool.entities import Experiment
from trainspool.errors import TrainspoolException
from trainspool.spool import events
from trainspool.spool.experiments import DEFAULT_ID, experiment_id_for
from trainspool.stream import stream

chosen: list[Experiment] = []
"""The experiment that ``set_experiment`` named; empty until then."""
names_by_id: dict[str, str] = {}
_used_ids: set[str] = set()  # by this process, whether anybody knows them or not


def set_tracking_uri(uri: str | os.PathLike[str]) -> None:
    """Say where runs land: a folder, as a path, a ``file:`` or a ``trainspool:`` address.

    Raises:
        TrainspoolException: an address of a server or database; the message says what to do.
    """
    text = os.fspath(uri)
    folder = settings.folder_of(text)
    if folder is None:
        raise TrainspoolException(
            f"trainspool writes runs to folders; it cannot write to {text!r}. Next: set_tracking_uri('mlruns') or "
            "TRAINSPOOL_STORE=<folder>; 'mlflow migrate-filestore' takes the finished runs to a database"
        )
    is_default = not folder and text.startswith("trainspool:")
    stream.use_store(stream.store if is_default else folder or "mlruns")


def get_tracking_uri() -> str:
    """Return where runs land: an absolute folder."""
    return stream.store


def is_tracking_uri_set() -> bool:
    """Whether someone said where runs land: the program, the environment or a config file."""
    return stream.store_is_said


def set_experiment(
    experiment_name: str | None = None, experiment_id: str | None = None, trace_location: object = None
) -> Experiment:
    """Make the experiment that runs started from now on belong to; it is created if the store has none of that name.

    An id is looked for, in the store; for one that is not there it is waited, not for ever, as it may be on its way.

    Raises:
        TrainspoolException: neither or both of name and id, a name that cannot be one, or an id that nobody knows.
    """
    if (experiment_name is None) == (experiment_id is None):
        which = "Must specify exactly one of: `experiment_id` or `experiment_name`."
        raise TrainspoolException(which)
    stream.configured()  # before the variable below changes: it may have been handed to us with a run
    if experiment_name is not None:
        experiment = found = named(experiment_name)
        os.environ["TRAINSPOOL_EXPERIMENT"] = experiment.name
    else:
        experiment = _numbered(experiment_id)  # without the name that the store has: it may be changed there
        found = _known(experiment)
    chosen[:] = [experiment]
    stream.ensure()
    where = (stream.store, experiment.experiment_id, experiment.name or None)
    stream.ring.append(events.pack(events.EXPERIMENT, time.time_ns(), *where, []))
    return found


def _known(experiment: Experiment) -> Experiment:
    """Return an experiment as the store has it, or as this process uses it.

    Raises:
        TrainspoolException: the store has no such id, nor has it one with what this process logged.
    """
    number = experiment.experiment_id
    if number in names_by_id or number in _used_ids or stream.configured().disabled:
        return experiment
    from trainspool import fluent_reading, settling  # loaded when something is read
    from trainspool.reading import experiments

    is_settled, place = True, experiments.by_id(stream.store, number)
    if place is None and number != DEFAULT_ID:
        is_settled = settling.settle()
        place = experiments.by_id(stream.store, number)
        if place is None:
            raise fluent_reading.not_found(f"Could not find experiment with ID {number}", is_settled)
    return (None if place is None else experiments.read(place)) or experiment


def named(name: str) -> Experiment:
    validation.check_experiment_name(name)
    number = experiment_id_for(name)
    names_by_id[number] = name
    return Experiment(number, name, f"{stream.store}/{number}")


def numbered(experiment_id: Any) -> Experiment:
    """Return an experiment that a run is to be in, looked for nowhere."""
    experiment = _numbered(experiment_id)
    _used_ids.add(experiment.experiment_id)
    return experiment


def _numbered(experiment_id: Any) -> Experiment:
    number = validation.check_experiment_id(experiment_id)
    return Experiment(number, names_by_id.get(number, "Default" if number == "0" else ""), f"{stream.store}/{number}")


def current_experiment() -> Experiment:
    if chosen:
        return chosen[0]
    return configured_experiment() or named("Default")


def configured_experiment() -> Experiment | None:
    """Return the experiment that the environment or a config file names; None if they name none."""
    told = stream.configured()
    if told.experiment:
        return named(told.experiment)
    return numbered(told.experiment_id) if told.experiment_id else None
