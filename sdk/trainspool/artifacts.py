"""A run's artifacts: content captured into the stream's staging folder, and the events that name it."""

from __future__ import annotations

import os
import time
from typing import Any

from trainspool import staging
from trainspool.complaints import warn
from trainspool.runtexts import RunTexts
from trainspool.spool import events
from trainspool.stream import stream
from trainspool.texts import storable

_time_ns = time.time_ns


class RunArtifacts(RunTexts):
    """The artifact calls of a run."""

    def log_artifact(self, local_path: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """Log a file, or a folder with all it holds, under *artifact_path*. Captured when this returns.

        Raises:
            FileNotFoundError: there is no such file.
            TrainspoolException: *artifact_path* leaves the run's artifacts.
        """
        for source, target in staging.files_of(os.fspath(local_path), artifact_path, keep_name=True):
            self._stage(target, lambda folder, source=source: staging.capture(source, folder))

    def log_artifacts(self, local_dir: str | os.PathLike[str], artifact_path: str | None = None) -> None:
        """Log everything in a folder under *artifact_path*. Errors as ``log_artifact``."""
        for source, target in staging.files_of(os.fspath(local_dir), artifact_path, keep_name=False):
            self._stage(target, lambda folder, source=source: staging.capture(source, folder))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Log *text* as the artifact file of that path."""
        content = storable(text).encode(errors="surrogateescape")
        self._stage(staging.check_artifact_path(artifact_file), lambda folder: staging.write(content, folder))

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """Log *dictionary* as the artifact file of that path: YAML if it ends in .yml or .yaml, else JSON."""
        self.log_text(staging.serialised(dictionary, artifact_file), artifact_file)

    def _stage(self, artifact_path: str, capture: Any) -> None:
        """Capture content into the stream's staging folder, then say so. A full disk is reported, not raised."""
        stream.ensure()
        if stream.pump is None:
            return
        try:
            staged = capture(f"{stream.folder}/staging")
        except staging.StagingFailed as error:
            warn("artifact %s of run %s was not captured: %s", artifact_path, self.run_id, error)
            self.set_tag("trainspool.problem", f"artifact {artifact_path} was not captured: {error}"[:500])
            return
        stream.pump.staged.append(staged.path)
        self._log(events.ARTIFACT, _time_ns(), artifact_path, staged.name, staged.size, staged.mode)
