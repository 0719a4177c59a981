"""A run's params and tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainspool import staging, validation
from trainspool.complaints import warn
from trainspool.entities import Experiment
from trainspool.errors import TrainspoolException
from trainspool.runevents import RunEvents
from trainspool.spool import events
from trainspool.stream import stream
from trainspool.texts import storable

RUN_NAME = "mlflow.runName"
TEXT_BYTES_PER_EVENT = 32 << 10


class RunTexts(RunEvents):
    """The param and tag calls of a run."""

    def __init__(self, run_id: str, experiment: Experiment, store: str, *, name: str, owner: bool) -> None:
        super().__init__(run_id, experiment, store, owner=owner)
        self.told_name = name
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The run's name; of a run that was resumed, as the store has it."""
        return self.told_name

    @name.setter
    def name(self, name: str) -> None:
        self.told_name = name

    @property
    def known_name(self) -> str:
        """The run's name as far as it is known without asking the store."""
        return self.told_name

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
        texts = [(validation.check_key(key, "key"), storable(str(value))) for key, value in tags.items()]
        small: list[tuple[str, str | None]] = []
        for key, text in texts:
            self.tags[key] = text
            if key == RUN_NAME:
                self.told_name = text
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
        if not self._has_tag(key):
            raise TrainspoolException(
                f"No tag with name: {key} in run with id {self.run_id}", "RESOURCE_DOES_NOT_EXIST"
            )
        self.tags.pop(key, None)
        self._log_texts(events.TAGS, [(key, None)])

    def _has_tag(self, key: str) -> bool:
        """Whether the run has a tag, as far as can be told: a guest knows of its own only."""
        return key in self.tags or not self.owner

    def _log_texts(self, kind: int, texts: list[tuple[str, Any]]) -> None:
        flat: list[str | None] = []
        size = 0
        for key, text in texts:
            flat += (key, text)
            size += len(key) * 4 + len(text or "") * 4
            if size >= TEXT_BYTES_PER_EVENT:
                self._log(kind, self._now_ns(), flat)
                flat, size = [], 0
        if flat:
            self._log(kind, self._now_ns(), flat)

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
        self._log(events.STAGED_TAG, self._now_ns(), key, staged.name, staged.size)


def _param_text(key: str, value: Any) -> str:
    text = storable(str(value)).replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > validation.PARAM_CHARACTERS_MAX:
        warn(
            "Param value '%.100s...' of %s (%d characters) is truncated to %d characters to meet the length limit.",
            text, key, len(text), validation.PARAM_CHARACTERS_MAX,
        )  # fmt: skip
    return text[: validation.PARAM_CHARACTERS_MAX]
