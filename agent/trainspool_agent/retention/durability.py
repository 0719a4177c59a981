"""Up to where a stream's events are in their stores for good: on the device, and so said by durable checkpoints.

Read from the files alone, so that it holds for whoever asks, with or without a running agent, in any boot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainspool.errors import TrainspoolError
from trainspool_agent import checkpoint
from trainspool_agent.compact import RunRef
from trainspool_agent.cursor import Cursor
from trainspool_agent.follow import find_root
from trainspool_agent.store.experiments import Experiments
from trainspool_agent.store.files import sync_all


class Durability:
    """What the stores vouch for, during one pass.

    Args:
        elsewhere: where runs go whose recorded store is not to be had here.
    """

    def __init__(self, elsewhere: Path | None = None) -> None:
        self._elsewhere = elsewhere
        self._experiments: dict[Path, Experiments] = {}
        self._synced: set[str] = set()

    def upto(self, cursor: Cursor, stream: str) -> tuple[int, str]:
        """Return the stream offset before which every event is durable, and what holds it back, if a run does.

        A cursor lists every run it has met but those that are settled, which is durable and ended. So a cursor that
        is old, or of another boot, says less than there is, never more.
        """
        offset, holding = cursor.offset, ""
        for run in cursor.runs:
            position = self._position(run, stream)
            if position < offset:
                offset, holding = position, run.run_id
        return offset, holding

    def _position(self, run: RunRef, stream: str) -> int:
        try:
            root = find_root(run.store, self._elsewhere)
            experiment = self._experiments.setdefault(root, Experiments(str(root))).find_run(run.run_id)
            if experiment is None:
                return 0
            folder = f"{experiment.folder}/{run.run_id}"
            saved = checkpoint.load_durable(folder)
            checkpoint.sync_path(folder)  # whoever renamed it into place may not have come to that yet
            position = min(_positions(saved, stream)) if saved else 0
        except (OSError, TrainspoolError, TypeError, LookupError):
            return 0
        return position if isinstance(position, int) else 0

    def sync_experiments(self, recorded: str) -> None:
        """Bring a store's experiments and their tags to the device: no checkpoint speaks of those.

        Raises:
            OSError, StoreRefused: they may not be there.
        """
        root = str(find_root(recorded, self._elsewhere))
        if root not in self._synced:
            if os.path.isdir(root):
                sync_all(None, root)
            self._synced.add(root)


def _positions(saved: dict[str, Any], stream: str) -> Iterator[int]:
    """Up to where a checkpoint has the events of *stream*, and where its artifacts are that are still on their way."""
    yield saved["streams"].get(stream, 0)
    for one in saved.get("expected", []):
        if one[-3] == stream:
            yield one[5] - 1
