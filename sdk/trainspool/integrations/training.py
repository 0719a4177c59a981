"""The run that a framework's training logs to, and what its names and values become there.

Nothing here may end a training: what goes wrong while logging is reported, on the run as well, and training goes on.

Source: agent/docs/decisions/0009-which-run-a-training-logs-to.md.
"""

from __future__ import annotations

import contextlib
import functools
import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar
from weakref import WeakSet

from trainspool import active, destination, starting, validation
from trainspool.artifacts import PROBLEM_CHARACTERS, PROBLEM_TAG
from trainspool.complaints import warn
from trainspool.run import Run
from trainspool.texts import reason_of

trials: WeakSet[Run] = WeakSet()  # runs of a search's trials: other threads' trainings are none of theirs

_Call = TypeVar("_Call", bound=Callable[..., Any])

_begun: dict[Run, Training] = {}  # trainings that began a run and have not ended it
_NOT_OF_A_KEY = re.compile(r"[^/\w.\- :]")


class Training:
    """One training: it logs to the run that the user has active, or to one begun for it, which ends with it.

    A run that another training began is never joined: two loggers of one trainer, a training within another and
    trainings in threads have a run each. Any thread; in a forked child the run goes on as a guest, as ``Run`` says. A
    copy, pickled or deep, is None: what holds it begins or joins anew.
    """

    def __init__(
        self,
        framework: str,
        experiment_name: str | None = None,
        run_name: str | None = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            framework: the name of its package, if it does not tell its callbacks of a training that raises: then the
                run is found abandoned once the framework's function has left the stack.
        """
        active.end_abandoned()
        joined = _of_the_user() if run_id is None else None
        self.began, self._over = joined is None, False
        self.run = joined or _begin(run_id, experiment_name, run_name)
        self._frame = _outermost_frame(framework)
        if self.began:
            _begun[self.run] = self
        if tags:
            self.run.set_tags({key_of(str(key)): text(value) for key, value in tags.items()})

    @property
    def ended(self) -> bool:
        """Whether the run has ended, by this training or by anyone."""
        return self.run.status not in ("RUNNING", "SCHEDULED")

    def is_under_way(self) -> bool:
        """Whether it has not come to its end, and the framework's function that began it is still running."""
        return not self._over and (self._frame is None or _is_running(self._frame))

    def end(self, status: str = "FINISHED", reason: str | None = None) -> None:
        """Come to the end; end the run, if it was begun for this training."""
        self._over, self._frame = True, None
        if _begun.pop(self.run, None) is not None:
            active.end(self.run, status, reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


def _of_the_user() -> Run | None:
    """Return the run that a user has active, for this thread."""
    own = active.own_stack()
    if own:
        return None if own[-1] in _begun else own[-1]
    return outer_run()


def outer_run() -> Run | None:
    """Return the process's active run that is neither a training's nor a trial's."""
    return next((run for run in active.of_process() if run not in _begun and run not in trials), None)


def _begin(run_id: str | None, experiment_name: str | None, run_name: str | None) -> Run:
    if run_id is None and active.own_stack():  # within another training, and no part of it
        run = starting.new_run(experiment_name, run_name)
        active.push(run)
        return run
    handed = run_id is None and starting.handed_run_id() is not None  # it is in the experiment it is in
    experiment_id = None if experiment_name is None or handed else destination.named(experiment_name).experiment_id
    return starting.start_run(run_id, experiment_id, run_name, nested=run_id is not None)


def _end_abandoned() -> None:
    for one in list(_begun.values()):
        if one.ended or not one.is_under_way():
            one.end("FAILED", "the training did not come to its end")


active.abandoning.append(_end_abandoned)


def _outermost_frame(framework: str) -> FrameType | None:
    """Return the framework's function that the user called, if we are called by the framework."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package(frame) == "trainspool":
        frame = frame.f_back
    found = None
    while frame is not None and _package(frame) == framework:
        found, frame = frame, frame.f_back
    return found


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _is_running(frame: FrameType) -> bool:
    for top in sys._current_frames().values():
        at: FrameType | None = top
        while at is not None:
            if at is frame:
                return True
            at = at.f_back
    return False


# -- what may not end a training --------------------------------------------------------------------------------------


def shielded(method: _Call) -> _Call:
    """Return a callback's *method*, which reports what it raises instead of raising it into the training.

    The callback has its ``Training``, or None, as ``_training``.
    """

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except Exception as error:  # noqa: BLE001  of the framework's values, or of ours: the training has not failed
            training = getattr(self, "_training", None)
            report(None if training is None else training.run, method.__qualname__, error)

    return call  # type: ignore[return-value]


@contextlib.contextmanager
def reporting(run: Run, where: str) -> Iterator[None]:
    """Report what the block raises instead of raising it into the training."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  of the user's classes: a schedule without get_config, and the like
        report(run, where, error)


def report(run: Run | None, where: str, error: Exception) -> None:
    """Say that a part of what a training told was not logged; on the run, too."""
    why = reason_of(error) or ""
    warn("%s: a part was not logged, and the training goes on: %s", where, why, traceback=True)
    if run is not None:
        run.set_tag(PROBLEM_TAG, f"{where}: {why}"[:PROBLEM_CHARACTERS])


# -- names and values -------------------------------------------------------------------------------------------------


def log_params(run: Run, params: Mapping[str, Any], *, prefix: str = "") -> None:
    """Log *params* to *run*, whatever a framework calls them."""
    run.log_params({key_of(prefix + str(key)): text(value) for key, value in params.items()})


def log_numbers(run: Run, values: Mapping[str, Any], step: int | None, *, prefix: str = "") -> None:
    """Log what of *values* is a number, tensors of one element included; the rest is no metric and left out."""
    numbers = {key_of(prefix + str(key)): number(value) for key, value in values.items()}
    run.log_metrics({key: value for key, value in numbers.items() if value is not None}, step)


def number(value: Any) -> float | None:
    """Return *value* as a float if it is one number of any library's kind, else None."""
    if isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        return validation.metric_value("", value, None)
    except Exception:  # noqa: BLE001  whatever asking it for a number raised, it is none
        return None


def checked(experiment_name: str | None) -> str | None:
    """Return an experiment's name as an integration was given it.

    Raises:
        TrainspoolException: it cannot be one; before any training has begun.
    """
    return None if experiment_name is None else validation.check_experiment_name(experiment_name)


def text(value: Any) -> str:
    """Return ``str(value)``; of a value that cannot say it, its kind."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  its code is not ours
        return f"<{type(value).__name__}>"


@functools.lru_cache(maxsize=4096)
def key_of(name: str) -> str:
    """Return *name* as MLflow takes it for a key: a name that it refuses must not end a training."""
    path = posixpath.normpath(_NOT_OF_A_KEY.sub("_", name)).lstrip("/.")
    parts = (part.encode()[: validation.KEY_COMPONENT_BYTES_MAX].decode(errors="ignore") for part in path.split("/"))
    key = "/".join(parts)
    if len(key) > validation.KEY_CHARACTERS_MAX:
        key = key[: validation.KEY_CHARACTERS_MAX].rstrip("/.")
    return key or "_"


def flat(params: Mapping[Any, Any], *, separator: str = "/") -> dict[str, Any]:
    """Return nested mappings as one: ``{"optimizer": {"lr": 0.1}}`` is ``{"optimizer/lr": 0.1}``."""
    return dict(_leaves(params, "", separator))


def _leaves(params: Mapping[Any, Any], above: str, separator: str) -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}{separator}", separator)
        else:
            yield f"{above}{key}", value
