"""Runs as a table: MLflow's columns, in MLflow's groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from trainspool.entities import StoredRun


def frame(runs: Sequence[StoredRun]) -> Any:
    """Return a ``pandas.DataFrame`` with a row a run; metrics that are absent are NaN, params and tags None.

    Within metrics, params and tags the columns come as the runs bring them, by name within a run; MLflow has them in
    another order in every process.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "search_runs gives a pandas.DataFrame, and pandas is missing. Next: pip install pandas, or "
            "output_format='list'"
        ) from error
    columns: dict[str, list[Any]] = {
        "run_id": [run.info.run_id for run in runs],
        "experiment_id": [run.info.experiment_id for run in runs],
        "status": [run.info.status for run in runs],
        "artifact_uri": [run.info.artifact_uri for run in runs],
        "start_time": [pd.to_datetime(run.info.start_time, unit="ms", utc=True) for run in runs],
        "end_time": [pd.to_datetime(run.info.end_time, unit="ms", utc=True) for run in runs],
    }
    columns.update(_columns(runs, "metrics", lambda run: run.data.metrics, math.nan))
    columns.update(_columns(runs, "params", lambda run: run.data.params, None))
    columns.update(_columns(runs, "tags", lambda run: run.data.tags, None))
    return pd.DataFrame(columns)


def _columns(
    runs: Sequence[StoredRun], group: str, values: Callable[[StoredRun], dict[str, Any]], absent: float | None
) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for run in runs for key in sorted(values(run)))
    return {f"{group}.{key}": [values(run).get(key, absent) for run in runs] for key in keys}
