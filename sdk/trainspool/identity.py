"""Who writes this stream: the facts by which others tell whether it still lives.

Source: sdk/docs/spool-format.md, "Identity".
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from trainspool import ancestry
from trainspool.spool.events import FORMAT_VERSION
from trainspool.spool.layout import host_name

_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def identity(stream: str, spool: Path, sdk_version: str) -> dict[str, Any]:
    """Return this process's identity as the spool format names it; the ring's path is added by who makes the ring."""
    return {
        "format": FORMAT_VERSION,
        "stream": stream,
        "host": host_name(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "pidns": _pid_namespace(),
        "started": ancestry.began_ticks(),
        "uid": os.getuid(),
        "rank": rank(),
        "wall": time.time_ns(),
        "mono": time.monotonic_ns(),
        "spool": str(spool),
        "ring": None,
        "sdk": sdk_version,
        "program": sys.argv[0][:512] if sys.argv else "",
    }


def rank() -> int | None:
    """Return this process's rank in a distributed job, as launchers tell it, or None."""
    for variable in _RANK_VARIABLES:
        value = os.environ.get(variable, "")
        if value.isdigit():
            return int(value)
    return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
