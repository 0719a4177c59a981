"""Where rings live: memory shared by a user's processes on one host, never a disk or a network.

Source: design.md §2.1, "Place".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trainspool.spool.mounts import is_memory

RING_DIR_VARIABLE = "TRAINSPOOL_RING_DIR"


def ring_folder() -> Path | None:
    """Return the folder for this user's rings, made if absent; None if no shared memory can be had."""
    for folder in _candidates():
        if is_memory(folder) and _is_private_folder(folder):
            return folder
    return None


def agent_folder() -> Path:
    """Return the folder of the agent's lock and state: beside the rings, else under the user's state folder.

    Raises:
        OSError: it can neither be found nor made.
    """
    folder = ring_folder()
    if folder is None:
        folder = state_folder() / "agent"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def state_folder() -> Path:
    """Return ``$XDG_STATE_HOME/trainspool`` (``~/.local/state/trainspool``), not made here."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home, "trainspool")


def _candidates() -> Iterator[Path]:
    chosen = os.environ.get(RING_DIR_VARIABLE)
    if chosen:
        yield Path(chosen).absolute()
    yield Path(f"/dev/shm/trainspool-{os.getuid()}")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield Path(runtime, "trainspool")


def _is_private_folder(folder: Path) -> bool:
    """Make *folder* if it is absent; whether it is a folder, ours, and closed to others (no link: an attack)."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077
