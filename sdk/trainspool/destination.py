"""Where runs land: the store, and the experiment."""

from __future__ import annotations

import os
import time
from typing import Any

from trainspool import validation
from trainspool.entities import Experiment
from trainspool.errors import TrainspoolException
from trainspool.spool import events
from trainspool.spool.experiments import experiment_id_for
from trainspool.stream import stream

chosen: list[Experiment] = []
"""The experiment that ``set_experiment`` named; empty until then."""
names_by_id: dict[str, str] = {}
_uri_said: list[str] = []


def set_tracking_uri(uri: str | os.PathLike[str]) -> None:
    """Say where runs land: a folder, as a path or a ``file:`` address.

    Raises:
        TrainspoolException: an address of a server or database; the message says what to do.
    """
    import urllib.parse  # loaded when asked for: importing trainspool has a budget

    text = os.fspath(uri)
    scheme = urllib.parse.urlsplit(text).scheme
    if text.startswith("file:"):
        text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
    elif scheme and len(scheme) > 1:
        raise TrainspoolException(
            f"trainspool writes runs to folders; it cannot write to {text!r}. Next: set_tracking_uri('mlruns') or "
            "TRAINSPOOL_STORE=<folder>; 'mlflow migrate-filestore' takes the finished runs to a database"
        )
    _uri_said[:] = [os.fspath(uri)]
    stream.use_store(text or "mlruns")


def get_tracking_uri() -> str:
    """Return where runs land: an absolute folder."""
    return stream.store


def is_tracking_uri_set() -> bool:
    """Whether someone said where runs land: the program, or TRAINSPOOL_STORE."""
    return bool(_uri_said or os.environ.get("TRAINSPOOL_STORE"))


def set_experiment(
    experiment_name: str | None = None, experiment_id: str | None = None, trace_location: object = None
) -> Experiment:
    """Make the experiment that runs started from now on belong to; it is created if the store has none of that name.

    Raises:
        TrainspoolException: neither or both of name and id, or a name that cannot be one.
    """
    if (experiment_name is None) == (experiment_id is None):
        which = "Must specify exactly one of: `experiment_id` or `experiment_name`."
        raise TrainspoolException(which)
    stream.configured()  # before the variable below changes: it may have been handed to us with a run
    experiment = named(experiment_name) if experiment_name is not None else numbered(experiment_id)
    chosen[:] = [experiment]
    if experiment_name is not None:
        os.environ["TRAINSPOOL_EXPERIMENT"] = experiment.name
    stream.ensure()
    where = (stream.store, experiment.experiment_id, experiment.name or None)
    stream.ring.append(events.pack(events.EXPERIMENT, time.time_ns(), *where, []))
    return experiment


def named(name: str) -> Experiment:
    validation.check_experiment_name(name)
    number = experiment_id_for(name)
    names_by_id[number] = name
    return Experiment(number, name, f"{stream.store}/{number}")


def numbered(experiment_id: Any) -> Experiment:
    number = validation.check_experiment_id(experiment_id)
    return Experiment(number, names_by_id.get(number, "Default" if number == "0" else ""), f"{stream.store}/{number}")


def current_experiment() -> Experiment:
    if chosen:
        return chosen[0]
    return named(stream.configured().experiment or "Default")
