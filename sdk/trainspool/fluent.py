"""MLflow's function names over the active run: ``import trainspool as mlflow`` runs a script.

Arguments and meanings are MLflow's (mlflow-store.md §4). ``synchronous``, ``model_id`` and ``dataset`` are accepted
where MLflow has them; every call is what MLflow calls asynchronous, without its losses.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from trainspool import active, naming, source, validation
from trainspool.captures import Capture
from trainspool.complaints import warn
from trainspool.entities import Experiment
from trainspool.errors import TrainspoolException
from trainspool.run import Run
from trainspool.runtexts import RUN_NAME
from trainspool.spool import events
from trainspool.spool.experiments import experiment_id_for
from trainspool.stream import stream

NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"

_experiment: list[Experiment] = []
_names_by_id: dict[str, str] = {}
_uri_said: list[str] = []


# -- where ----------------------------------------------------------------------------------------------------------


def set_tracking_uri(uri: str | os.PathLike[str]) -> None:
    """Say where runs land: a folder, as a path or a ``file:`` address.

    Raises:
        TrainspoolException: an address of a server or database; the message says what to do.
    """
    import urllib.parse  # loaded when asked for: importing trainspool has a budget

    text = os.fspath(uri)
    scheme = urllib.parse.urlsplit(text).scheme
    if text.startswith("file:"):
        text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
    elif scheme and len(scheme) > 1:
        raise TrainspoolException(
            f"trainspool writes runs to folders; it cannot write to {text!r}. Next: set_tracking_uri('mlruns') or "
            "TRAINSPOOL_STORE=<folder>; 'mlflow migrate-filestore' takes the finished runs to a database"
        )
    _uri_said[:] = [os.fspath(uri)]
    stream.use_store(text or "mlruns")


def get_tracking_uri() -> str:
    """Return where runs land: an absolute folder."""
    return stream.store


def is_tracking_uri_set() -> bool:
    """Whether someone said where runs land: the program, or TRAINSPOOL_STORE."""
    return bool(_uri_said or os.environ.get("TRAINSPOOL_STORE"))


def set_experiment(
    experiment_name: str | None = None, experiment_id: str | None = None, trace_location: object = None
) -> Experiment:
    """Make the experiment that runs started from now on belong to; it is created if the store has none of that name.

    Raises:
        TrainspoolException: neither or both of name and id, or a name that cannot be one.
    """
    if (experiment_name is None) == (experiment_id is None):
        which = "Must specify exactly one of: `experiment_id` or `experiment_name`."
        raise TrainspoolException(which)
    stream.configured()  # before the variable below changes: it may have been handed to us with a run
    experiment = _named(experiment_name) if experiment_name is not None else _numbered(experiment_id)
    _experiment[:] = [experiment]
    if experiment_name is not None:
        os.environ["TRAINSPOOL_EXPERIMENT"] = experiment.name
    stream.ensure()
    where = (stream.store, experiment.experiment_id, experiment.name or None)
    stream.ring.append(events.pack(events.EXPERIMENT, time.time_ns(), *where, []))
    return experiment


def _named(name: str) -> Experiment:
    validation.check_experiment_name(name)
    number = experiment_id_for(name)
    _names_by_id[number] = name
    return Experiment(number, name, f"{stream.store}/{number}")


def _numbered(experiment_id: Any) -> Experiment:
    number = validation.check_experiment_id(experiment_id)
    return Experiment(number, _names_by_id.get(number, "Default" if number == "0" else ""), f"{stream.store}/{number}")


def _current_experiment() -> Experiment:
    if _experiment:
        return _experiment[0]
    return _named(stream.configured().experiment or "Default")


# -- runs -----------------------------------------------------------------------------------------------------------


def start_run(
    run_id: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    nested: bool = False,
    parent_run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    description: str | None = None,
    log_system_metrics: bool | None = None,
) -> Run:
    """Start a run, or resume the one with *run_id*, and make it this thread's active run.

    Returns at once: only shared memory is touched. Use the result in a ``with`` block to have it ended.
    *log_system_metrics* has a thread log the machine's metrics beside it (psutil, pynvml); None: as
    ``enable_system_metrics_logging`` said.

    Raises:
        TrainspoolException: a run is active and *nested* is not set, or an argument is not of its kind.
    """
    stack = active.own_stack()
    if stack and not nested:
        active.end_abandoned()
    if stack and not nested:
        raise TrainspoolException(
            f"Run with UUID {stack[0].run_id} is already active. To start a new run, first end the current run with "
            "mlflow.end_run(). To start a nested run, call start_run with nested=True"
        )
    handed = None if run_id or stack else _handed_run_id()
    existing = run_id or handed
    if experiment_id is not None:
        experiment = _numbered(experiment_id)
    else:
        experiment = _handed_experiment(handed) if handed else _current_experiment()
    texts = _start_tags(tags, description, existing, parent_run_id, stack)
    run = _begin(existing, experiment, run_name, texts)
    active.push(run)
    _watch_machine(run, log_system_metrics, resumed=existing is not None)
    return run


def _watch_machine(run: Run, wanted: bool | None, *, resumed: bool) -> None:
    if wanted is None:
        wanted = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("1", "true")
    if wanted and stream.pump is not None:
        from trainspool import systemmetrics  # importing trainspool has a budget

        systemmetrics.watch(run, resumed=resumed)


def handed_run_id() -> str | None:
    """Return the run that TRAINSPOOL_RUN_ID hands to this process, if no ``start_run`` has taken it yet."""
    return os.environ.get("TRAINSPOOL_RUN_ID") or stream.configured().run_id


def _handed_run_id() -> str | None:
    """Take the run that is handed to this process; resumed once, as MLflow does."""
    handed = handed_run_id()
    stream.settings = stream.configured()._replace(run_id=None)
    os.environ.pop("TRAINSPOOL_RUN_ID", None)
    return handed


def _handed_experiment(run_id: str) -> Experiment:
    """Return the experiment that was handed over together with the run: set_experiment does not move a run."""
    handed, current = stream.configured().experiment, _current_experiment()
    if handed is None or handed == current.name:
        return current
    warn("run %s goes on in experiment %r; set_experiment(%r) holds for new runs", run_id, handed, current.name)
    return _named(handed)


def new_run(
    experiment_name: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Run:
    """Start a run that is no thread's active run: log by its methods, end it by ``with`` or ``end``.

    Several can be open side by side. Errors as ``start_run``.
    """
    experiment = _named(experiment_name) if experiment_name is not None else _current_experiment()
    return _begin(None, experiment, run_name, _start_tags(tags, description, None, None, []))


def _begin(existing: str | None, experiment: Experiment, run_name: str | None, texts: dict[str, str]) -> Run:
    name = run_name or (None if existing else stream.configured().run_name)
    run = _make_run(existing, experiment, name)
    if name or not existing:
        texts[RUN_NAME] = run.name
    git_is_known = source.git_tags.cache_info().currsize > 0
    if not existing:
        texts = {**source.tags(), **(source.git_tags() if git_is_known else {}), **texts}
    run.start(texts, resume=existing is not None)
    active.opened(run)
    if not existing and not git_is_known and stream.pump is not None:
        stream.owed.append(functools.partial(_tag_git, run))
    return run


def _tag_git(run: Run) -> bool:
    """In the pump's thread, as it reads files: tag the run with the program's commit."""
    tags = {key: value for key, value in source.git_tags().items() if key not in run.tags}
    if tags:
        run.set_tags(tags)
    return True


def _make_run(existing: str | None, experiment: Experiment, name: str | None) -> Run:
    run_id = validation.check_run_id(existing) if existing else os.urandom(16).hex()
    shown = name or (existing[:20] if existing else naming.random_run_name())
    return Run(run_id, experiment, stream.store, name=shown, user=source.user(), owner=True)


def _start_tags(
    tags: Mapping[str, Any] | None,
    description: str | None,
    existing: str | None,
    parent: str | None,
    stack: list[Run],
) -> dict[str, str]:
    texts = {validation.check_key(key, "key"): str(value) for key, value in (tags or {}).items()}
    if description:
        if NOTE in texts:
            raise TrainspoolException(
                f"Description is already set via the tag {NOTE} in tags."
                f"Remove the key {NOTE} from the tags or omit the description."
            )
        texts[NOTE] = str(description)
    if existing:
        return texts
    if parent is not None:
        validation.check_run_id(parent)
        if stack and stack[-1].run_id != parent:
            raise TrainspoolException(
                f"Current run with UUID {stack[-1].run_id} does not match the specified parent_run_id {parent}. "
                f"To start a new nested run under the parent run with UUID {stack[-1].run_id}, first end the current "
                "run with mlflow.end_run()."
            )
    elif stack:
        parent = stack[-1].run_id
    if parent is not None:
        texts[PARENT] = parent
    return texts


def end_run(status: str = "FINISHED") -> None:
    """End this thread's active run, if there is one. Hands over and returns."""
    run = active.current()
    if run is not None:
        if status not in events.STATUS_NUMBERS:
            raise TrainspoolException(f"Invalid status {status!r}: one of {', '.join(events.STATUS_NUMBERS)}")
        active.end(run, status)


def active_run() -> Run | None:
    """Return the run that this thread's log calls go to, or None."""
    return active.current()


def _run_for(run_id: str | None) -> Run:
    """Return the run to log to: the active one, started if there is none; or another one, as a guest."""
    if run_id is None:
        return active.current() or start_run()
    current = active.current()
    if current is not None and current.run_id == run_id:
        return current
    return stream.runs.get(run_id) or _guest(run_id, stream.generation)


@functools.lru_cache(maxsize=1024)
def _guest(run_id: str, generation: int) -> Run:
    validation.check_run_id(run_id)
    return Run(run_id, _current_experiment(), stream.store, name=run_id, user=source.user(), owner=False)


# -- logging --------------------------------------------------------------------------------------------------------


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
        run = _run_for(run_id)
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
        run = _run_for(run_id)
    run.log_metrics(metrics, step, timestamp)


def log_param(key: str, value: Any, synchronous: bool | None = None) -> Any:
    """Log a param and return its value; see ``Run.log_param``."""
    return _run_for(None).log_param(key, value)


def log_params(params: Mapping[str, Any], synchronous: bool | None = None, run_id: str | None = None) -> None:
    """Log several params; see ``Run.log_params``."""
    _run_for(run_id).log_params(params)


def set_tag(key: str, value: Any, synchronous: bool | None = None) -> None:
    """Set a tag; see ``Run.set_tag``."""
    _run_for(None).set_tag(key, value)


def set_tags(tags: Mapping[str, Any], synchronous: bool | None = None) -> None:
    """Set several tags; see ``Run.set_tags``."""
    _run_for(None).set_tags(tags)


def delete_tag(key: str) -> None:
    """Delete a tag of the active run; see ``Run.delete_tag``."""
    _run_for(None).delete_tag(key)


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
    return _run_for(run_id).log_artifact(local_path, artifact_path, move=move, link=link, background=background)


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
    return _run_for(run_id).log_artifacts(local_dir, artifact_path, move=move, link=link, background=background)


def artifact_path(artifact_file: str, run_id: str | None = None) -> AbstractContextManager[str]:
    """Give a path to write an artifact to, within a ``with`` block, without any copy; see ``Run.artifact_path``."""
    return _run_for(run_id).artifact_path(artifact_file)


def log_text(text: str, artifact_file: str, run_id: str | None = None) -> None:
    """Log *text* as an artifact file."""
    _run_for(run_id).log_text(text, artifact_file)


def log_dict(dictionary: Any, artifact_file: str, run_id: str | None = None) -> None:
    """Log *dictionary* as an artifact file, JSON or YAML by its extension."""
    _run_for(run_id).log_dict(dictionary, artifact_file)


def log_image(
    image: Any,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
    synchronous: bool | None = False,
) -> None:
    """Log a picture, as a file or by *key* and *step* into the image grid; see ``Run.log_image``."""
    _run_for(None).log_image(image, artifact_file, key, step, timestamp)


def log_figure(figure: Any, artifact_file: str, *, save_kwargs: Mapping[str, Any] | None = None) -> None:
    """Log a figure of matplotlib or plotly as it is now; see ``Run.log_figure``."""
    _run_for(None).log_figure(figure, artifact_file, save_kwargs=save_kwargs)


def log_table(data: Any, artifact_file: str, run_id: str | None = None) -> None:
    """Add rows to a table; see ``Run.log_table``."""
    _run_for(run_id).log_table(data, artifact_file)


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
    experiment = current.experiment if current is not None else _current_experiment()
    return tables.load(stream.store, experiment, artifact_file, run_ids, extra_columns)


def log_stream(stream: Any, artifact_file: str, run_id: str | None = None) -> None:
    """Log what a binary stream holds as an artifact file; see ``Run.log_stream``."""
    _run_for(run_id).log_stream(stream, artifact_file)


def log_audio(
    audio: Any,
    sample_rate: int,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
) -> None:
    """Log a sound; see ``Run.log_audio``. Not MLflow's."""
    _run_for(None).log_audio(audio, sample_rate, artifact_file, key, step, timestamp)


def log_histogram(key: str, values: Any, step: int | None = None, bins: int = 64, timestamp: int | None = None) -> None:
    """Log how values are spread; see ``Run.log_histogram``. Not MLflow's."""
    _run_for(None).log_histogram(key, values, step, bins, timestamp)


def log_input(
    dataset: Any = None, context: str | None = None, tags: Mapping[str, Any] | None = None, model: Any = None
) -> None:
    """Log a dataset that the run used; see ``Run.log_input``."""
    _run_for(None).log_input(dataset, context, tags, model)


def log_inputs(
    datasets: Sequence[Any] | None = None,
    contexts: Sequence[str | None] | None = None,
    tags_list: Sequence[Mapping[str, Any] | None] | None = None,
    models: Sequence[Any] | None = None,
) -> None:
    """Log several datasets; see ``Run.log_inputs``."""
    _run_for(None).log_inputs(datasets, contexts, tags_list, models)


def get_artifact_uri(artifact_path: str | None = None) -> str:
    """Return where the active run's artifacts land, or one of them."""
    uri = _run_for(None).info.artifact_uri
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


def _after_fork_in_child() -> None:
    naming.reseed()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
