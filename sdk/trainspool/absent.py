"""What MLflow has and trainspool has not, so that asking for it says why, and how to get it.

Names of MLflow 3.17; loaded when something is asked for that is not there.
"""

from __future__ import annotations

from trainspool.errors import AbsentFeature, TrainspoolError

BY_PLUGIN = (
    "Next: keep 'import mlflow' in this script (pip install mlflow) and set MLFLOW_TRACKING_URI=trainspool: so that "
    "MLflow's own code logs through trainspool"
)
_BY_NAME = {
    "MlflowClient": f"code that is written to the client class is served by MLflow itself. {BY_PLUGIN}",
    "MlflowException": "trainspool raises TrainspoolException. Next: catch trainspool.TrainspoolException",
    "exceptions": "trainspool raises TrainspoolException. Next: catch trainspool.TrainspoolException",
    "ActiveRun": "the active run is a trainspool.Run. Next: use trainspool.Run",
    "Image": "Next: log_image() takes arrays and pictures of PIL as they are",
    "RunOperations": "every log call is asynchronous and nothing need be waited for. Next: flush(), wait()",
    "evaluate": f"it runs models. {BY_PLUGIN}",
    "login": "there is no server to log in to. Next: set_tracking_uri('mlruns')",
    "doctor": "Next: run 'trainspool doctor' in a shell",
}
_BY_REASON = {
    f"it patches frameworks, and that is MLflow's own code. {BY_PLUGIN}": "autolog",
    f"saving and loading models is MLflow's own code. {BY_PLUGIN}": (
        "catboost diffusers h2o johnsnowlabs keras lightgbm models onnx paddle pmdarima prophet pyfunc pyspark pytorch "
        "rfunc sentence_transformers shap sklearn spacy spark statsmodels tensorflow transformers xgboost "
        "ActiveModel clear_active_model create_external_model delete_logged_model_tag finalize_logged_model "
        "get_active_model_id get_logged_model import_checkpoints initialize_logged_model last_logged_model "
        "log_model_params log_outputs search_logged_models set_active_model set_logged_model_tags "
        "validate_evaluation_results"
    ),
    f"it has no model registry. {BY_PLUGIN}, and MLFLOW_REGISTRY_URI names the registry": (
        "get_registry_uri register_model search_model_versions search_registered_models set_model_version_tag "
        "set_registry_uri"
    ),
    f"tracing, prompts and agents are MLflow's own code. {BY_PLUGIN}": (
        "add_trace ag2 agent agno anthropic autogen bedrock context crewai delete_assessment delete_prompt_alias "
        "delete_trace_tag dspy flush_trace_async_logging gateway gemini genai get_active_trace_id get_assessment "
        "get_current_active_span get_last_active_trace_id get_trace groq haystack langchain litellm llama_index "
        "load_prompt log_assessment log_expectation log_feedback log_issue log_trace mistral openai otel "
        "override_feedback prompt pydantic_ai register_prompt search_prompts search_sessions search_traces "
        "semantic_kernel set_prompt_alias set_trace_tag smolagents start_span start_span_no_context strands test trace "
        "tracing txtai typesafe update_assessment update_current_trace"
    ),
    f"it is of MLflow's own machinery. {BY_PLUGIN}": (
        "azure client config create_workspace data delete_workspace environment_variables get_workspace "
        "list_workspaces metrics projects set_workspace store system_metrics telemetry tracking types "
        "update_workspace utils"
    ),
}
WHY = {**{name: why for why, names in _BY_REASON.items() for name in names.split()}, **_BY_NAME}


def error_for(name: str) -> AttributeError | TrainspoolError:
    """Return what to raise for a name that the package does not have."""
    if name in WHY:
        return AbsentFeature(f"trainspool has no {name}: {WHY[name]}.")
    return AttributeError(f"module 'trainspool' has no attribute {name!r}")
