"""trainspool: a flight recorder for ML training, under MLflow's names.

``import trainspool as mlflow`` runs an MLflow training script; log calls take about a microsecond and survive kill -9.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from trainspool import leaving as _leaving
from trainspool.captures import Capture
from trainspool.destination import get_tracking_uri, is_tracking_uri_set, set_experiment, set_tracking_uri
from trainspool.entities import Experiment, Metric, RunData, RunInfo, StoredRun, ViewType
from trainspool.errors import TrainspoolError, TrainspoolException
from trainspool.fluent import (
    artifact_path,
    delete_tag,
    flush,
    flush_artifact_async_logging,
    flush_async_logging,
    get_artifact_uri,
    load_table,
    log_artifact,
    log_artifacts,
    log_audio,
    log_dict,
    log_figure,
    log_histogram,
    log_image,
    log_input,
    log_inputs,
    log_metric,
    log_metrics,
    log_param,
    log_params,
    log_stream,
    log_table,
    log_text,
    set_tag,
    set_tags,
    wait,
)
from trainspool.run import Run
from trainspool.starting import active_run, end_run, new_run, start_run
from trainspool.version import __version__

if _TYPE_CHECKING:
    from trainspool.administration import (
        create_experiment,
        delete_experiment,
        delete_experiment_tag,
        delete_run,
        restore_experiment,
        restore_run,
        set_experiment_tag,
        set_experiment_tags,
    )
    from trainspool.fluent_reading import (
        get_experiment,
        get_experiment_by_name,
        get_metric_history,
        get_parent_run,
        get_run,
        last_active_run,
        search_experiments,
        search_runs,
    )
    from trainspool.systemmetrics import (
        disable_system_metrics_logging,
        enable_system_metrics_logging,
        set_system_metrics_node_id,
        set_system_metrics_samples_before_logging,
        set_system_metrics_sampling_interval,
    )

_leaving.arrange()

# Loaded when first used: most training scripts read nothing, and importing trainspool has a budget.
_LATER = {
    "administration": (
        "create_experiment delete_experiment delete_experiment_tag delete_run restore_experiment restore_run "
        "set_experiment_tag set_experiment_tags"
    ),
    "fluent_reading": (
        "get_experiment get_experiment_by_name get_metric_history get_parent_run get_run last_active_run "
        "search_experiments search_runs"
    ),
    "systemmetrics": (
        "disable_system_metrics_logging enable_system_metrics_logging set_system_metrics_node_id "
        "set_system_metrics_samples_before_logging set_system_metrics_sampling_interval"
    ),
}
_MODULE_OF = {name: module for module, names in _LATER.items() for name in names.split()}

__all__ = [
    "Capture",
    "Experiment",
    "Metric",
    "Run",
    "RunData",
    "RunInfo",
    "StoredRun",
    "TrainspoolError",
    "TrainspoolException",
    "ViewType",
    "__version__",
    "active_run",
    "artifact_path",
    "create_experiment",
    "delete_experiment",
    "delete_experiment_tag",
    "delete_run",
    "delete_tag",
    "disable_system_metrics_logging",
    "enable_system_metrics_logging",
    "end_run",
    "flush",
    "flush_artifact_async_logging",
    "flush_async_logging",
    "get_artifact_uri",
    "get_experiment",
    "get_experiment_by_name",
    "get_metric_history",
    "get_parent_run",
    "get_run",
    "get_tracking_uri",
    "is_tracking_uri_set",
    "last_active_run",
    "load_table",
    "log_artifact",
    "log_artifacts",
    "log_audio",
    "log_dict",
    "log_figure",
    "log_histogram",
    "log_image",
    "log_input",
    "log_inputs",
    "log_metric",
    "log_metrics",
    "log_param",
    "log_params",
    "log_stream",
    "log_table",
    "log_text",
    "new_run",
    "restore_experiment",
    "restore_run",
    "search_experiments",
    "search_runs",
    "set_experiment",
    "set_experiment_tag",
    "set_experiment_tags",
    "set_system_metrics_node_id",
    "set_system_metrics_samples_before_logging",
    "set_system_metrics_sampling_interval",
    "set_tag",
    "set_tags",
    "set_tracking_uri",
    "start_run",
    "wait",
]


def __getattr__(name: str) -> _Any:
    from importlib import import_module  # "from trainspool import absent" would ask here for it, for ever

    module = _MODULE_OF.get(name)
    if module is None:
        raise import_module("trainspool.absent").error_for(name)
    found = globals()[name] = getattr(import_module(f"trainspool.{module}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
