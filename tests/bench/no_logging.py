"""MLflow's names that do nothing: what the script of ``one_script`` costs by itself."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any


def start_run() -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext(SimpleNamespace(info=SimpleNamespace(run_id="none")))


def set_experiment(name: str) -> None: ...


def log_params(params: dict[str, Any]) -> None: ...


def log_metric(key: str, value: float, step: int) -> None: ...


def log_metrics(metrics: dict[str, float], step: int) -> None: ...


def set_tag(key: str, value: Any) -> None: ...
