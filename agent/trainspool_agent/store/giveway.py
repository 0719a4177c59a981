"""Staged copies give way: where store and spool are on different file systems, each artifact lies in both.

A spool keeps what was staged for replays. Once it is more than half full, the copies go of what the store has for
good: the first thing that is given up, so that a large checkpoint an hour never keeps points from being written.

Source: agent/docs/retention.md, "Quota".
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping

from trainspool.spool import layout, quota
from trainspool_agent import files
from trainspool_agent.store.state import Held


def give_way(held: Mapping[str, Held]) -> list[str]:
    """Remove the staged copies of *held*, artifacts that are durable in the store, if their spool is crowded.

    Returns the paths of the artifacts whose copies are gone. A file with another name, or of another host, stays.

    Raises:
        OSError: some are left, for the next time.
    """
    crowded: dict[str, bool] = {}
    gone = []
    for path, one in held.items():
        if not one.copy_of:
            continue
        host_folder = os.path.dirname(os.path.dirname(os.path.dirname(one.copy_of)))
        if host_folder not in crowded:
            crowded[host_folder] = os.path.basename(host_folder) == layout.host_name() and quota.is_crowded(host_folder)
        if crowded[host_folder] and _remove(one.copy_of):
            gone.append(path)
    return gone


def _remove(staged: str) -> bool:
    """Remove a plain file that has this one name; whether it is gone."""
    with contextlib.suppress(FileNotFoundError):
        info = os.lstat(staged)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1 or os.path.islink(os.path.dirname(staged)):
            return False
        files.fs.unlink(staged)
    return True
