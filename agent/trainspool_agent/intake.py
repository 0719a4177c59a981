"""The fields of one event that is not made of points → a run's changes; pure.

Source: sdk/docs/spool-format.md, "Events". Whatever breaks the format raises one of MALFORMED.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from trainspool.spool import events as ev
from trainspool_agent.store.changes import (
    Artifact,
    End,
    ExperimentChange,
    Gap,
    Input,
    RunChanges,
    StagedTag,
    Start,
    Text,
)

MALFORMED = (AttributeError, TypeError, ValueError, LookupError, OverflowError, struct.error)


def _on_start(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, about = fields[:2]
    tags = about.get("tags") or {}
    changes.starts.append(
        Start(
            time_of(time),
            offset,
            optional_of(about.get("name")),
            optional_of(about.get("user")),
            {text_of(key): text_of(value) for key, value in tags.items()},
            bool(about.get("resume")),
        )
    )


def _on_end(changes: RunChanges, fields: list[Any], offset: int) -> None:
    changes.ends.append(end_of(fields[:3], offset))


def _on_params(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, flat = time_of(fields[0]), fields[1]
    changes.params += [Text(text_of(key), text_of(value), time, offset) for key, value in by_twos(flat)]


def _on_tags(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, flat = time_of(fields[0]), fields[1]
    changes.tags += [Text(text_of(key), optional_of(value), time, offset) for key, value in by_twos(flat)]


def _on_artifact(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, path, staged, size, mode = fields[:5]
    how, mtime_ns, known = fields[5:8] if len(fields) > 7 else (fields[5] if len(fields) > 5 else "", 0, b"")
    if type(known) is not bytes:
        raise ValueError(f"not a fingerprint: {ev.shown(known)}")
    said = text_of(path), text_of(staged), time_of(size), time_of(mode), time_of(time), offset
    changes.artifacts.append(Artifact(*said, text_of(how), time_of(mtime_ns), known))


def _on_media(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, path, staged, size, about = fields[:5]
    text_of(about["form"])
    said = text_of(path), text_of(staged), time_of(size), 0o644, time_of(time), offset
    changes.artifacts.append(Artifact(*said, about=about))


def _on_input(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, about, flat = fields[:3]
    name, digest, source_type, source = (text_of(about[one]) for one in ("name", "digest", "source_type", "source"))
    schema, profile = optional_of(about.get("schema")), optional_of(about.get("profile"))
    tags = {text_of(key): text_of(value) for key, value in by_twos(flat)}
    changes.inputs.append(Input(name, digest, source_type, source, schema, profile, tags, time_of(time), offset))


def _on_gap(changes: RunChanges, fields: list[Any], offset: int) -> None:
    _, points, dropped_events = fields[:3]
    changes.gap = Gap(time_of(points), time_of(dropped_events))


def _on_staged_tag(changes: RunChanges, fields: list[Any], offset: int) -> None:
    time, key, staged = fields[:3]
    size = int(fields[3]) if len(fields) > 3 else -1  # earlier writers did not say
    changes.staged_tags.append(StagedTag(text_of(key), text_of(staged), time_of(time), offset, size))


HANDLERS: dict[int, Callable[[RunChanges, list[Any], int], None]] = {
    ev.START: _on_start,
    ev.END: _on_end,
    ev.PARAMS: _on_params,
    ev.TAGS: _on_tags,
    ev.ARTIFACT: _on_artifact,
    ev.MEDIA: _on_media,
    ev.INPUT: _on_input,
    ev.GAP: _on_gap,
    ev.STAGED_TAG: _on_staged_tag,
}


def end_of(fields: list[Any], offset: int) -> End:
    time, status, reason = fields
    if status not in (ev.FINISHED, ev.FAILED, ev.KILLED):
        raise ValueError(f"not an end status: {ev.shown(status)}")
    return End(time_of(time), offset, int(status), optional_of(reason))


def experiment_of(fields: list[Any], offset: int) -> ExperimentChange:
    """Return what an experiment event asks for."""
    time, store, experiment_id, name, tags = fields
    return ExperimentChange(
        time_of(time), offset, text_of(store), optional_of(experiment_id), optional_of(name), pairs_of(tags)
    )


def pairs_of(flat: list[Any]) -> dict[str, str | None]:
    return {text_of(key): optional_of(value) for key, value in by_twos(flat)}


def by_twos(flat: list[Any]) -> Iterator[tuple[Any, Any]]:
    if type(flat) is not list:  # a text would do as well as one, letter by letter
        raise ValueError(f"not pairs: {ev.shown(flat)}")
    return zip(flat[::2], flat[1::2], strict=True)


def time_of(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"not an integer: {ev.shown(value)}")
    return value


def text_of(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"not a text: {ev.shown(value)}")
    return value


def optional_of(value: Any) -> str | None:
    return None if value is None else text_of(value)


def float_of(value: Any) -> float:
    if type(value) is not int:
        raise ValueError(f"not a number: {ev.shown(value)}")
    return float(value)
