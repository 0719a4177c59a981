"""What a database of MLflow's holds, and whether that is all of a store."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from trainspool_agent.store.layout import METRICS, PARAMS, TAGS

_TABLES = (
    "runs", METRICS, PARAMS, TAGS, "experiments", "experiment_tags", "datasets", "assessments", "logged_models",
    "logged_model_params", "logged_model_tags", "logged_model_metrics", "registered_models", "registered_model_tags",
    "registered_model_aliases", "model_versions", "model_version_tags",
)  # fmt: skip
QUERIES = {
    **{table: f"SELECT count(*) FROM {table}" for table in _TABLES},
    "inputs": "SELECT count(*) FROM inputs WHERE source_type != 'RUN_OUTPUT'",
    "outputs": "SELECT count(*) FROM inputs WHERE source_type = 'RUN_OUTPUT'",
    "traces": "SELECT count(*) FROM trace_info",
}
"""what is counted → how"""


def count(database: Path) -> dict[str, int]:
    """Count, and leave one file that is whole by itself: MLflow's migration leaves a part in a write-ahead log.

    A table that this MLflow does not have yet holds nothing.
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        return {name: _one(connection, query) for name, query in QUERIES.items()}


def _one(connection: sqlite3.Connection, query: str) -> int:
    try:
        return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return 0
        raise
