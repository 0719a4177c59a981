"""Every call of MLflow's store interface that the plugin has no way of its own for.

What MLflow's file store does, it does here, on the same folder, once that has what this process logged. What it does
not do is refused. MLflow adds calls with every version, so the rule is applied to the interface that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.store.tracking.file_store import FileStore

from trainspool.mlflow_plugin.failures import NotInFileStores

# MLflow's own, made of other calls of the store; right on any store.
MADE_OF_OTHERS = frozenset(
    (
        "delete_traces",
        "end_async_logging",
        "filter_active_experiment_ids",
        "flush_async_logging",
        "get_metric_history_bulk_interval",
        "get_metric_history_bulk_interval_from_steps",
        "log_metric_async",
        "log_param_async",
        "log_spans_async",
        "resolve_trace_archival_config",
        "set_model_versions_tags",
        "set_tag_async",
        "shut_down_async_logging",
    )
)
# Called from outside of the interface: by ``mlflow gc``, and by the interface itself.
UNDER_COVER = (
    "_delete_traces",
    "_get_deleted_logged_models",
    "_get_deleted_runs",
    "_hard_delete_experiment",
    "_hard_delete_logged_model",
    "_hard_delete_run",
    "_search_datasets",
)


def interface() -> list[str]:
    """Return the names of every public call of MLflow's store interface."""
    return [name for name in dir(AbstractStore) if not name.startswith("_") and callable(getattr(AbstractStore, name))]


def complete(store: type) -> None:
    """Give *store* every call of the interface that it does not define."""
    theirs = {*vars(FileStore)}
    for name in {*interface(), *UNDER_COVER, *(name for name in theirs if not name.startswith("_"))}:
        if name in vars(store) or name in MADE_OF_OTHERS:
            continue
        if name in theirs and callable(getattr(FileStore, name)):
            setattr(store, name, _theirs(name))
        elif hasattr(AbstractStore, name):
            setattr(store, name, _refusal(name))


def _theirs(name: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return getattr(self.folder.settled(), name)(*arguments, **named)

    call.__name__ = call.__qualname__ = name
    return call


def _refusal(name: str) -> Callable[..., Any]:
    def call(self: Any, *_: Any, **__: Any) -> Any:
        raise NotInFileStores(name)

    call.__name__ = call.__qualname__ = name
    return call
