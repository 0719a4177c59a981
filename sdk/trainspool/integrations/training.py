"""The run that a framework's training logs to, and what its names and values become there."""

from __future__ import annotations

import posixpath
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from trainspool import active, fluent, validation
from trainspool.errors import TrainspoolException
from trainspool.run import Run

_begun: dict[tuple[str, int], Run] = {}  # by framework and thread: the run begun last for a training of it
_NOT_OF_A_KEY = re.compile(r"[^/\w.\- :]")


class Training:
    """One training: it logs to the run that is active, or to one begun for it, which ends with it.

    Any thread; in a forked child the run goes on as a guest, as ``Run`` says.
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
        key = (framework, threading.get_ident())
        left = _begun.pop(key, None)
        if left is not None and left.status == "RUNNING":
            # The framework told nobody that the training before raised, and a notebook's process goes on.
            active.end(left, "FAILED", f"{framework}: the training did not come to its end")
        joined = active.current() if run_id is None else None
        self.began = joined is None
        if joined is None:
            named = None if experiment_name is None else fluent._named(experiment_name).experiment_id
            nested = bool(active.own_stack())  # another run, asked for by its id
            joined = fluent.start_run(run_id, named, run_name, nested=nested, tags=tags)
            _begun[key] = joined
        elif tags:
            joined.set_tags(tags)
        self.run = joined

    def end(self, status: str = "FINISHED", reason: str | None = None) -> None:
        """End the run if it was begun for this training; once."""
        if self.began and self.run.status == "RUNNING":
            active.end(self.run, status, reason)


def log_params(run: Run, params: Mapping[str, Any], *, prefix: str = "") -> None:
    """Log *params* to *run*, whatever a framework calls them."""
    run.log_params({key_of(prefix + str(key)): value for key, value in params.items()})


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
    except TrainspoolException:
        return None


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
