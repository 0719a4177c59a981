"""All attacks, by name."""

from __future__ import annotations

from crash.hostile import (
    artifacts_of_streams,
    bytes_of_frames,
    events_of_streams,
    files_of_spools,
    forged_state,
    media_of_streams,
    names_of_things,
    rings,
    stores,
)
from crash.hostile.attack import Attack

_CORPORA = (
    files_of_spools,
    artifacts_of_streams,
    rings,
    bytes_of_frames,
    events_of_streams,
    names_of_things,
    media_of_streams,
    forged_state,
    stores,
)
ATTACKS: list[Attack] = [attack for module in _CORPORA for attack in module.CORPUS]

__all__ = ["ATTACKS", "Attack"]
