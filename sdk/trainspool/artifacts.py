"""A run's artifacts: content captured into the stream's staging folder, and the events that name it.

Source: sdk/docs/artifacts.md.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainspool import capture, staging
from trainspool.captures import Capture
from trainspool.complaints import warn
from trainspool.errors import TrainspoolException
from trainspool.runtexts import RunTexts
from trainspool.spool import events, files
from trainspool.spool.layout import STAGING
from trainspool.staging import Staged, StagingFailed
from trainspool.stream import stream
from trainspool.texts import storable

PROBLEM_TAG = "trainspool.problem"
PROBLEM_CHARACTERS = 500

_time_ns = time.time_ns


class RunArtifacts(RunTexts):
    """The artifact calls of a run. A full or broken spool is reported, on the run too, and never raised."""

    _uncaptured = 0  # by this process

    def log_artifact(
        self,
        local_path: str | os.PathLike[str],
        artifact_path: str | None = None,
        *,
        move: bool = False,
        link: bool = False,
        background: bool = False,
    ) -> Capture:
        """Log a file, or a folder with all it holds, under *artifact_path*.

        Captured when this returns: you may overwrite or delete the file at once. It costs milliseconds at any size
        where the file system can share blocks (XFS, Btrfs, …), else the time of a copy.

        Args:
            local_path: the file or folder. Links are followed.
            artifact_path: the folder below the run's artifacts; None: the top.
            move: you give the file away. It is gone from its place afterwards, and nothing is copied where spool and
                file are on one file system. Nobody may have it open for writing.
            link: nothing is copied now, and you do **not** change the file's content (replacing it by a rename or
                deleting it is fine) until the agent has it, see ``wait()``. What was changed all the same is noticed by
                size, time and a hash of parts of it, is not stored, and is reported on the run.
            background: copy in a thread of its own if it takes long. You must not touch the file before ``wait()`` of
                the result, or ``done()``; the process waits for it at its exit.

        Returns:
            A handle: ``done()``, ``wait(timeout)``. Done already, but for *background*.

        Raises:
            FileNotFoundError: there is no such file.
            TrainspoolException: *artifact_path* leaves the run's artifacts, or something is no plain file.
        """
        found = staging.files_of(os.fspath(local_path), artifact_path, keep_name=True)
        return self._log_files(found, move=move, link=link, background=background)

    def log_artifacts(
        self,
        local_dir: str | os.PathLike[str],
        artifact_path: str | None = None,
        *,
        move: bool = False,
        link: bool = False,
        background: bool = False,
    ) -> Capture:
        """Log everything in a folder under *artifact_path*; arguments, result and errors as ``log_artifact``."""
        found = staging.files_of(os.fspath(local_dir), artifact_path, keep_name=False)
        return self._log_files(found, move=move, link=link, background=background)

    @contextlib.contextmanager
    def artifact_path(self, artifact_file: str) -> Iterator[str]:
        """Give a path to write the artifact *artifact_file* to, within a ``with`` block; no copy is made at all.

        A file or a folder may be made there; its name ends as *artifact_file* does. It is published if the block
        succeeds; if it raises, nothing of it is kept.

        Raises:
            FileNotFoundError: the block made nothing at that path.
            TrainspoolException: *artifact_file* leaves the run's artifacts.
        """
        target = staging.check_artifact_path(artifact_file)
        folder, error = self._staging_folder()
        elsewhere = _temporary_folder() if folder is None else ""
        path = f"{elsewhere or folder}/{staging.new_name(target)}"
        try:
            yield path
            if not os.path.lexists(path):
                raise FileNotFoundError(2, "the block wrote nothing to the path it was given", path)
            if not elsewhere:
                self._log_files(staging.files_at(path, target), move=True)
            elif error is not None:
                self._report(target, error)
        finally:
            _remove(elsewhere or path)

    def log_text(self, text: str, artifact_file: str) -> None:
        """Log *text* as the artifact file of that path."""
        content = storable(text).encode(errors="surrogateescape")
        target = staging.check_artifact_path(artifact_file)
        self._stage_written(target, lambda folder: staging.write(content, folder))

    def log_dict(self, dictionary: Any, artifact_file: str) -> None:
        """Log *dictionary* as the artifact file of that path: YAML if it ends in .yml or .yaml, else JSON."""
        self.log_text(_serialised(dictionary, artifact_file), artifact_file)

    # -- capturing ----------------------------------------------------------------------------------------------

    def _log_files(
        self, found: Iterable[tuple[str, str]], *, move: bool = False, link: bool = False, background: bool = False
    ) -> Capture:
        if move + link + background > 1:
            raise TrainspoolException("move, link and background exclude each other: each says how to capture")
        capturing: _Capturing = _whole
        if move:
            capturing = capture.give
        elif link:
            capturing = _linked
        elif background:
            capturing = capture.begin
        handle = Capture()
        for source, target in found:
            staged, later = self._stage(target, lambda folder, source=source: capturing(source, folder))  # type: ignore[misc]
            handle.how += (staged.how if staged is not None else "failed",)
            if isinstance(later, capture.Copying):  # at once: each holds two descriptors, and the next file may raise
                stream.captures.submit(self._copying(target, later), handle)
            elif later is not None:
                self._give_up(later, target)
        return handle

    def _stage_written(self, artifact_path: str, write: Callable[[str], Staged]) -> None:
        self._stage(artifact_path, lambda folder: (write(folder), None))

    def _stage(self, artifact_path: str, capturing: _CapturingInto) -> tuple[Staged | None, Callable[[], Any] | None]:
        """Capture content into the stream's staging folder, then say so; what is returned beside it is still to do."""
        stream.ensure()
        if stream.pump is None:
            return None, None
        try:
            staged, later = capturing(f"{stream.folder}/{STAGING}")
        except StagingFailed as error:
            self._report(artifact_path, error)
            return None, None
        stream.pump.staged.append(staged.path)  # before its event, which is not to be on the device alone
        if not self._log(events.ARTIFACT, _time_ns(), artifact_path, *staged.said):
            _remove(staged.path)
            if isinstance(later, capture.Copying):
                later.abandon()
            self._report(artifact_path, StagingFailed("the ring is full; nothing of it is kept. Next: log it again"))
            return None, None
        self._note_change(artifact_path, staged)
        return staged, later

    def _note_change(self, artifact_path: str, staged: Staged) -> None:
        if staged.changed:
            self._report(artifact_path, StagingFailed("it changed while it was captured; kept as it was read"))

    def _copying(self, artifact_path: str, copy: capture.Copying) -> Callable[[], None]:
        def run() -> None:
            try:
                staged = copy()
            except StagingFailed as error:
                self._report(artifact_path, error)
                return
            if copy.unnamed and stream.pump is not None:
                stream.pump.staged.append(staged.path)  # whoever asks for it on the device has to wait for that
            self._note_change(artifact_path, staged)

        return run

    def _give_up(self, remove: Callable[[], None], artifact_path: str) -> None:
        try:
            remove()
        except OSError as error:
            warn("artifact %s of run %s was captured, but stays where it was: %s", artifact_path, self.run_id, error)

    def _staging_folder(self) -> tuple[str | None, StagingFailed | None]:
        """Return the staging folder, made; None if the spool takes nothing now, and why."""
        stream.ensure()
        if stream.pump is None:
            return None, None
        folder = f"{stream.folder}/{STAGING}"
        try:
            staging.make_room(folder, staging.LARGE_BYTES)
        except OSError as error:
            return None, staging.failed(error)
        return folder, None

    def _report(self, artifact_path: str, error: StagingFailed) -> None:
        warn("artifact %s of run %s was not captured as asked: %s", artifact_path, self.run_id, error)
        self._uncaptured += 1
        which = f"artifact {artifact_path}"
        if self._uncaptured > 1:
            which = f"{self._uncaptured} artifacts were not captured as asked, the last: {which}"
        self.set_tag(PROBLEM_TAG, f"{which}: {error}"[:PROBLEM_CHARACTERS])


_Capturing = Callable[[str, str], tuple[Staged, Callable[[], Any] | None]]
_CapturingInto = Callable[[str], tuple[Staged, Callable[[], Any] | None]]


def _whole(source: str, folder: str) -> tuple[Staged, None]:
    return capture.capture(source, folder), None


def _linked(source: str, folder: str) -> tuple[Staged, None]:
    return capture.link(source, folder), None


def _temporary_folder() -> str:
    import tempfile  # importing trainspool has a budget

    return tempfile.mkdtemp(prefix="trainspool-")


def _remove(path: str) -> None:
    """Remove a file or folder that no event names, as far as it can be."""
    files.fs.remove_tree(path)


def _serialised(dictionary: Any, artifact_file: str) -> str:
    """Return *dictionary* as text, as MLflow's ``log_dict`` does: by the file's extension, JSON unless it says YAML."""
    if artifact_file.endswith((".yml", ".yaml")):
        with contextlib.suppress(ImportError):
            import yaml  # not a dependency; JSON is YAML where it is missing

            text: str = yaml.dump(dictionary, indent=2, default_flow_style=False)
            return text
    import json

    return json.dumps(dictionary, indent=2, default=str)


_READING = frozenset(("download_artifacts", "list_artifacts", "load_dict", "load_image", "load_text"))


def __getattr__(name: str) -> Any:
    """Bring what ``mlflow.artifacts`` has: ``trainspool.artifacts.load_dict(...)``."""
    if name not in _READING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainspool.reading import artifacts  # most training scripts read none

    return getattr(artifacts, name)
