"""``Run``: what the training loop holds; turns each call into an event.

The path of a metric point is ``log_metric``: a dictionary look-up, a pack, a copy, a commit. Everything else
(a new key, another number type, a full ring, a forked child) takes the slow path, which builds the event anew.

Source: design.md §2.1, §2.6; MLflow's fluent API for names, arguments and defaults.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgpack

from trainspool import staging, validation
from trainspool.complaints import warn
from trainspool.entities import Experiment, RunData, RunInfo
from trainspool.errors import TrainspoolException
from trainspool.spool import events
from trainspool.stream import KEYSETS_MAX, stream

RUN_NAME = "mlflow.runName"
POINTS_PER_EVENT_MAX = 4096
TEXT_BYTES_PER_EVENT = 32 << 10
KEYSETS_PER_RUN_MAX = 4096
NAME_CHARACTERS = 2000  # of a run's name in its start; the tag mlflow.runName has all of it

_time_ns = time.time_ns
# Behind the prefix (array header, kind, run, key): time, step and value, each with its msgpack byte.
_pack_point = struct.Struct(">BQBiBd").pack
_LONG_POINT = struct.Struct(">BQBqBd")
_NUMBERS = (KeyError, TypeError, ValueError, OverflowError, RuntimeError, struct.error)


class Run:
    """One run, as the process that logs to it sees it. Any thread; in a forked child it goes on as a guest.

    Usable alone (``run.log_metric``), as a context manager that ends the run (FAILED on an exception), or through the
    fluent functions. No call waits for disk or network but ``flush``, ``wait`` and the artifact calls.
    """

    def __init__(self, run_id: str, experiment: Experiment, store: str, *, name: str, user: str, owner: bool) -> None:
        self.run_id = run_id
        self.experiment, self.store, self.name, self.user = experiment, store, name, user
        self.owner = owner
        if owner:
            stream.owned.add(self)
        self.status, self.start_time = "RUNNING", time.time_ns() // 1_000_000
        self.end_time: int | None = None
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        # Fork and end put new dictionaries here, so what an interrupted call still adds to the old ones means nothing.
        self._series: dict[str, bytes] = {}
        self._numbered: tuple[object, int] = (None, 0)  # the series for which the stream knows the run's number
        self._keysets: dict[tuple[str, ...], tuple[bytes, Any]] = {}
        self._end: int | None = None

    # -- metrics ------------------------------------------------------------------------------------------------

    def log_metric(self, key: str, value: float, step: int | None = None, timestamp: int | None = None) -> None:
        """Log one metric point.

        Args:
            key: the metric's name.
            value: anything ``float()`` takes; NaN and infinities are kept.
            step: whole number; None is 0. May go backwards.
            timestamp: ms since the epoch; None is now.

        Raises:
            TrainspoolException: an argument is not of its kind; nothing was logged.
        """
        try:
            now = timestamp * 1_000_000 if timestamp else _time_ns()
            data = self._series[key] + _pack_point(0xCF, now, 0xD2, step or 0, 0xCB, value)
        except _NUMBERS:
            self._log_point(key, value, step, timestamp)
            return
        chunk = stream.ring.chunk
        try:
            chunk.write(data)
        except ValueError:
            self._log_point(key, value, step, timestamp)
        else:
            chunk.tail[0] = chunk.position

    def _log_point(self, key: Any, value: Any, step: Any, timestamp: Any) -> None:
        """``log_metric`` when something is new or odd: check, define what the stream does not know, append."""
        name = validation.check_key(key)
        number = validation.metric_value(name, value, timestamp)
        step = validation.step_number(name, value, step)
        when = validation.time_ns_from_ms(name, value, timestamp) if timestamp else _time_ns()
        while True:
            generation = stream.ensure()
            series, keys = self._series, stream.keys
            run, definitions = self._definition()
            key_number, key_definition = stream.key(name)
            prefix = b"\x96\x00" + msgpack.packb(run) + msgpack.packb(key_number)
            point = _LONG_POINT.pack(0xCF, when, 0xD3, step, 0xCB, number)
            if stream.generation != generation:
                continue  # a signal handler forked: these ids were the parent's
            if stream.append(self, definitions + key_definition + prefix + point, points=1):
                self._defined(run, series)
                keys[name] = key_number
                series[name] = prefix
            elif stream.generation != generation:
                continue
            return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, timestamp: int | None = None) -> None:
        """Log several points of one step at once; arguments and errors as ``log_metric``."""
        try:
            prefix, pack = self._keysets[tuple(metrics)]
            now = timestamp * 1_000_000 if timestamp else _time_ns()
            data = prefix + pack(0xCF, now, 0xD2, step or 0, 0xC5, len(metrics) * 8, *metrics.values())
        except _NUMBERS:
            self._log_points(metrics, step, timestamp)
            return
        chunk = stream.ring.chunk
        try:
            chunk.write(data)
        except ValueError:
            self._log_points(metrics, step, timestamp)
        else:
            chunk.tail[0] = chunk.position

    def _log_points(self, metrics: Mapping[str, Any], step: Any, timestamp: Any) -> None:
        names = [validation.check_key(key) for key in metrics]
        numbers = [validation.metric_value(key, value, timestamp) for key, value in metrics.items()]
        step = validation.step_number(names[0] if names else "", None, step)
        when = validation.time_ns_from_ms("", None, timestamp) if timestamp else _time_ns()
        for begin in range(0, len(names), POINTS_PER_EVENT_MAX):
            end = begin + POINTS_PER_EVENT_MAX
            self._log_batch(tuple(names[begin:end]), numbers[begin:end], step, when)

    def _log_batch(self, names: tuple[str, ...], numbers: list[float], step: int, when: int) -> None:
        count = len(names)
        while True:
            generation = stream.ensure()
            series, keysets, known_keys, known_keysets = self._series, self._keysets, stream.keys, stream.keysets
            run, definitions = self._definition()
            keys = [stream.key(name) for name in names]
            if sum(len(definition) for _, definition in keys) > TEXT_BYTES_PER_EVENT and self._define(
                dict(zip(names, keys, strict=True)), known_keys
            ):
                continue
            key_numbers = [number for number, _ in keys]
            keyset, keyset_definition = self._keyset(names, key_numbers)
            prefix = b"\x96\x01" + msgpack.packb(run) + msgpack.packb(keyset)
            body = struct.pack(">BQBqBH", 0xCF, when, 0xD3, step, 0xC5, count * 8) + events.doubles(count).pack(
                *numbers
            )
            data = b"".join((definitions, *(definition for _, definition in keys), keyset_definition, prefix, body))
            if stream.generation != generation:
                continue
            if stream.append(self, data, points=count):
                self._defined(run, series)
                known_keys.update(zip(names, key_numbers, strict=True))
                if isinstance(keyset, int):
                    known_keysets[names] = keyset
                    if len(keysets) < KEYSETS_PER_RUN_MAX:
                        keysets[names] = (prefix, struct.Struct(f">BQBiBH{count}d").pack)
            elif stream.generation != generation:
                continue
            return

    @staticmethod
    def _define(keys: dict[str, tuple[int, bytes]], known: dict[str, int]) -> bool:
        """Define many keys ahead of their use, in appends that the smallest ring takes; False if it is full."""
        todo = [(name, number, definition) for name, (number, definition) in keys.items() if definition]
        while todo:
            taken, size = 0, 0
            while taken < len(todo) and size < TEXT_BYTES_PER_EVENT // 2:
                size += len(todo[taken][2])
                taken += 1
            if not stream.ring.append(b"".join(definition for _, _, definition in todo[:taken])):
                return False
            known.update((name, number) for name, number, _ in todo[:taken])
            todo = todo[taken:]
        return True

    @staticmethod
    def _keyset(names: tuple[str, ...], key_numbers: list[int]) -> tuple[int | list[int], bytes]:
        """Return the id of this combination of keys, or the keys themselves if the stream has seen too many."""
        known = stream.keysets.get(names)
        if known is not None:
            return known, b""
        if len(stream.keysets) >= KEYSETS_MAX:
            return key_numbers, b""
        number = next(stream.keyset_numbers)
        return number, events.pack(events.DEFINE_KEYSET, number, key_numbers)

    # -- params and tags ----------------------------------------------------------------------------------------

    def log_param(self, key: str, value: Any) -> Any:
        """Log a param; returns *value*. A param keeps its first value: another one is kept as a tag, and reported.

        Raises:
            TrainspoolException: the key cannot name a param.
        """
        self.log_params({key: value})
        return value

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log several params; values are stored as ``str(value)``. Errors as ``log_param``."""
        texts = [(validation.check_key(key, "key"), _param_text(key, value)) for key, value in params.items()]
        for key, text in texts:
            first = self.params.setdefault(key, text)
            if first != text:
                warn(
                    "param %r of run %s is already %.100r; the new value %.100r is kept as tag param.%s.v2 (or later)",
                    key, self.run_id, first, text, key,
                )  # fmt: skip
        self._log_texts(events.PARAMS, texts)

    def set_tag(self, key: str, value: Any) -> None:
        """Set a tag; the last value stays.

        Raises:
            TrainspoolException: the key cannot name a tag.
        """
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set several tags; values are stored as ``str(value)``. Errors as ``set_tag``."""
        texts = [(validation.check_key(key, "key"), _text(value)) for key, value in tags.items()]
        small: list[tuple[str, str | None]] = []
        for key, text in texts:
            self.tags[key] = text
            if key == RUN_NAME:
                self.name = text
            if (
                len(text) * 4 > TEXT_BYTES_PER_EVENT
                and len(text.encode(errors="surrogateescape")) > TEXT_BYTES_PER_EVENT
            ):
                self._stage_tag(key, text)
            else:
                small.append((key, text))
        self._log_texts(events.TAGS, small)

    def delete_tag(self, key: str) -> None:
        """Delete a tag.

        Raises:
            TrainspoolException: the key cannot name a tag, or this process knows of no such tag on the run.
        """
        validation.check_key(key, "key")
        if key not in self.tags and self.owner:
            raise TrainspoolException(
                f"No tag with name: {key} in run with id {self.run_id}", "RESOURCE_DOES_NOT_EXIST"
            )
        self.tags.pop(key, None)
        self._log_texts(events.TAGS, [(key, None)])

    def _log_texts(self, kind: int, texts: list[tuple[str, Any]]) -> None:
        flat: list[str | None] = []
        size = 0
        for key, text in texts:
            flat += (key, text)
            size += len(key) * 4 + len(text or "") * 4
            if size >= TEXT_BYTES_PER_EVENT:
                self._log(kind, _time_ns(), flat)
                flat, size = [], 0
        if flat:
            self._log(kind, _time_ns(), flat)

    # -- artifacts ----------------------------------------------------------------------------------------------

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

    def _stage_tag(self, key: str, text: str) -> None:
        stream.ensure()
        if stream.pump is None:
            return
        try:
            staged = staging.write(text.encode(errors="surrogateescape"), f"{stream.folder}/staging")
        except staging.StagingFailed as error:
            warn("tag %s of run %s was not kept: %s", key, self.run_id, error)
            return
        stream.pump.staged.append(staged.path)
        self._log(events.STAGED_TAG, _time_ns(), key, staged.name, staged.size)

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, tags: Mapping[str, str], *, resume: bool) -> None:
        """Say that this stream runs it from now on; told once, by ``start_run``."""
        self.tags.update(tags)
        small: dict[str, str] = {}
        large: dict[str, str] = {}
        size = 0
        for key, text in tags.items():
            size += 4 * (len(key) + len(text))
            (small if size <= TEXT_BYTES_PER_EVENT else large)[key] = storable(text)
        name = storable(self.name)[:NAME_CHARACTERS] if RUN_NAME in tags else None  # a resumed run keeps its own
        facts = {"name": name, "user": self.user, "tags": small, "resume": resume}
        self._log_surely(events.START, self.start_time * 1_000_000, facts)
        if large:
            self.set_tags(large)

    def end(self, status: str = "FINISHED", reason: str | None = None) -> None:
        """End the run for this process; later calls still log to it, as a guest. Hands over and returns.

        Raises:
            TrainspoolException: *status* is none of MLflow's.
        """
        number = events.STATUS_NUMBERS.get(status)
        if number is None:
            raise TrainspoolException(f"Invalid status {status!r}: one of {', '.join(events.STATUS_NUMBERS)}")
        if not self.owner or self._end is not None:
            return
        self.status, self._end = status, _time_ns()
        self.end_time = self._end // 1_000_000
        if number < events.FINISHED:
            return
        self._log_surely(events.END, self._end, number, reason)
        self._forget()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        from trainspool import active

        active.end(self, "FINISHED" if kind is None else "FAILED", reason_of(error))
        return kind is None

    def flush(self, durable: bool = False, timeout: float | None = None) -> bool:
        """Wait until the spool has all that was logged before; see ``trainspool.flush``."""
        return stream.flush(durable, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the store has all that was logged before; see ``trainspool.wait``."""
        return stream.wait(timeout)

    @property
    def info(self) -> RunInfo:
        uri = f"{self.store}/{self.experiment.experiment_id}/{self.run_id}/artifacts"
        identity = (self.run_id, self.name, self.experiment.experiment_id, self.user)
        return RunInfo(*identity, self.status, self.start_time, self.end_time, uri)

    @property
    def data(self) -> RunData:
        return RunData(dict(self.params), dict(self.tags), {})

    # -- events -------------------------------------------------------------------------------------------------

    def _log(self, kind: int, *elements: Any) -> bool:
        """Append one event of this run, with the run's definition if the stream needs it."""
        while True:
            generation = stream.ensure()
            series = self._series
            run, definitions = self._definition()
            data = definitions + events.pack(kind, run, *elements)
            if stream.generation != generation:
                continue
            appended = stream.append(self, data)
            if appended:
                self._defined(run, series)
            elif stream.generation != generation:
                continue
            return appended

    def _log_surely(self, kind: int, *elements: Any) -> None:
        """Append an event that decides the run's life; if the ring is full, as soon as there is room."""
        if not self._try(kind, *elements):
            stream.owed.append(lambda: self._try(kind, *elements))

    def _try(self, kind: int, *elements: Any) -> bool:
        generation = stream.ensure()
        series, ring = self._series, stream.ring
        run, definitions = self._definition()
        if kind in (events.START, events.END) and not self.owner:
            return True  # forked meanwhile: starting and ending is the parent's
        if not ring.append(definitions + events.pack(kind, run, *elements)):
            return stream.generation != generation
        self._defined(run, series)
        return True

    def log_gap(self) -> bool:
        """Say how much of this run was dropped so far; whether there was room to say it."""
        points, dropped = stream.ring.dropped(self.run_id)
        return self._try(events.GAP, _time_ns(), points, dropped)

    def _definition(self) -> tuple[int, bytes]:
        """Return the run's id in the stream, and its definition if the stream has none."""
        series, number = self._numbered
        if series is self._series:
            return number, b""
        number = next(stream.run_numbers)
        experiment = self.experiment
        where = (self.store, experiment.experiment_id, experiment.name or None)
        owner = self.owner and self._end is None
        return number, events.pack(events.DEFINE_RUN, number, self.run_id, owner, *where)

    def _defined(self, number: int, series: object) -> None:
        self._numbered = (series, number)
        if series is self._series:
            stream.runs[self.run_id] = self

    def _forget(self) -> None:
        """The stream may drop its definition of a run that it ended; using it again defines it anew."""
        self._series, self._keysets = {}, {}
        stream.runs.pop(self.run_id, None)

    def after_fork_in_child(self) -> None:
        """The parent's ids mean nothing in the child's stream, and the run is the parent's to end."""
        self.owner = False
        self._forget()


def storable(text: str) -> str:
    """Return *text* if the spool can hold it; half a surrogate pair becomes a question mark, as no file can hold it."""
    if text.isascii():
        return text
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _text(value: Any) -> str:
    return "" if value is None else storable(str(value))


def _param_text(key: str, value: Any) -> str:
    text = storable(str(value)).replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > validation.PARAM_CHARACTERS_MAX:
        warn(
            "Param value '%.100s...' of %s (%d characters) is truncated to %d characters to meet the length limit.",
            text, key, len(text), validation.PARAM_CHARACTERS_MAX,
        )  # fmt: skip
    return text[: validation.PARAM_CHARACTERS_MAX]


def reason_of(error: BaseException | None) -> str | None:
    """Return what to say of an uncaught exception, whose own ``__str__`` may be what is broken."""
    if error is None:
        return None
    try:
        return storable(f"{type(error).__name__}: {error}"[:500])
    except Exception:  # noqa: BLE001  its code is not ours, and must not take the place of the exception it tells of
        return type(error).__name__
