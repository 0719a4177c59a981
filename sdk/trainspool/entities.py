"""What MLflow's fluent calls return, with MLflow's field names: an experiment, and a run's info and data."""

from __future__ import annotations

from typing import NamedTuple


class Experiment(NamedTuple):
    """An experiment as this process knows it; the store may know it by another id if MLflow made it."""

    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: str = "active"
    creation_time: int | None = None
    last_update_time: int | None = None
    tags: dict[str, str] = {}  # noqa: RUF012  a NamedTuple's default; never changed


class RunInfo(NamedTuple):
    """Identity and state of a run; times in ms since the epoch."""

    run_id: str
    run_name: str
    experiment_id: str
    user_id: str
    status: str
    start_time: int
    end_time: int | None
    artifact_uri: str
    lifecycle_stage: str = "active"

    @property
    def run_uuid(self) -> str:
        return self.run_id


class RunData(NamedTuple):
    """What this process has logged to the run besides metric points, which it does not keep."""

    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
