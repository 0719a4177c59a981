"""MLflow's function names over the active run: ``import trainspool as mlflow`` runs a script.

Arguments and meanings are MLflow's (mlflow-store.md §4). ``synchronous``, ``model_id`` and ``dataset`` are accepted
where MLflow has them; every call is what MLflow calls asynchronous, without its losses.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from trainspool import active, destination
from trainspool.captures import Capture
from trainspool.errors import TrainspoolException
from trainspool.starting import run_for
from trainspool.stream import stream


def log_metric(
    key: str,
    value: float,
    step: int | None = None,
    synchronous: bool | None = None,
    timestamp: int | None = None,
    run_id: str | None = None,
    model_id: str | None = None,
    dataset: object = None,
) -> None:
    """Log one metric point; see ``Run.log_metric``."""
    run = active.current() if run_id is None else None
    if run is None:
        run = run_for(run_id)
    run.log_metric(key, value, step, timestamp)


def log_metrics(
    metrics: Mapping[str, float],
    step: int | None = None,
    synchronous: bool | None = None,
    run_id: str | None = None,
    timestamp: int | None = None,
    model_id: str | None = None,
    dataset: object = None,
) -> None:
    """Log several points of one step; see ``Run.log_metrics``."""
    run = active.current() if run_id is None else None
    if run is None:
        run = run_for(run_id)
    run.log_metrics(metrics, step, timestamp)


def log_param(key: str, value: Any, synchronous: bool | None = None) -> Any:
    """Log a param and return its value; see ``Run.log_param``."""
    return run_for(None).log_param(key, value)


def log_params(params: Mapping[str, Any], synchronous: bool | None = None, run_id: str | None = None) -> None:
    """Log several params; see ``Run.log_params``."""
    run_for(run_id).log_params(params)


def set_tag(key: str, value: Any, synchronous: bool | None = None) -> None:
    """Set a tag; see ``Run.set_tag``."""
    run_for(None).set_tag(key, value)


def set_tags(tags: Mapping[str, Any], synchronous: bool | None = None) -> None:
    """Set several tags; see ``Run.set_tags``."""
    run_for(None).set_tags(tags)


def delete_tag(key: str) -> None:
    """Delete a tag of the active run; see ``Run.delete_tag``."""
    run_for(None).delete_tag(key)


def log_artifact(
    local_path: str | os.PathLike[str],
    artifact_path: str | None = None,
    run_id: str | None = None,
    *,
    move: bool = False,
    link: bool = False,
    background: bool = False,
) -> Capture:
    """Log a file or folder; captured when this returns, unless asked otherwise; see ``Run.log_artifact``."""
    return run_for(run_id).log_artifact(local_path, artifact_path, move=move, link=link, background=background)


def log_artifacts(
    local_dir: str | os.PathLike[str],
    artifact_path: str | None = None,
    run_id: str | None = None,
    *,
    move: bool = False,
    link: bool = False,
    background: bool = False,
) -> Capture:
    """Log all a folder holds; captured when this returns, unless asked otherwise; see ``Run.log_artifacts``."""
    return run_for(run_id).log_artifacts(local_dir, artifact_path, move=move, link=link, background=background)


def artifact_path(artifact_file: str, run_id: str | None = None) -> AbstractContextManager[str]:
    """Give a path to write an artifact to, within a ``with`` block, without any copy; see ``Run.artifact_path``."""
    return run_for(run_id).artifact_path(artifact_file)


def log_text(text: str, artifact_file: str, run_id: str | None = None) -> None:
    """Log *text* as an artifact file."""
    run_for(run_id).log_text(text, artifact_file)


def log_dict(dictionary: Any, artifact_file: str, run_id: str | None = None) -> None:
    """Log *dictionary* as an artifact file, JSON or YAML by its extension."""
    run_for(run_id).log_dict(dictionary, artifact_file)


def log_image(
    image: Any,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
    synchronous: bool | None = False,
) -> None:
    """Log a picture, as a file or by *key* and *step* into the image grid; see ``Run.log_image``."""
    run_for(None).log_image(image, artifact_file, key, step, timestamp)


def log_figure(figure: Any, artifact_file: str, *, save_kwargs: Mapping[str, Any] | None = None) -> None:
    """Log a figure of matplotlib or plotly as it is now; see ``Run.log_figure``."""
    run_for(None).log_figure(figure, artifact_file, save_kwargs=save_kwargs)


def log_table(data: Any, artifact_file: str, run_id: str | None = None) -> None:
    """Add rows to a table; see ``Run.log_table``."""
    run_for(run_id).log_table(data, artifact_file)


def load_table(
    artifact_file: str, run_ids: Sequence[str] | None = None, extra_columns: Sequence[str] | None = None
) -> Any:
    """Return a table's rows, of these runs or of all in the experiment, once the store has all that was logged.

    Args:
        extra_columns: of the runs, as MLflow's ``search_runs`` names them: ``run_id``, ``params.lr``, ...

    Returns:
        A pandas.DataFrame; without pandas a dictionary of columns.

    Raises:
        TrainspoolException: no run has it; the store will not have what was logged, as no agent carries it.
    """
    from trainspool import rows
    from trainspool.reading import tables

    rows.check_table_path(artifact_file)
    if not stream.wait(None):
        raise TrainspoolException("load_table reads the store, and no agent brings it there. Next: trainspool sync")
    current = active.current()
    experiment = current.experiment if current is not None else destination.current_experiment()
    return tables.load(stream.store, experiment, artifact_file, run_ids, extra_columns)


def log_stream(stream: Any, artifact_file: str, run_id: str | None = None) -> None:
    """Log what a binary stream holds as an artifact file; see ``Run.log_stream``."""
    run_for(run_id).log_stream(stream, artifact_file)


def log_audio(
    audio: Any,
    sample_rate: int,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
) -> None:
    """Log a sound; see ``Run.log_audio``. Not MLflow's."""
    run_for(None).log_audio(audio, sample_rate, artifact_file, key, step, timestamp)


def log_histogram(key: str, values: Any, step: int | None = None, bins: int = 64, timestamp: int | None = None) -> None:
    """Log how values are spread; see ``Run.log_histogram``. Not MLflow's."""
    run_for(None).log_histogram(key, values, step, bins, timestamp)


def log_input(
    dataset: Any = None, context: str | None = None, tags: Mapping[str, Any] | None = None, model: Any = None
) -> None:
    """Log a dataset that the run used; see ``Run.log_input``."""
    run_for(None).log_input(dataset, context, tags, model)


def log_inputs(
    datasets: Sequence[Any] | None = None,
    contexts: Sequence[str | None] | None = None,
    tags_list: Sequence[Mapping[str, Any] | None] | None = None,
    models: Sequence[Any] | None = None,
) -> None:
    """Log several datasets; see ``Run.log_inputs``."""
    run_for(None).log_inputs(datasets, contexts, tags_list, models)


def get_artifact_uri(artifact_path: str | None = None) -> str:
    """Return where the active run's artifacts land, or one of them."""
    uri = run_for(None).info.artifact_uri
    return str(pathlib.PurePosixPath(uri, artifact_path)) if artifact_path else uri


def flush(durable: bool = False, timeout: float | None = None) -> bool:
    """Wait until the spool has everything logged before this call.

    Args:
        durable: wait until it is on the device, so that a power cut cannot take it.
        timeout: seconds; None waits as long as it takes.

    Returns:
        Whether it is so. Lateness never raises.
    """
    return stream.flush(durable, timeout)


def flush_async_logging() -> None:
    """Wait until the spool has everything logged before this call; MLflow's name for ``flush()``."""
    stream.flush(False, None)


def flush_artifact_async_logging() -> None:
    """Wait until the spool has every artifact logged before this call, those captured in the background too."""
    stream.flush(False, None)


def wait(timeout: float | None = None) -> bool:
    """Wait until the *store* has everything logged before this call; as ``flush`` otherwise.

    False also if no agent runs here and none is to be started.
    """
    return stream.wait(timeout)
