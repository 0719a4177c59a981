"""What cannot be read is left out and told of once: one bad file must hide nothing else."""

from __future__ import annotations

from trainspool.complaints import warn

TOLD_MAX = 100

_told: set[str] = set()


def left_out(path: str, why: object) -> None:
    """Warn that *path* was left out; once per path, and no more than so many paths."""
    if path not in _told and len(_told) < TOLD_MAX:
        _told.add(path)
        warn("left out what cannot be read: %s: %.300s", path, why)
