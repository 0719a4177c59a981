"""Datasets as ``log_input`` takes them: anything with MLflow's ``to_dict()``, or the same entries in a mapping.

Source: mlflow/data/dataset.py and mlflow/utils/validation.py of MLflow 3.17.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainspool.errors import TrainspoolException
from trainspool.texts import storable

CONTEXT = "mlflow.data.context"
_NEEDED = ("name", "digest", "source_type", "source")
_LIMITS = {"name": 500, "digest": 36, "source_type": 36, "source": 65535, "schema": 1048575, "profile": 16777215}


def described(dataset: Any) -> dict[str, str | None]:
    """Return a dataset's six texts.

    Raises:
        TrainspoolException: it is none, or MLflow would not take it.
    """
    about = dataset if isinstance(dataset, Mapping) else getattr(dataset, "to_dict", None)
    if callable(about):
        about = about()
    if not isinstance(about, Mapping):
        raise TrainspoolException(f"a dataset has to_dict(), or is a mapping of {', '.join(_LIMITS)}: {type(dataset)}")
    found = {name: _text(about.get(name)) for name in _LIMITS}
    for name in _NEEDED:
        if not found[name]:
            raise TrainspoolException(f"Dataset {name} cannot be None")
    for name, limit in _LIMITS.items():
        if len(found[name] or "") > limit:
            raise TrainspoolException(f"'{name}' exceeds the maximum length of {limit} characters")
    return found


def tags_of(dataset: Any, context: str | None, tags: Mapping[str, Any] | None) -> list[str]:
    """Return the tags of a dataset's use, keys and values in turn."""
    if (context or tags) and dataset is None:
        raise TrainspoolException("`dataset` must be specified if `context` or `tags` is specified.")
    said = {str(key): storable(str(value)) for key, value in (tags or {}).items()}
    if context:
        said[CONTEXT] = storable(str(context))
    return [text for pair in said.items() for text in pair]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return storable(value if isinstance(value, str) else json.dumps(value, default=str))
