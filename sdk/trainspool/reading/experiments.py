"""The experiments of a store.

Source: mlflow-store.md 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainspool.entities import Experiment, StoredRun, ViewType
from trainspool.reading import layout, meta, runs
from trainspool.reading.layout import TAGS, Place
from trainspool.reading.skipping import left_out


def listed(root: str, view_type: int) -> Iterator[Experiment]:
    """Yield the experiments of a store that *view_type* shows, with their tags."""
    for place in layout.experiments(root):
        if shows(view_type, place.deleted) and (found := read(place)) is not None:
            yield found


def read(place: Place) -> Experiment | None:
    """Return the experiment at *place*; None if its ``meta.yaml`` cannot be read, which is told."""
    try:
        found = _experiment(meta.read(place.folder))
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        left_out(f"{place.folder}/{meta.META}", error)
        return None
    if found.experiment_id != place.name:
        left_out(f"{place.folder}/{meta.META}", f"it is of experiment {found.experiment_id}")
        return None
    return found._replace(tags=layout.texts(f"{place.folder}/{TAGS}"))


def by_id(root: str, experiment_id: str) -> Place | None:
    """Return where an experiment lies."""
    return next((place for place in layout.experiments(root) if place.name == experiment_id), None)


def by_name(root: str, name: str) -> Experiment | None:
    """Return the experiment called *name*. MLflow can make two: the one in use, then the older one counts."""
    found = [one for one in listed(root, ViewType.ALL) if one.name == name]
    found.sort(key=lambda one: (one.lifecycle_stage != "active", one.creation_time or 0, one.experiment_id))
    return found[0] if found else None


def runs_of(place: Place, view_type: int) -> Iterator[StoredRun]:
    """Yield the runs of the experiment at *place* that *view_type* shows; one that cannot be read is left out."""
    for folder in layout.runs(place):
        try:
            info = runs.info_of(folder, meta.read(folder.folder))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            left_out(f"{folder.folder}/{meta.META}", error)
            continue
        if shows(view_type, info.lifecycle_stage != "active"):
            yield runs.with_data(folder, info)


def shows(view_type: int, deleted: bool) -> bool:
    """Whether *view_type* shows what is deleted, or is not."""
    return view_type == ViewType.ALL or (view_type == ViewType.DELETED_ONLY) == deleted


def _experiment(values: dict[str, Any]) -> Experiment:
    created, updated = (None if values.get(key) is None else int(values[key]) for key in _TIMES)
    return Experiment(
        str(values["experiment_id"]),
        str(values["name"]),
        str(values.get("artifact_location") or ""),
        str(values.get("lifecycle_stage", "active")),
        created,
        updated,
    )


_TIMES = ("creation_time", "last_update_time")
