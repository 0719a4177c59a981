"""trainspool as MLflow's store: ``MLFLOW_TRACKING_URI=trainspool:`` switches a script, its frameworks and autologging.

MLflow calls these three by its entry points. Everything else is loaded when such an address is used for the first
time, as every ``import mlflow`` looks here. ``import trainspool`` never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainspool.mlflow_plugin.artifacts import RunArtifactRepository
    from trainspool.mlflow_plugin.store import TrainspoolStore


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> TrainspoolStore:
    """Return the store of a ``trainspool:`` address, one per folder and process.

    Raises:
        MlflowException: the address names no folder.
    """
    from trainspool.mlflow_plugin.address import root_of
    from trainspool.mlflow_plugin.store import store_at

    return store_at(root_of(store_uri))


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> RunArtifactRepository:
    """Return the artifacts of a run, at the address that the store gives them while this process knows it."""
    from trainspool.mlflow_plugin.artifacts import RunArtifactRepository

    return RunArtifactRepository(artifact_uri, tracking_uri, registry_uri)


def registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """Return MLflow's own model registry in the same folder: no event says what it holds, and no run waits for it."""
    from trainspool.mlflow_plugin.address import root_of
    from trainspool.mlflow_plugin.store import store_at

    return store_at(root_of(store_uri)).registry()
