"""One event → plain facts with names resolved, for `cat` and `tail`; pure."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Callable
from typing import Any

from trainspool.spool import events as ev
from trainspool_agent.compact import Dictionary, RunRef
from trainspool_agent.look.frames import Event

KINDS = tuple(name.replace(" ", "-") for name in ev.KIND_NAMES)
DEFINING_KINDS = tuple(KINDS[kind] for kind in sorted(ev.DEFINITIONS))
_WITHOUT_RUN = frozenset((ev.DEFINE_KEY, ev.DEFINE_KEYSET, ev.EPITAPH, ev.EXPERIMENT))
_BROKEN = (LookupError, TypeError, ValueError, AttributeError, struct.error)


def kind_name(event: Event) -> str:
    kind = event.fields[0]
    return KINDS[kind] if 0 <= kind < len(KINDS) else f"kind-{kind}"


def run_of(event: Event, names: Dictionary) -> RunRef | None:
    """Return the run that *event* belongs to; None for an event of the whole stream, or an unknown number."""
    kind, *rest = event.fields
    if kind in _WITHOUT_RUN or kind >= len(KINDS) or not rest or type(rest[0]) is not int:
        return None
    return names.runs.get(rest[0])


def facts(stream: str, event: Event, names: Dictionary) -> dict[str, Any]:
    """Return *event* as a JSON object: ``stream``, ``offset``, ``kind``, then its fields. Floats stay exact."""
    found: dict[str, Any] = {"stream": stream, "offset": event.offset, "kind": kind_name(event)}
    kind, *rest = event.fields
    try:
        found.update(_FIELDS[kind](rest, names) if kind in _FIELDS else {"raw": plain(rest)})
    except _BROKEN as error:
        found.update(malformed=f"{type(error).__name__}: {error}", raw=plain(rest))
    return found


def as_json(found: dict[str, Any]) -> str:
    """Return *found* on one line; lone surrogates, which JSON cannot hold, become question marks."""
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace").decode()


def number(value: Any) -> Any:
    """Return a float as JSON can hold it: NaN and the infinities are strings."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def plain(value: Any) -> Any:
    """Return any msgpack value as JSON can hold it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return number(value)


def readable(found: dict[str, Any], run_name: str) -> str:
    """Return *found*, what ``facts`` made, as a line for a person."""
    when = found.get("time")
    clock = time.strftime("%H:%M:%S", time.localtime(when / 1e9)) if isinstance(when, int) else "--:--:--"
    kind = found["kind"]
    if kind == "point":
        text = f"{found['key']}={_short(found['value'])}"
    elif kind == "points":
        text = "  ".join(f"{key}={_short(value)}" for key, value in found["values"].items())
    elif kind == "artifact" and isinstance(found.get("bytes"), int):
        text = f"artifact  {found['path']}  {found['bytes']:,} bytes  {found.get('captured', '')}".rstrip()
    else:
        left_out = ("stream", "offset", "kind", "run", "time")
        rest = {key: value for key, value in found.items() if key not in left_out and value not in (None, {}, "")}
        text = f"{kind}  " + "  ".join(f"{key}={_compactly(value)}" for key, value in rest.items())
    step = f"step {found['step']:<7} " if "step" in found else ""
    return f"{clock}  {run_name:<20.20}  {step}{text}".encode("utf-8", "replace").decode()


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _compactly(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def _run(rest: list[Any], names: Dictionary) -> dict[str, Any]:
    return {"run": names.runs[rest[0]].run_id}


def _point(rest: list[Any], names: Dictionary) -> dict[str, Any]:
    _, key, when, step, value = rest[:5]
    return {**_run(rest, names), "time": when, "key": names.keys[key], "step": step, "value": number(float(value))}


def _points(rest: list[Any], names: Dictionary) -> dict[str, Any]:
    _, keyset, when, step, raw = rest[:5]
    keys = names.keysets[keyset] if isinstance(keyset, int) else [names.keys[key] for key in keyset]
    values = map(number, ev.doubles(len(keys)).unpack(raw))
    return {**_run(rest, names), "time": when, "step": step, "values": dict(zip(keys, values, strict=True))}


def _start(rest: list[Any], names: Dictionary) -> dict[str, Any]:
    about = rest[2]
    return {**_run(rest, names), "time": rest[1], **{key: about.get(key) for key in ("name", "user", "tags", "resume")}}


def _end(rest: list[Any], names: Dictionary) -> dict[str, Any]:
    return {**_run(rest, names), "time": rest[1], "status": _status(rest[2]), "reason": rest[3]}


def _texts(what: str) -> Callable[[list[Any], Dictionary], dict[str, Any]]:
    return lambda rest, names: {**_run(rest, names), "time": rest[1], what: _pairs(rest[2])}


def _named(*fields: str) -> Callable[[list[Any], Dictionary], dict[str, Any]]:
    return lambda rest, names: {**_run(rest, names), **dict(zip(fields, map(plain, rest[1:]), strict=False))}


def _input(rest: list[Any], names: Dictionary) -> dict[str, Any]:
    return {**_run(rest, names), "time": rest[1], "dataset": plain(rest[2]), "tags": _pairs(rest[3])}


def _epitaph(rest: list[Any], _: Dictionary) -> dict[str, Any]:
    return {"time": rest[0], "status": _status(rest[1]), "reason": rest[2]}


def _experiment(rest: list[Any], _: Dictionary) -> dict[str, Any]:
    when, store, experiment_id, name, tags = rest[:5]
    return {"time": when, "store": store, "experiment_id": experiment_id, "experiment": name, "tags": _pairs(tags)}


def _definition(*fields: str) -> Callable[[list[Any], Dictionary], dict[str, Any]]:
    return lambda rest, _: dict(zip(("number", *fields), rest, strict=False))


def _status(value: Any) -> Any:
    return ev.STATUS_NAMES.get(value, value)


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


_FIELDS: dict[int, Callable[[list[Any], Dictionary], dict[str, Any]]] = {
    ev.POINT: _point,
    ev.POINTS: _points,
    ev.DEFINE_KEY: _definition("key"),
    ev.DEFINE_KEYSET: _definition("keys"),
    ev.DEFINE_RUN: _definition("run", "owner", "store", "experiment_id", "experiment"),
    ev.START: _start,
    ev.END: _end,
    ev.PARAMS: _texts("params"),
    ev.TAGS: _texts("tags"),
    ev.ARTIFACT: _named("time", "path", "staged", "bytes", "mode", "captured"),
    ev.GAP: _named("time", "dropped_points", "dropped_events"),
    ev.EPITAPH: _epitaph,
    ev.EXPERIMENT: _experiment,
    ev.STAGED_TAG: _named("time", "key", "staged"),
    ev.MEDIA: _named("time", "path", "staged", "bytes", "about"),
    ev.INPUT: _input,
}
