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

SYNC_FILES_MAX = 32  # more than these are one syncfs
COPY_BYTES = 1 << 20


class Synced(NamedTuple):
    """What became of one request: everything of *writer* before *offset* is on the device, or *error* says why not."""

    writer: SegmentWriter
    offset: int
    last: bool
    error: OSError | None
    folders: list[str]
    staged: list[str]


class _Request(NamedTuple):
    writer: SegmentWriter
    sync: bool
    last: bool
    folders: list[str]
    staged: list[str]


class Syncer:
    """Takes requests from the pump, one after the other. Not for use after fork."""

    def __init__(self) -> None:
        self.results: deque[Synced] = deque()
        self.idle = True
        self._distrusted: set[str] = set()
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        try:
            threading.Thread(target=self._run, name="trainspool-sync", daemon=True).start()
            self._threaded = True
        except RuntimeError:  # Python >= 3.12 starts no thread once it exits; then who asks waits
            self._threaded = False

    def request(self, writer: SegmentWriter, *, last: bool, folders: list[str], staged: list[str]) -> None:
        """Sync *writer*'s file; *last* closes it too. First the staged files and new *folders* that its events name."""
        self._put(_Request(writer, True, last, folders, staged))

    def close(self, writer: SegmentWriter) -> None:
        """Close a file that is left behind, when no sync of it is under way any more."""
        self._put(_Request(writer, False, True, [], []))

    def _put(self, request: _Request) -> None:
        if self._threaded:
            self.idle = False
            self._requests.put(request)
        else:
            self._serve(request)

    def _run(self) -> None:
        while True:
            self._serve(self._requests.get())
            self.idle = self._requests.empty()

    def _serve(self, request: _Request) -> None:
        writer, offset, error = request.writer, request.writer.offset, None
        try:
            if request.sync:
                self._sync_all_staged(request.staged)
                writer.sync()
                for path in request.folders:
                    files.fs.sync_folder(path)
        except OSError as caught:
            error = caught
        if request.last:
            with contextlib.suppress(OSError):
                writer.close()
        if request.sync:
            self.results.append(Synced(writer, offset, request.last, error, request.folders, request.staged))

    def _sync_all_staged(self, paths: list[str]) -> None:
        """One by one, or many at once: the points behind thousands of small files must not wait for a sync of each."""
        folders = {os.path.dirname(path) for path in paths}
        if len(paths) > SYNC_FILES_MAX and self._distrusted.isdisjoint(paths):
            try:
                for folder in folders:
                    with contextlib.suppress(FileNotFoundError):
                        files.fs.sync_file_system(folder)
            except OSError:
                self._distrusted.update(paths)
                raise
            return
        for path in paths:
            self._sync_staged(path)
        for folder in folders:  # a file without a name is lost, too
            with contextlib.suppress(FileNotFoundError):
                files.fs.sync_folder(folder)

    def _sync_staged(self, path: str) -> None:
        """As with segments, a sync that failed is not tried again on the same file: its content goes to a new one."""
        with contextlib.suppress(FileNotFoundError):  # carried away already
            if path in self._distrusted:
                _write_again(path)
                self._distrusted.discard(path)
                return
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.fs.sync(fd)
            except OSError:
                self._distrusted.add(path)
                raise
            finally:
                os.close(fd)


def _write_again(path: str) -> None:
    temporary = f"{path}.again"
    with contextlib.suppress(FileNotFoundError):
        files.fs.unlink(temporary)
    with open(path, "rb") as source:
        fd = files.fs.create(temporary)
        try:
            while block := source.read(COPY_BYTES):
                files.fs.write(fd, block)
            files.fs.sync(fd)
        finally:
            os.close(fd)
    files.fs.rename(temporary, path)
