"""``Run``: what the training loop holds; turns each call into an event.

The path of a metric point is ``log_metric``: a dictionary look-up, a pack, a copy, a commit. Everything else
(a new key, another number type, a full ring, a forked child) takes the slow path, which builds the event anew.

Source: design.md §2.1, §2.6; MLflow's fluent API for names, arguments and defaults.
"""

from __future__ import annotations

import struct
import time
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgpack

from trainspool import validation
from trainspool.entities import Experiment, RunData, RunInfo, RunInputs, StoredRun
from trainspool.errors import TrainspoolException
from trainspool.media import RunMedia
from trainspool.runtexts import RUN_NAME, TEXT_BYTES_PER_EVENT
from trainspool.spool import events
from trainspool.stream import KEYSETS_MAX, stream
from trainspool.texts import reason_of, storable

POINTS_PER_EVENT_MAX = 4096
KEYSETS_PER_RUN_MAX = 4096
NAME_CHARACTERS = 2000  # of a run's name in its start; the tag mlflow.runName has all of it

_time_ns = time.time_ns
# Behind the prefix (array header, kind, run, key): time, step and value, each with its msgpack byte.
_pack_point = struct.Struct(">BQBiBd").pack
_LONG_POINT = struct.Struct(">BQBqBd")
_NUMBERS = (KeyError, TypeError, ValueError, OverflowError, RuntimeError, struct.error, Warning)

# A tensor with a gradient is a number here, as in MLflow. Looking at each value's type would cost every log call; torch
# tells it once per process. Where warnings are errors, it is caught as one of the above.
warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning, r"trainspool\.run\Z")


class Run(RunMedia):
    """One run, as the process that logs to it sees it. Any thread; in a forked child it goes on as a guest.

    Usable alone (``run.log_metric``), as a context manager that ends the run (FAILED on an exception), or through the
    fluent functions. No call waits for disk or network but ``flush``, ``wait`` and the artifact calls.
    """

    def __init__(self, run_id: str, experiment: Experiment, store: str, *, name: str, user: str, owner: bool) -> None:
        super().__init__(run_id, experiment, store, name=name, owner=owner)
        self.user = user
        self.status = "RUNNING"
        self.end_time: int | None = None

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
        name = storable(self.told_name)[:NAME_CHARACTERS] if RUN_NAME in tags else None  # a resumed run keeps its own
        facts = {"name": name, "user": self.user, "tags": small, "resume": resume}
        self._log_surely(events.START, self.start_time * 1_000_000, facts)
        if large:
            self.set_tags(large)

    def end(self, status: str = "FINISHED", reason: str | None = None, end_time: int | None = None) -> None:
        """End the run for this process; later calls still log to it, as a guest. Hands over and returns.

        Args:
            status: one of MLflow's.
            reason: why it failed or was killed.
            end_time: ms since the epoch; None is now, or the start where that is ahead of the clock.

        Raises:
            TrainspoolException: *status* is none of MLflow's.
        """
        number = events.STATUS_NUMBERS.get(status)
        if number is None:
            raise TrainspoolException(f"Invalid status {status!r}: one of {', '.join(events.STATUS_NUMBERS)}")
        if not self.owner or self._end is not None:
            return
        self.status, self._end = status, self._now_ns() if end_time is None else end_time * 1_000_000
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
        """Identity and state of the run; of a run that was resumed, as the store has it."""
        uri = f"{self.store}/{self.experiment.experiment_id}/{self.run_id}/artifacts"
        identity = (self.run_id, self.name, self.experiment.experiment_id, self.user)
        return RunInfo(*identity, self.status, self.start_time, self.end_time, uri)

    @property
    def data(self) -> RunData:
        """What this process logged to the run but for metric points; of a run that was resumed, see there."""
        return RunData(dict(self.params), dict(self.tags), {})

    @property
    def inputs(self) -> RunInputs:
        """The datasets that the store has of a run that was resumed; none of another."""
        return RunInputs([])

    def to_dictionary(self) -> dict[str, Any]:
        """Return ``info``, ``data`` and ``inputs`` as plain values."""
        return StoredRun(self.info, self.data, self.inputs).to_dictionary()
