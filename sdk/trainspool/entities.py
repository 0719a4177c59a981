"""What MLflow's fluent calls take and return, with MLflow's field names: experiments, runs, points, datasets."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

_Kind = TypeVar("_Kind", bound=type[Any])


def _in_pairs(kind: _Kind) -> _Kind:
    """Have a NamedTuple iterated by name and value, as MLflow's entities are: ``dict(run.info)``.

    What a NamedTuple does by iterating over itself, it then does by its fields.
    """
    fields: tuple[str, ...] = kind._fields
    names = sorted(fields)
    kind.__iter__ = lambda self: iter([(name, getattr(self, name)) for name in names])
    kind.__getnewargs__ = lambda self: self[:]  # copies and pickles
    kind._asdict = lambda self: dict(zip(fields, self[:], strict=True))
    kind._replace = kind.__replace__ = lambda self, /, **changed: kind(**{**self._asdict(), **changed})
    del kind._fields  # pandas would name columns by it, and fill them by iterating
    return kind


class ViewType:
    """Which runs or experiments a search shows."""

    ACTIVE_ONLY, DELETED_ONLY, ALL = 1, 2, 3


@_in_pairs
class Experiment(NamedTuple):
    """An experiment as this process knows it; the store may know it by another id if MLflow made it."""

    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: str = "active"
    creation_time: int | None = None
    last_update_time: int | None = None
    tags: dict[str, str] = {}  # noqa: RUF012  a NamedTuple's default; never changed


@_in_pairs
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


@_in_pairs
class RunData(NamedTuple):
    """What was logged to a run: of the run that is being logged to, all but metric points, which it does not keep.

    Of a run in the store, ``metrics`` has each key's point of the largest step, then time, then value.
    """

    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]

    def to_dictionary(self) -> dict[str, Any]:
        return dict(self)  # type: ignore[arg-type]


@_in_pairs
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

    def to_dictionary(self) -> dict[str, Any]:
        return self._asdict()


@_in_pairs
class FileInfo(NamedTuple):
    """An artifact in a list; size in bytes, None for a folder."""

    path: str
    is_dir: bool
    file_size: int | None


@_in_pairs
class Dataset(NamedTuple):
    """What is known of a dataset; ``source``, ``schema`` and ``profile`` are JSON texts."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None

    def to_dictionary(self) -> dict[str, Any]:
        return self._asdict()


@_in_pairs
class InputTag(NamedTuple):
    """A tag of a run's use of a dataset, ``mlflow.data.context`` say."""

    key: str
    value: str


@_in_pairs
class DatasetInput(NamedTuple):
    """A dataset that a run used."""

    dataset: Dataset
    tags: list[InputTag]

    def to_dictionary(self) -> dict[str, Any]:
        return {"dataset": self.dataset.to_dictionary(), "tags": {tag.key: tag.value for tag in self.tags}}


@_in_pairs
class RunInputs(NamedTuple):
    """What a run used."""

    dataset_inputs: list[DatasetInput]

    def to_dictionary(self) -> dict[str, Any]:
        return {"dataset_inputs": [one.to_dictionary() for one in self.dataset_inputs]}


@_in_pairs
class StoredRun(NamedTuple):
    """A run as the store has it: a plain value with the fields of MLflow's ``Run``. Log by ``start_run(run_id=)``."""

    info: RunInfo
    data: RunData
    inputs: RunInputs

    def to_dictionary(self) -> dict[str, Any]:
        """Return all of the run as plain values; MLflow's keys but for models."""
        return {
            "info": dict(self.info),  # type: ignore[arg-type]
            "data": self.data.to_dictionary(),
            "inputs": self.inputs.to_dictionary(),
        }
