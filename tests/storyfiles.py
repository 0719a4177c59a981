"""The artifacts of the story: captured in every way there is, twice the same content, later versions of one path.

Copies in the background are made when the story says so, in between the agent meets their parts; what the agent links
elsewhere, it copies below ``far/``, as between file systems, step by step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainspool import capture, captures, staging
from trainspool.captures import Capture
from trainspool.run import Run
from trainspool.spool import copying
from trainspool_agent.store import content, transfer

if TYPE_CHECKING:
    from storyline import Logged

FAR = "far/"
SAME = "the same bytes again and again, of which a store keeps one\n" * 1200  # enough to be looked for
SIZE = 20_000


def text(name: str) -> str:
    line = f"{name} and nothing else\n"
    return line * (SIZE // len(line))


class Background:
    """Copies that wait until someone makes them, or until their process dies."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], None], Capture]] = []

    def submit(self, _: captures.Captures, copy: Callable[[], None], handle: Capture) -> None:
        self._waiting.append((copy, handle))

    def copy(self) -> None:
        waiting, self._waiting = self._waiting, []
        for copy, _ in waiting:
            copy()

    def die(self) -> None:
        self._waiting.clear()
        capture.close_after_fork()


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Let some kilobytes take all the ways that gigabytes take."""
    patch.setattr(staging, "LARGE_BYTES", 16 << 10)
    patch.setattr(copying, "SMALL_BYTES", 8 << 10)
    patch.setattr(copying, "KERNEL_BYTES", 8 << 10)
    for module in (transfer, content):
        patch.setattr(module, "COPY_BYTES", 4 << 10)
        patch.setattr(module, "STEP_BYTES", 8 << 10)
    link = transfer.Transfer._link
    patch.setattr(
        transfer.Transfer, "_link", lambda one, info: not one.artifact.path.startswith(FAR) and link(one, info)
    )


class Transfers:
    """What agents have open of artifacts under way: the kernel closes it, and so unlocks it, when they are killed."""

    def __init__(self) -> None:
        self._begun: list[transfer.Transfer] = []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        begin = transfer.Transfer.begin

        def noting(one: transfer.Transfer) -> None:
            self._begun.append(one)
            begin(one)

        patch.setattr(transfer.Transfer, "begin", noting)

    def die(self) -> None:
        for one in self._begun:
            for fd in (one._source, one._target):
                if fd >= 0:
                    os.close(fd)
            one._source = one._target = -1
        self._begun.clear()


class StoryFiles:
    """What one process logs of files; *folder* is its working directory."""

    def __init__(self, folder: Path, logged: Logged) -> None:
        self.folder, self.logged = folder, logged
        folder.mkdir(parents=True, exist_ok=True)

    def log_all(self, run: Run, number: int, tick: Callable[[], None]) -> None:
        """Log a file in each way; the copy in the background is only begun."""
        self._copied(run, "last.pt", text(f"version {number}"), tick)
        self._copied(run, "far/last.pt", text(f"far version {number}"), tick)
        self._copied(run, f"same/{number}.pt", SAME, tick)
        self._given(run, f"given/{number}.pt", text(f"given away {number}"), tick)
        self._linked(run, f"linked/{number}.pt", text(f"linked {number}"), tick)
        self._written(run, f"written/{number}.pt", text(f"written {number}"), tick)
        tick()
        self.begin(run, f"later/{number}.pt")

    def begin(self, run: Run, path: str) -> None:
        run.log_artifact(self._file(path, text(path)), path.rpartition("/")[0], background=True)

    def note_copied(self, number: int) -> None:
        """The copy in the background is done by now."""
        path = f"later/{number}.pt"
        self.logged.note("artifacts", 1, path, text(path))

    def _file(self, path: str, content: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        return file

    def _copied(self, run: Run, path: str, content: str, tick: Callable[[], None]) -> None:
        tick()
        file = self._file(path, content)
        run.log_artifact(file, path.rpartition("/")[0] or None)
        file.write_text("overwritten at once")
        self.logged.note("artifacts", 1, path, content)

    def _given(self, run: Run, path: str, content: str, tick: Callable[[], None]) -> None:
        tick()
        file = self._file(path, content)
        run.log_artifact(file, path.rpartition("/")[0], move=True)
        self.logged.note("artifacts", 1, path, content)
        self.logged.given.append((file, path, content))

    def _linked(self, run: Run, path: str, content: str, tick: Callable[[], None]) -> None:
        tick()
        run.log_artifact(self._file(path, content), path.rpartition("/")[0], link=True)
        self.logged.note("artifacts", 1, path, content)

    def _written(self, run: Run, path: str, content: str, tick: Callable[[], None]) -> None:
        tick()
        with run.artifact_path(path) as given:
            Path(given).write_text(content)
        self.logged.note("artifacts", 1, path, content)
