"""Datasets of a run, as events: MLflow's DatasetInput → trainspool's Run."""

from __future__ import annotations

from typing import Any

from trainspool.run import Run

_TEXTS = ("name", "digest", "source_type", "source", "schema", "profile")


def log_dataset(run: Run, one: Any) -> None:
    """Say that *run* used a dataset; *one* is MLflow's DatasetInput."""
    run._log_input(
        {name: getattr(one.dataset, name) for name in _TEXTS},
        [text for tag in one.tags for text in (tag.key, str(tag.value))],
    )
