"""Which value of a param or tag stands, whatever order the events came in; pure.

Params: the smallest (time, stream, offset) wins, later other values become versions 2, 3, … Tags: the largest wins.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from trainspool_agent.store.limits import PARAM_VERSIONS_MAX


class Order(NamedTuple):
    """When something was logged: ns, stream id, offset of the event's end. A total order over all streams."""

    time: int
    stream: str
    offset: int


Versions = dict[str, Order]  # a param's values and when each was first logged


def with_value(versions: Versions, value: str, order: Order) -> tuple[Versions, bool]:
    """Return *versions* with *value* logged at *order*, and whether something had to be left out.

    At most PARAM_VERSIONS_MAX are kept, those logged first; so the result depends on the set of events alone.
    """
    known = versions.get(value)
    if known is not None and known <= order:
        return versions, False
    changed = {**versions, value: order}
    if len(changed) <= PARAM_VERSIONS_MAX:
        return changed, False
    del changed[max(changed, key=lambda text: changed[text])]
    return changed, True


def in_order(versions: Versions) -> list[str]:
    """Return the values, the one that stands first."""
    return sorted(versions, key=lambda text: versions[text])


class Winner(NamedTuple):
    """The latest event of a tag; *digest* of its value, None if it deletes the tag."""

    order: Order
    digest: bytes | None


def digest_of(value: str | None) -> bytes | None:
    return None if value is None else hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
