"""Runs of this process: started, resumed, handed over, ended; which one a log call goes to."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from trainspool import active, destination, naming, source, validation
from trainspool.complaints import warn
from trainspool.entities import Experiment
from trainspool.errors import TrainspoolException
from trainspool.resumed import ResumedRun
from trainspool.run import Run
from trainspool.runtexts import RUN_NAME
from trainspool.spool import events
from trainspool.stream import stream

NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
_start_lock = threading.RLock()  # a signal's handler may start a run
_last_start_ms = [0]
_RUN_ID_VARIABLES = ("TRAINSPOOL_RUN_ID", "MLFLOW_RUN_ID")


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
    if _in_the_way() and not nested:
        active.end_abandoned()
    own = _in_the_way()
    if own and not nested:
        raise TrainspoolException(
            f"Run with UUID {own[0].run_id} is already active. To start a new run, first end the current run with "
            "mlflow.end_run(). To start a nested run, call start_run with nested=True"
        )
    handed = None if run_id or own else _handed_run_id()
    existing = run_id or handed
    if experiment_id is not None:
        experiment = destination.numbered(experiment_id)
    else:
        experiment = _handed_experiment(handed) if handed else destination.current_experiment()
    above = active.own_stack()[-1].run_id if nested and active.own_stack() else None
    texts = _start_tags(tags, description, existing)
    if not existing:
        texts.update(_parent_tag(parent_run_id, above, own))
    run = _begin(existing, experiment, run_name, texts)
    active.push(run)
    _watch_machine(run, log_system_metrics, resumed=existing is not None)
    return run


def _in_the_way() -> list[Run]:
    """Return the runs that this thread has started; not those that a forked child has from its parent."""
    return [run for run in active.own_stack() if run.owner]


def _watch_machine(run: Run, wanted: bool | None, *, resumed: bool) -> None:
    if wanted is None:
        wanted = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("1", "true")
    if wanted and stream.pump is not None:
        from trainspool import systemmetrics  # importing trainspool has a budget

        systemmetrics.watch(run, resumed=resumed)


def handed_run_id() -> str | None:
    """Return the run that TRAINSPOOL_RUN_ID, or MLflow's, hands to us, if no ``start_run`` has taken it yet."""
    return next(filter(None, map(os.environ.get, _RUN_ID_VARIABLES)), None) or stream.configured().run_id


def _handed_run_id() -> str | None:
    """Take the run that is handed to this process; resumed once, as MLflow does."""
    handed = handed_run_id()
    stream.settings = stream.configured()._replace(run_id=None)
    for variable in _RUN_ID_VARIABLES:
        os.environ.pop(variable, None)
    return handed


def _handed_experiment(run_id: str) -> Experiment:
    """Return the experiment that was handed over together with the run: set_experiment does not move a run."""
    handed, current = destination.configured_experiment(), destination.current_experiment()
    if handed is None or handed.experiment_id == current.experiment_id:
        return current
    names = [one.name or one.experiment_id for one in (handed, current)]
    warn("run %s goes on in experiment %r; set_experiment(%r) holds for new runs", run_id, *names)
    return handed


def new_run(
    experiment_name: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Run:
    """Start a run that is no thread's active run: log by its methods, end it by ``with`` or ``end``.

    Several can be open side by side. Errors as ``start_run``.
    """
    experiment = destination.named(experiment_name) if experiment_name is not None else destination.current_experiment()
    return _begin(None, experiment, run_name, _start_tags(tags, description, None))


def _begin(existing: str | None, experiment: Experiment, run_name: str | None, texts: dict[str, str]) -> Run:
    name = run_name or (None if existing else stream.configured().run_name)
    run = _make_run(existing, experiment, name)
    if name or not existing:
        texts[RUN_NAME] = run.told_name
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
    kind = ResumedRun if existing else Run
    run = kind(run_id, experiment, stream.store, name=shown, user=source.user(), owner=True)
    run.start_time = _later_than_the_last(run.start_time)
    return run


def _later_than_the_last(start_ms: int) -> int:
    """Return a start time that no run of this process has: runs of one ms would be listed in no order."""
    with _start_lock:
        _last_start_ms[0] = max(start_ms, _last_start_ms[0] + 1)
        return _last_start_ms[0]


def _start_tags(tags: Mapping[str, Any] | None, description: str | None, existing: str | None) -> dict[str, str]:
    texts = {validation.check_key(key, "key"): str(value) for key, value in (tags or {}).items()}
    if not existing:  # as MLflow's file store has it; what is set later, None too, is str() of it
        texts.update((key, "") for key, value in (tags or {}).items() if value is None)
    if description:
        if NOTE in texts:
            raise TrainspoolException(
                f"Description is already set via the tag {NOTE} in tags."
                f"Remove the key {NOTE} from the tags or omit the description."
            )
        texts[NOTE] = str(description)
    return texts


def _parent_tag(parent: str | None, above: str | None, own: list[Run]) -> dict[str, str]:
    """Return the tag that names the parent: as said, else the run *above*.

    Raises:
        TrainspoolException: another one is said than the active run that this thread has started.
    """
    if parent is not None:
        validation.check_run_id(parent)
        if own and own[-1].run_id != parent:
            raise TrainspoolException(
                f"Current run with UUID {own[-1].run_id} does not match the specified parent_run_id {parent}. "
                f"To start a new nested run under the parent run with UUID {own[-1].run_id}, first end the current "
                "run with mlflow.end_run()."
            )
    found = parent or above
    return {} if found is None else {PARENT: found}


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


def run_for(run_id: str | None) -> Run:
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
    experiment = destination.current_experiment()
    return ResumedRun(run_id, experiment, stream.store, name=run_id, user=source.user(), owner=False)


def _after_fork_in_child() -> None:
    global _start_lock
    _start_lock = threading.RLock()
    naming.reseed()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
