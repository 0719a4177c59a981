"""A run whose files are no longer as its checkpoint says: what of it is to be applied again, and counted only once.

For replay into a store that is there already. Source: agent/docs/replay.md, "Into a store that is there".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from trainspool_agent.store import texts
from trainspool_agent.store.layout import ARTIFACTS, META, METRICS, PARAMS, TAGS, file_of_key
from trainspool_agent.store.state import Published, RunState
from trainspool_agent.store.versions import in_order


def is_whole(folder: str, saved: dict[str, Any]) -> bool:
    """Whether what nobody but us removes is there: ``meta.yaml``, params, metric files as long as *saved* says."""
    if not os.path.exists(f"{folder}/{META}"):
        return False
    if not all(os.path.exists(file_of_key(f"{folder}/{PARAMS}", key)) for key in saved["params"]):
        return False
    lengths = ((path, length) for path, length, *_ in saved["metrics"].values() if path.startswith(f"{METRICS}/"))
    return all(_size(f"{folder}/{path}") >= length for path, length in lengths)


def reopen(state: RunState, streams: Iterable[str], *, everything: bool) -> None:
    """Have the events of *streams* applied to the run once more; what was counted of them is not counted again.

    Args:
        everything: bring back tags and artifacts that are gone, too; people may have removed those.
    """
    again = [stream for stream in streams if stream in state.streams]
    for stream in again:
        state.counted[stream] = max(state.streams.pop(stream), state.counted.get(stream, 0))
    for key, versions in state.params.items():
        if not os.path.exists(file_of_key(f"{state.folder}/{PARAMS}", key)):
            texts.write_param(state, key, in_order(versions)[0])
    if everything:
        _forget_what_is_gone(state, frozenset(again))
    if not os.path.exists(f"{state.folder}/{META}"):
        state.published, state.shown, state.experiment = Published(), False, None


def _forget_what_is_gone(state: RunState, streams: frozenset[str]) -> None:
    for key, winner in list(state.tags.items()):
        gone = not os.path.exists(file_of_key(f"{state.folder}/{TAGS}", key))
        if gone and winner.digest is not None and winner.order.stream in streams:
            del state.tags[key]
    for path, order in list(state.artifacts.items()):
        if not os.path.exists(f"{state.folder}/{ARTIFACTS}/{path}") and order.stream in streams:
            del state.artifacts[path]
            state.held.pop(path, None)
            state.unhashed.pop(path, None)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
