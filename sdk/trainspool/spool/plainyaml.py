"""The YAML that trainspool writes into a store, both directions, without a YAML library.

One ``key: value`` a line, keys sorted, every string double-quoted in ASCII, so that nothing is taken for a number or a
date. MLflow reads it; what others write, a YAML library reads.

Source: mlflow-store.md 1.3.
"""

from __future__ import annotations

import json
import re
from typing import Any

_LINE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*|"(?:[^"\\]|\\.)*"): (.+)\Z')
_WORDS = frozenset("y n yes no on off true false null".split())  # these YAML takes for another thing than a text
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|U([0-9A-Fa-f]{8})|u([Dd][89A-Fa-f])|.)")


def render(values: dict[str, Any]) -> bytes:
    """Return *values* as YAML, keys sorted as MLflow sorts them; readable by every MLflow."""
    return "".join(f"{_key(key)}: {_value(values[key])}\n" for key in sorted(values, key=str)).encode("ascii")


def parse(data: bytes) -> dict[str, Any]:
    r"""Return what ``render`` made *data* of.

    Raises:
        ValueError: it is in another form; it may be good YAML all the same.

    >>> parse(render({"name": "a: 损\n", "status": 3, "tags": []}))
    {'name': 'a: 损\n', 'status': 3, 'tags': []}
    """
    values: dict[str, Any] = {}
    for line in data.decode("ascii").split("\n"):
        if not line:
            continue
        match = _LINE.match(line)
        if match is None or match[1].lower() in _WORDS:
            raise ValueError(f"not in trainspool's form: {line[:80]!r}")
        key, value = match.groups()
        values[_parsed(key) if key[0] == '"' else key] = _parsed(value)
    return values


def quoted(text: str) -> str:
    r"""Return *text* as a double-quoted YAML scalar in ASCII; a lone surrogate, which YAML cannot hold, becomes ``?``.

    >>> quoted('a"b\n损')
    '"a\\"b\\x0A\\u635F"'
    """
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    if 0xD800 <= code < 0xE000:
        return "?"
    return f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _key(key: Any) -> str:
    text = str(key)
    return text if text.isidentifier() and text.isascii() and text.lower() not in _WORDS else quoted(text)


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(key))}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return quoted(str(value))


def _parsed(text: str) -> Any:
    """What we write is JSON but for two escapes; where YAML and JSON part (floats, NaN), it is not ours."""
    try:
        return json.loads(_ESCAPE.sub(_json_escape, text), parse_float=_refuse, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _json_escape(match: re.Match[str]) -> str:
    narrow, wide, surrogate = match.groups()
    if surrogate is not None:
        raise ValueError(f"half a character: {match[0]}")
    if narrow is not None:
        return f"\\u00{narrow}"
    if wide is None:
        return match[0]
    code = int(wide, 16)
    if not 0x10000 <= code < 0x110000:
        raise ValueError(f"not a character: {match[0]}")
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04X}\\u{0xDC00 + low:04X}"


def _refuse(text: str) -> None:
    raise ValueError(f"not in trainspool's form: {text[:80]}")
