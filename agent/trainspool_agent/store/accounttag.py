"""The account on the run itself: the tag `trainspool.account`, once all owners of the run have ended.

It is nobody's tag: not in the checkpoint, not counted, the same whatever order events come in. What comes after the
end (a gap, an epitaph, another attempt) changes the counts, and the tag with them. Lateness is left out: it is of the
way here, not of the run, and a replay must say the same.

Source: design.md §3, "The account"; agent/docs/store-mapping.md.
"""

from __future__ import annotations

import json
import os

from trainspool_agent.store.attempts import outcome
from trainspool_agent.store.layout import TAGS, file_of_key
from trainspool_agent.store.state import RunState
from trainspool_agent.store.texts import write_tag

ACCOUNT_TAG = "trainspool.account"
KEYS = ("accepted", "stored", "folded", "refused", "dropped", "damaged", "unknown_tail")


def write_account(state: RunState) -> None:
    """Bring the tag of an ended run up to date; a run that is open, or that nobody owns, is left as it is.

    Raises:
        OSError: it is as it was.
    """
    ends = outcome(state.sessions)
    if ends is None or ends.end_ms is None:
        return
    account = state.account()
    text = json.dumps({key: account[key] for key in KEYS})
    if text != _standing(state):
        write_tag(state, ACCOUNT_TAG, text)


def _standing(state: RunState) -> str | None:
    try:
        path = file_of_key(f"{state.folder}/{TAGS}", ACCOUNT_TAG)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
            return file.read(4096)
    except (OSError, ValueError):
        return None
