"""MLflow's language of filters and orders: comparisons joined by AND, as plain values.

    metrics.loss < 0.5 AND params."my key" LIKE 'adam%' AND attributes.run_id IN ('a', 'b') AND tags.note IS NOT NULL

Whatever is wrong is told when the filter is read; MLflow tells some of it only when a run is compared.

Source: mlflow/utils/search_utils.py of MLflow 3.17 for what is taken, and for the messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from trainspool.errors import TrainspoolException

ATTRIBUTE, METRIC, PARAM, TAG, DATASET = "attribute", "metric", "parameter", "tag", "dataset"
Value = float | int | str | tuple[str, ...] | None

NUMERIC_COMPARATORS = frozenset((">", ">=", "!=", "=", "<", "<="))
TEXT_COMPARATORS = frozenset(("!=", "=", "LIKE", "ILIKE"))
NULL_COMPARATORS = frozenset(("IS NULL", "IS NOT NULL"))
LIST_COMPARATORS = frozenset(("IN", "NOT IN"))

_PART = r'(?:\w+|"[^"]*"|`[^`]*`)'
_TOKEN = re.compile(
    rf"""\s*(?:
      (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    | (?P<text>'(?:''|[^'])*')
    | (?P<word>(?:(?:NOT\s+)?(?:LIKE|ILIKE|IN)|IS\s+NOT\s+NULL|IS\s+NULL|AND)\b(?!\.))
    | (?P<name>{_PART}(?:\.(?:{_PART}|'[^']*'))*)
    | (?P<sign>[<>=!~]+)
    | (?P<list>\((?:'(?:''|[^'])*'|"[^"]*"|[^()'"])*\))
    | (?P<other>\S)
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_ITEM = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)")\s*""")


class Clause(NamedTuple):
    """One comparison."""

    kind: str
    key: str
    comparator: str
    value: Value


class Order(NamedTuple):
    """One key to sort by."""

    kind: str
    key: str
    ascending: bool


class Language(NamedTuple):
    """What can be asked of one sort of thing: runs, experiments."""

    kinds: Mapping[str, str]  # each spelling of a kind of identifier
    shown: str  # the kinds, as an error names them
    keys: Mapping[str, frozenset[str]]  # of a kind that has fixed ones
    numeric: frozenset[str]  # attributes
    lists: frozenset[tuple[str, str]]  # what can be compared with a list
    nulls: frozenset[str]  # kinds whose absence can be asked for
    nulls_shown: str
    aliases: Mapping[str, str]
    orders: frozenset[str]  # attributes to sort by


class _Token(NamedTuple):
    kind: str
    text: str


def parse_filter(language: Language, text: str | None) -> list[Clause]:
    """Return the comparisons of a filter, all of which must hold.

    Raises:
        TrainspoolException: it is no filter, or asks for what cannot be asked.
    """
    tokens = list(_tokens(text or ""))
    clauses = []
    while tokens:
        clauses.append(_clause(language, tokens))
        if tokens and (_is_not_and(tokens.pop(0)) or not tokens):
            raise TrainspoolException(f"Invalid clause(s) in filter string: {text!r}. Comparisons are joined by AND")
    return clauses


def parse_order(language: Language, text: str) -> Order:
    """Return what one entry of ``order_by`` says.

    Raises:
        TrainspoolException: it says nothing, or a key that cannot be sorted by.
    """
    tokens = list(_tokens(text)) if isinstance(text, str) else []
    direction = tokens[1].text.lower() if len(tokens) == 2 else "asc"
    if len(tokens) not in (1, 2) or tokens[0].kind not in ("name", "word"):
        raise TrainspoolException(f"Invalid order_by clause '{text}'. Could not be parsed.")
    if direction not in ("asc", "desc"):
        raise TrainspoolException(f"Invalid ordering key in order_by clause '{text}'.")
    kind, key = _identifier(language, tokens[0].text, language.orders)
    return Order(kind, language.aliases.get(key, key), direction == "asc")


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text.strip()):
        kind = match.lastgroup or "other"
        found.append(_Token(kind, match[kind]))
    return found


def _is_not_and(token: _Token) -> bool:
    return token.kind != "word" or token.text.upper() != "AND"


def _clause(language: Language, tokens: list[_Token]) -> Clause:
    name = tokens.pop(0)
    if name.kind != "name" or not tokens or tokens[0].kind not in ("sign", "word"):
        found = " ".join(token.text for token in [name, *tokens[:2]])
        raise TrainspoolException(
            f"Invalid clause(s) in filter string: '{found}'. Expected <kind>.<key> <comparator> <value>; a key with "
            'other characters than letters, digits, _ and . is quoted: metrics."val/loss"'
        )
    kind, key = _identifier(language, name.text, language.keys[ATTRIBUTE])
    comparator = " ".join(tokens.pop(0).text.upper().split())
    if comparator in NULL_COMPARATORS:
        if kind not in language.nulls:
            raise TrainspoolException(
                f"IS NULL / IS NOT NULL is only supported for {language.nulls_shown}, not for '{kind}' '{key}'"
            )
        return Clause(kind, key, comparator, None)
    if not tokens:
        raise TrainspoolException("Invalid comparison clause. Expected 3 tokens found 2")
    value = _value(language, kind, key, tokens.pop(0))
    _check_comparator(language, kind, key, comparator, value)
    return Clause(kind, language.aliases.get(key, key), comparator, value)


def _identifier(language: Language, text: str, attributes: frozenset[str]) -> tuple[str, str]:
    spelling, dot, key = text.partition(".")
    if not dot:
        spelling, key = ATTRIBUTE, text
    kind = language.kinds.get(_unquoted(spelling, "`"))
    if kind is None:
        raise TrainspoolException(f"Invalid entity type '{spelling}'. Valid values are {language.shown}")
    key = _unquoted(_unquoted(key, "'\""), "`")
    valid = attributes if kind == ATTRIBUTE else language.keys.get(kind)
    if valid is not None and key not in valid:
        raise TrainspoolException(f"Invalid {kind} key '{key}' specified. Valid keys are {sorted(valid)}")
    return kind, key


def _value(language: Language, kind: str, key: str, token: _Token) -> Value:
    if kind == METRIC or (kind == ATTRIBUTE and key in language.numeric):
        if token.kind != "number":
            what = "metric" if kind == METRIC else f"numeric attribute: {key}"
            raise TrainspoolException(f"Expected numeric value type for {what}. Found {token.text}")
        return int(token.text) if token.text.lstrip("-").isdigit() else float(token.text)
    if token.kind == "list" and kind in (ATTRIBUTE, DATASET):
        if (kind, key) not in language.lists:
            listed = sorted(key for _, key in language.lists)
            raise TrainspoolException(
                f"Only {listed} support comparison with a list of quoted string values, not {kind} '{key}'."
            )
        return _list(token.text)
    if token.kind == "text" or (token.kind == "name" and token.text[0] in "\"'`"):
        if token.text[0] == "`" or token.text.count(token.text[0]) % 2 or token.text[-1] != token.text[0]:
            raise TrainspoolException(
                "Parameter value is either not quoted or unidentified quote types used for string value "
                f"{token.text}. Use either single or double quotes."
            )
        return token.text[1:-1]
    raise TrainspoolException(f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {token.text}")


def _check_comparator(language: Language, kind: str, key: str, comparator: str, value: Value) -> None:
    valid = TEXT_COMPARATORS
    if kind == METRIC or (kind == ATTRIBUTE and key in language.numeric):
        valid = NUMERIC_COMPARATORS
    elif (kind, key) in language.lists:
        valid = LIST_COMPARATORS if isinstance(value, tuple) else TEXT_COMPARATORS
    if comparator not in valid:
        raise TrainspoolException(f"Invalid comparator '{comparator}' not one of {sorted(valid)}")


def _list(text: str) -> tuple[str, ...]:
    items, at = [], 1
    while match := _ITEM.match(text, at):
        items.append(match[1] if match[1] is not None else match[2])
        at = match.end()
        if text[at] != ",":
            break
        at += 1
    if not items or text[at:].strip() != ")":
        raise TrainspoolException(
            "While parsing a list in the query, expected a non-empty list of string values, but got ill-formed list."
        )
    return tuple(items)


def _unquoted(text: str, quotes: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] in quotes and text[-1] == text[0] else text
