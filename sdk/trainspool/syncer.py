"""The helper thread that waits for the device, so that the pump does not: files synced, in order, results told.

Source: design.md §2.2: a sync may take seconds, and a failed one is never simply retried.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from typing import NamedTuple

from trainspool.spool import files
from trainspool.spool.segment import SegmentWriter


class Synced(NamedTuple):
    """What became of one request: everything of *writer* before *offset* is on the device, or *error* says why not."""

    writer: SegmentWriter
    offset: int
    error: OSError | None


class Syncer:
    """Takes requests from the pump, one after the other. Not for use after fork."""

    def __init__(self) -> None:
        self.results: deque[Synced] = deque()
        self.idle = True
        self._requests: queue.SimpleQueue[tuple[SegmentWriter, bool, list[str], list[str]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="trainspool-sync", daemon=True).start()

    def request(self, writer: SegmentWriter, *, last: bool, folders: list[str], staged: list[str]) -> None:
        """Sync *writer*'s file; *last* closes it too. First the staged files and new *folders* that its events name."""
        self.idle = False
        self._requests.put((writer, last, folders, staged))

    def _run(self) -> None:
        while True:
            writer, last, folders, staged = self._requests.get()
            offset, error = writer.offset, None
            try:
                for path in staged:
                    _sync_staged(path)
                writer.sync()
                for path in folders:
                    files.fs.sync_folder(path)
            except OSError as caught:
                error = caught
            if last:
                with contextlib.suppress(OSError):
                    writer.close()
            self.results.append(Synced(writer, offset, error))
            self.idle = self._requests.empty()


def _sync_staged(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # carried away already
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.fs.sync(fd)
        finally:
            os.close(fd)
