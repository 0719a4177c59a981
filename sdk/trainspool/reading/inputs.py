"""The datasets a run used, as ``log_input`` left them in the store.

Source: mlflow-store.md 1.8.
"""

from __future__ import annotations

import os
from typing import Any

from trainspool.entities import Dataset, DatasetInput, InputTag, RunInputs
from trainspool.reading import meta
from trainspool.reading.layout import INPUTS, Place
from trainspool.reading.skipping import left_out

DATASETS, DATASET = "datasets", "DATASET"


def of_run(place: Place) -> RunInputs:
    """Return the datasets of the run at *place*; what cannot be read of them is left out."""
    folder = f"{place.folder}/{INPUTS}"
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return RunInputs([])
    datasets = f"{os.path.dirname(place.folder)}/{DATASETS}"
    found = [_input(f"{folder}/{name}", datasets) for name in names]
    return RunInputs([one for one in found if one is not None])


def _input(folder: str, datasets: str) -> DatasetInput | None:
    try:
        values = meta.read(folder)
        if values.get("source_type") != DATASET:
            return None  # of a model
        about = meta.read(f"{datasets}/{os.path.basename(str(values['source_id']))}")
        tags = [InputTag(str(key), str(value)) for key, value in dict(values.get("tags") or {}).items()]
        return DatasetInput(_dataset(about), tags)
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        left_out(folder, error)
        return None


def _dataset(values: dict[str, Any]) -> Dataset:
    optional = (None if values.get(key) is None else str(values[key]) for key in ("schema", "profile"))
    return Dataset(*(str(values[key]) for key in ("name", "digest", "source_type", "source")), *optional)
