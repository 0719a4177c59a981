"""trainspool: a flight recorder for ML training, under MLflow's names.

``import trainspool as mlflow`` runs an MLflow training script; log calls take about a microsecond and survive kill -9.
"""

from trainspool import leaving as _leaving
from trainspool.captures import Capture
from trainspool.entities import Experiment, RunData, RunInfo
from trainspool.errors import TrainspoolError, TrainspoolException
from trainspool.fluent import (
    active_run,
    artifact_path,
    delete_tag,
    end_run,
    flush,
    get_artifact_uri,
    get_tracking_uri,
    is_tracking_uri_set,
    last_active_run,
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
    new_run,
    set_experiment,
    set_tag,
    set_tags,
    set_tracking_uri,
    start_run,
    wait,
)
from trainspool.run import Run
from trainspool.version import __version__

_leaving.arrange()

__all__ = [
    "Capture",
    "Experiment",
    "Run",
    "RunData",
    "RunInfo",
    "TrainspoolError",
    "TrainspoolException",
    "__version__",
    "active_run",
    "artifact_path",
    "delete_tag",
    "end_run",
    "flush",
    "get_artifact_uri",
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
    "set_experiment",
    "set_tag",
    "set_tags",
    "set_tracking_uri",
    "start_run",
    "wait",
]
