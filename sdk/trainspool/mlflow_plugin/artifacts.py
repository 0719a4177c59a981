"""The artifacts of a run: written by trainspool's Run, so captured before the call returns; read from the store."""

from __future__ import annotations

import os
import posixpath
from typing import Any

from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from trainspool.mlflow_plugin.address import place_of
from trainspool.mlflow_plugin.failures import in_mlflows_terms
from trainspool.mlflow_plugin.store import store_at
from trainspool.mlflow_plugin.waiting import settle
from trainspool.run import Run


class RunArtifactRepository(ArtifactRepository):
    """The artifacts of one run, or a folder of them. Any thread."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        if "tracking_uri" in ArtifactRepository.__init__.__code__.co_varnames:
            super().__init__(artifact_uri, tracking_uri, registry_uri)
        else:  # MLflow 2
            super().__init__(artifact_uri)
        self._place = place_of(artifact_uri)
        self._in_store = LocalArtifactRepository(os.path.join(self._place.folder, self._place.below))

    @in_mlflows_terms
    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        below = self._below(artifact_path)
        self._run.log_artifact(local_file, below)

    @in_mlflows_terms
    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        below = self._below(artifact_path)
        self._run.log_artifacts(local_dir, below)

    def list_artifacts(self, path: str | None = None) -> Any:
        settle()
        return self._in_store.list_artifacts(path)

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None, **how: Any) -> Any:
        settle()
        return self._in_store.download_artifacts(artifact_path, dst_path, **how)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        settle()
        self._in_store._download_file(remote_file_path, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        settle()
        self._in_store.delete_artifacts(artifact_path)

    @property
    def _run(self) -> Run:
        return store_at(self._place.root).run_with_artifacts(self._place.run_id)

    def _below(self, artifact_path: str | os.PathLike[str] | None) -> str | None:
        path = os.fspath(artifact_path) if artifact_path else ""
        if path:
            verify_artifact_path(path)
        return (
            posixpath.join(self._place.below, path) if self._place.below and path else self._place.below or path or None
        )
