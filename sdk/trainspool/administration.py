"""MLflow's function names that make, tag, delete and restore experiments and runs.

What there is an event for goes the way of all events: an experiment's making and its tags. Deleting and restoring is
done on the store's files, once the store has what this process logged.

Source: mlflow-store.md 4, tiers 2 and 3; MLflow's messages.
"""

from __future__ import annotations

import contextlib
import os
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from trainspool import deletion, destination, validation
from trainspool.complaints import warn
from trainspool.errors import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TrainspoolException,
)
from trainspool.fluent_reading import current_experiment_id, not_found, place_of_run, stored_id
from trainspool.reading import experiments, layout, meta
from trainspool.runtexts import TEXT_BYTES_PER_EVENT
from trainspool.settling import settle
from trainspool.spool import events
from trainspool.spool.experiments import DEFAULT_ID
from trainspool.stream import stream
from trainspool.texts import storable

TAG_CHARACTERS_MAX = 20_000


# -- making ---------------------------------------------------------------------------------------------------------


def create_experiment(
    name: str,
    artifact_location: str | None = None,
    tags: Mapping[str, Any] | None = None,
    trace_location: object = None,
) -> str:
    """Make an experiment and return its id. Waits, not for ever, until the store has it.

    Artifacts lie in the runs' own folders, whatever *artifact_location* says: another folder is warned of.

    Raises:
        TrainspoolException: there is one of that name, deleted or not; the name or a tag cannot be one; artifacts
            would have to go to another kind of store.
    """
    validation.check_experiment_name(name)
    texts = _checked({key: "" if value is None else value for key, value in (tags or {}).items()})
    if trace_location is not None:
        raise TrainspoolException("trace_location names a Unity Catalog; trainspool keeps runs in folders")
    settle()
    _check_free(name)
    experiment = destination.named(name)
    _check_location(artifact_location, experiment.artifact_location)
    _made.add((stream.store, name))
    _tell(experiment.experiment_id, name, {})  # without tags: the name is chosen, whoever had its id before
    if texts:
        _tell(experiment.experiment_id, name, texts)
    settle()
    return stored_id(experiment.experiment_id)


_made: set[tuple[str, str]] = set()


def _check_free(name: str) -> None:
    found = experiments.by_name(stream.store, name)
    if found is not None and found.lifecycle_stage != deletion.ACTIVE:
        raise TrainspoolException(
            f"Experiment {name!r} already exists in deleted state. You can restore the experiment, or permanently "
            "delete it from the store's .trash folder in order to use this experiment name again.",
            RESOURCE_ALREADY_EXISTS,
        )
    current = destination.chosen
    if found is not None or (stream.store, name) in _made or (current and current[0].name == name):
        raise TrainspoolException(f"Experiment '{name}' already exists.", RESOURCE_ALREADY_EXISTS)


def _check_location(asked: str | None, ours: str) -> None:
    if not asked:
        return
    address = urllib.parse.urlsplit(str(asked))
    if address.scheme not in ("", "file"):
        raise TrainspoolException(
            f"trainspool keeps artifacts in the runs' folders; it cannot put them to {asked!r}. Next: leave out "
            "artifact_location, and copy the finished store where it is needed"
        )
    if os.path.abspath(urllib.parse.unquote(address.path)) != ours:
        warn("artifacts are kept in the runs' folders, below %s, not in artifact_location %r", ours, asked)


# -- tags -----------------------------------------------------------------------------------------------------------


def set_experiment_tag(key: str, value: Any) -> None:
    """Set a tag of the current experiment; the last value stays. Returns at once, as ``set_tag`` does.

    Raises:
        TrainspoolException: the key cannot name a tag, or the value is too long.
    """
    set_experiment_tags({key: value})


def set_experiment_tags(tags: Mapping[str, Any]) -> None:
    """Set several tags of the current experiment. Errors as ``set_experiment_tag``: then none is set."""
    texts = _checked(tags)
    experiment = destination.current_experiment()
    _tell(experiment.experiment_id, experiment.name, texts)


def delete_experiment_tag(key: str) -> None:
    """Delete a tag of the current experiment.

    Raises:
        TrainspoolException: it has no such tag, or is deleted.
    """
    validation.check_key(key, "key")
    is_settled = settle()
    number = current_experiment_id()
    place = experiments.by_id(stream.store, number)
    stored = experiments.read(place) if place is not None else None
    if stored is not None and stored.lifecycle_stage != deletion.ACTIVE:
        raise TrainspoolException(
            f"The experiment {number} must be in the 'active' lifecycle_stage to delete tags", INVALID_PARAMETER_VALUE
        )
    if is_settled and (stored is None or key not in stored.tags):
        raise TrainspoolException(f"No tag with name: {key} in experiment with id {number}", RESOURCE_DOES_NOT_EXIST)
    experiment = destination.current_experiment()
    _tell(experiment.experiment_id, experiment.name, {key: None})


def _checked(tags: Mapping[str, Any]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for key, value in tags.items():
        text = storable(str(value))
        if len(text) > TAG_CHARACTERS_MAX:
            raise TrainspoolException(f"'value' exceeds the maximum length of {TAG_CHARACTERS_MAX} characters")
        texts[validation.check_key(key, "key")] = text
    return texts


def _tell(experiment_id: str, name: str, tags: Mapping[str, str | None]) -> None:
    """Say that there is an experiment, and what tags it has from now on."""
    stream.ensure()
    flat: list[str | None] = []
    size = 0
    for key, text in tags.items():
        flat += (key, text)
        size += 4 * (len(key) + len(text or ""))
        if size >= TEXT_BYTES_PER_EVENT:
            _append(experiment_id, name, flat)
            flat, size = [], 0
    if flat or not tags:
        _append(experiment_id, name, flat)


def _append(experiment_id: str, name: str, flat: list[str | None]) -> None:
    event = events.pack(events.EXPERIMENT, time.time_ns(), stream.store, experiment_id, name or None, flat)
    if not stream.ring.append(event):
        stream.owed.append(lambda: stream.ring.append(event))


# -- deleting and restoring -----------------------------------------------------------------------------------------


def delete_run(run_id: str) -> None:
    """Mark a run deleted; nothing of it is removed.

    Raises:
        TrainspoolException: the store has no such run, or its ``meta.yaml`` cannot be read.
        OSError: the store cannot be written.
    """
    _mark_run(run_id, deleted=True)


def restore_run(run_id: str) -> None:
    """Bring a deleted run back. Errors as ``delete_run``."""
    _mark_run(run_id, deleted=False)


def delete_experiment(experiment_id: str) -> None:
    """Mark an experiment and its runs deleted, and move it to the store's trash.

    Raises:
        TrainspoolException: the store has no such experiment in use, or it is the default one.
        OSError: the store cannot be written.
    """
    if _is_disabled():
        return
    is_settled = settle()
    number = stored_id(validation.check_experiment_id(experiment_id))
    if number == DEFAULT_ID:
        raise TrainspoolException(
            f"Cannot delete the default experiment '{DEFAULT_ID}'. This is an internally reserved experiment."
        )
    place = experiments.by_id(stream.store, number)
    if place is None or place.deleted:
        raise not_found(f"Could not find experiment with ID {experiment_id}", is_settled)
    with _telling(f"Experiment '{experiment_id}'"):
        deletion.delete_experiment(stream.store, place)


def restore_experiment(experiment_id: str) -> None:
    """Bring a deleted experiment back, and all its runs.

    Raises:
        TrainspoolException: there is no deleted experiment of that id, or one in use has it.
        OSError: the store cannot be written.
    """
    if _is_disabled():
        return
    is_settled = settle()
    number = stored_id(validation.check_experiment_id(experiment_id))
    places = [place for place in layout.experiments(stream.store) if place.name == number]
    deleted = next((place for place in places if place.deleted), None)
    if deleted is None:
        raise not_found(f"Could not find deleted experiment with ID {experiment_id}", is_settled)
    if len(places) > 1:
        raise TrainspoolException(
            f"Cannot restore experiment with ID {experiment_id}. An experiment with same ID already exists.",
            RESOURCE_ALREADY_EXISTS,
        )
    with _telling(f"Experiment '{experiment_id}'"):
        deletion.restore_experiment(stream.store, deleted)


def _mark_run(run_id: str, *, deleted: bool) -> None:
    if _is_disabled():
        return
    place = place_of_run(run_id)
    with _telling(f"Run '{run_id}'"):
        deletion.mark_run(place, deleted=deleted)


def _is_disabled() -> bool:
    """TRAINSPOOL_DISABLED makes every call a no-op that changes anything."""
    return stream.configured().disabled


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except meta.UnreadableMeta as error:
        raise TrainspoolException(f"{what} metadata is in invalid state: {error}", "INVALID_STATE") from error
