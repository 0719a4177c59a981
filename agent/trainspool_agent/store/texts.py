"""A run's params and tags: one file per key, rewritten only when another value stands.

Source: mlflow-store.md 1.5, 1.7; design.md 2.4.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from trainspool_agent.store.changes import RunChanges, Text
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.files import publish, remove
from trainspool_agent.store.layout import PARAMS, TAGS, file_of_key, file_text
from trainspool_agent.store.limits import (
    PARAM_VALUE_CHARACTERS_MAX,
    PARAMS_MAX,
    RUN_NAME_CHARACTERS_MAX,
    SECTOR_BYTES,
    TAGS_MAX,
)
from trainspool_agent.store.state import RunState
from trainspool_agent.store.tables import with_table
from trainspool_agent.store.versions import Order, Versions, Winner, digest_of, in_order, with_value

LOGGED_ARTIFACTS_TAG = "mlflow.loggedArtifacts"
RUN_NAME_TAG = "mlflow.runName"


def write_params(state: RunState, params: Iterable[Text], stream: str) -> int:
    """Write the params whose standing values change; return how many were refused."""
    changed: dict[str, Versions] = {}
    refused = 0
    for param in params:
        versions = changed.get(param.key, state.params.get(param.key))
        if versions is None and len(state.params) + len(changed) >= PARAMS_MAX:
            refused += 1
            state.note_problem(f"more than {PARAMS_MAX} params: the rest is left out")
            continue
        value = file_text(param.value or "").decode()[:PARAM_VALUE_CHARACTERS_MAX]
        new, too_many = with_value(versions or {}, value, Order(param.time, stream, param.offset))
        if too_many:
            refused += 1
            state.note_problem(f"param {param.key!r} was logged with more different values than are kept")
        changed[param.key] = new
    for key, versions in changed.items():
        if versions is state.params.get(key):
            continue
        _write_versions(state, key, in_order(state.params.get(key, {})), in_order(versions))
        state.params[key] = versions
    return refused


def _write_versions(state: RunState, key: str, old: list[str], new: list[str]) -> None:
    for number, value in enumerate(new):
        kind, name = (PARAMS, key) if number == 0 else (TAGS, f"param.{key}.v{number + 1}")
        if number >= len(old) or old[number] != value or not _holds(state, kind, name, value):
            _write(state, kind, name, value)


def write_param(state: RunState, key: str, value: str) -> None:
    """Write the value of a param that stands, whatever is there."""
    _write(state, PARAMS, key, value)


def short_name(name: str) -> str:
    """Return a run's name within the SQL column; a cut is visible."""
    return name if len(name) <= RUN_NAME_CHARACTERS_MAX else name[: RUN_NAME_CHARACTERS_MAX - 1] + "…"


def tag_events(changes: RunChanges, staged: Iterable[Text]) -> Iterable[Text]:
    """Yield every tag a batch sets, those of start events included; a start's name is the tag mlflow.runName."""
    for start in changes.starts:
        tags = start.tags if start.name is None else {**start.tags, RUN_NAME_TAG: start.name}
        for key, value in tags.items():
            yield Text(key, value, start.time, start.offset)
    yield from changes.tags
    yield from staged


def write_tags(state: RunState, tags: Iterable[Text], stream: str) -> int:
    """Write the tags that a later event gives another value or deletes; return how many were refused."""
    latest: dict[str, Winner] = {}
    values: dict[str, str | None] = {}
    refused = 0
    for tag in tags:
        known = latest.get(tag.key) or state.tags.get(tag.key)
        order = Order(tag.time, stream, tag.offset)
        if known is None and len(state.tags) + len(latest) >= TAGS_MAX:
            refused += 1
            state.note_problem(f"more than {TAGS_MAX} tags: the rest is left out")
        elif known is None or known.order < order:
            value = short_name(tag.value) if tag.value and tag.key == RUN_NAME_TAG else tag.value
            latest[tag.key] = Winner(order, digest_of(value))
            values[tag.key] = value
    for key, winner in latest.items():
        before = state.tags.get(key)
        # A batch that was cut short by a kill may have left another value than the one we know of.
        if before is None or before.digest != winner.digest or not _holds(state, TAGS, key, values[key]):
            write_tag(state, key, values[key])
            if key == RUN_NAME_TAG and values[key]:
                state.name = values[key]  # a run's name lives twice: meta.yaml follows
        state.tags[key] = winner
    return refused


def write_tag(state: RunState, key: str, value: str | None) -> None:
    """Write or delete one tag, whoever set it."""
    if value is None:
        remove(file_of_key(f"{state.folder}/{TAGS}", key))
    else:
        _write(state, TAGS, key, value)


def write_logged_table(state: RunState, path: str) -> None:
    """Name a table in the tag that MLflow finds tables by, beside those that anyone else logged."""
    try:
        with open(
            file_of_key(f"{state.folder}/{TAGS}", LOGGED_ARTIFACTS_TAG), encoding="utf-8", errors="replace"
        ) as file:
            standing = file.read()
    except FileNotFoundError:
        standing = ""
    value = with_table(standing, path)
    if value != standing:
        _write(state, TAGS, LOGGED_ARTIFACTS_TAG, value)


def _holds(state: RunState, kind: str, key: str, value: str | None) -> bool:
    """Whether the file of *key* is as *value* says; None: there is none."""
    try:
        with open(file_of_key(f"{state.folder}/{kind}", key), "rb") as file:
            return value is not None and file.read() == file_text(value)
    except FileNotFoundError:
        return value is None


def _write(state: RunState, kind: str, key: str, value: str) -> None:
    path = path_of(state, kind, key)
    data = file_text(value)
    # What a power cut may take of a small new file is all of it, and then it is recognised; of others it may be a part.
    publish(path, data, state.work, sync=len(data) > SECTOR_BYTES or os.path.exists(path))
    note_unsynced(state, path)


def note_unsynced(state: RunState, path: str) -> None:
    """A file of the run was made: it and its name are not on the device."""
    if state.unsynced is not None:
        while len(path) > len(state.folder):
            state.unsynced.add(path)
            path = os.path.dirname(path)


def path_of(state: RunState, kind: str, key: str) -> str:
    """Return the file of *key* below the run's folder *kind*; a name that MLflow cannot hold is noted.

    Raises:
        Refused: no name could be found.
    """
    folder = f"{state.folder}/{kind}"
    path = file_of_key(folder, key)
    if not path.startswith(f"{folder}/"):
        raise Refused(f"{kind} key {key!r:.100} has no place in the store")
    name = path[len(folder) + 1 :]
    if name != key:
        state.note_problem(f"{kind} key {key!r:.260} is stored as {name!r}: MLflow cannot hold it beside the others")
    return path
