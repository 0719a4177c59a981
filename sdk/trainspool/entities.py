"""What MLflow's fluent calls take and return, with MLflow's field names: experiments, runs, points, datasets."""

from __future__ import annotations

from typing import Any, NamedTuple


class ViewType:
    """Which runs or experiments a search shows."""

    ACTIVE_ONLY, DELETED_ONLY, ALL = 1, 2, 3


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
    """What was logged to a run: of the run that is being logged to, all but metric points, which it does not keep.

    Of a run in the store, ``metrics`` has each key's point of the largest step, then time, then value.
    """

    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]


class Metric(NamedTuple):
    """One point of a metric; time in ms since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None
    run_id: str | None = None


class FileInfo(NamedTuple):
    """An artifact in a list; size in bytes, None for a folder."""

    path: str
    is_dir: bool
    file_size: int | None


class Dataset(NamedTuple):
    """What is known of a dataset; ``source``, ``schema`` and ``profile`` are JSON texts."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None


class InputTag(NamedTuple):
    """A tag of a run's use of a dataset, ``mlflow.data.context`` say."""

    key: str
    value: str


class DatasetInput(NamedTuple):
    """A dataset that a run used."""

    dataset: Dataset
    tags: list[InputTag]


class RunInputs(NamedTuple):
    """What a run used."""

    dataset_inputs: list[DatasetInput]


class StoredRun(NamedTuple):
    """A run as the store has it: a plain value with the fields of MLflow's ``Run``. Log by ``start_run(run_id=)``."""

    info: RunInfo
    data: RunData
    inputs: RunInputs

    def to_dictionary(self) -> dict[str, Any]:
        return {"info": self.info._asdict(), "data": self.data._asdict()}
