"""The folder a store lies in, as MLflow's own file store reads it. Only the agent makes it."""

from __future__ import annotations

import os
import time
from typing import Any

from trainspool.mlflow_plugin import filestore
from trainspool.mlflow_plugin.failures import does_not_exist
from trainspool.mlflow_plugin.waiting import settle
from trainspool.spool import events
from trainspool.spool.experiments import DEFAULT_ID, DEFAULT_NAME
from trainspool.stream import stream


class Folder:
    """One store's folder. Any thread; survives fork."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._files: Any = None

    @property
    def is_there(self) -> bool:
        return os.path.exists(f"{self.root}/{DEFAULT_ID}/meta.yaml")

    @property
    def files(self) -> Any:
        """MLflow's file store as it is now. Where there is none yet, the agent is asked to make it.

        Raises:
            MlflowException: there is none, and no agent makes it.
        """
        if not self.is_there:
            self.tell_experiment(DEFAULT_ID, DEFAULT_NAME, [])
            settle()
            if not self.is_there:
                disabled = stream.configured().disabled
                next_step = "unset TRAINSPOOL_DISABLED" if disabled else "trainspool doctor"
                raise does_not_exist(f"there is no store in {self.root} yet. Next: {next_step}")
        if self._files is None:
            self._files = filestore.tracking(self.root)
        return self._files

    def settled(self) -> Any:
        """Return MLflow's file store once it has everything this process logged; raises as ``files``."""
        settle()
        return self.files

    def tell_experiment(self, experiment_id: str, name: str | None, tags: list[str | None]) -> None:
        """Have the experiment made, if there is none of that id or name, and tagged; a nil value deletes a tag."""
        stream.ensure()
        told = events.pack(events.EXPERIMENT, time.time_ns(), self.root, experiment_id, name, tags)
        if not stream.ring.append(told):
            stream.owed.append(lambda: bool(stream.ring.append(told)))
