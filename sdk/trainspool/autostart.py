"""An agent for this host and user, if none is there.

All of it happens in the pump's thread: a script is never delayed. Two scripts at once may both start one; the agents
settle it by their lock, and the second leaves.

Source: design.md §3, TRAINSPOOL_AUTOSTART.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import msgpack

from trainspool.complaints import warn
from trainspool.settings import Settings
from trainspool.spool import lock
from trainspool.spool.events import FORMAT_VERSION
from trainspool.spool.layout import CURSOR
from trainspool.spool.ringfolder import agent_folder, state_folder

CHECK_INTERVAL_S = 2.0
START_S = 10.0
BACKOFF_S_MAX = 60.0
AGENT_LOCK = "agent.lock"
IDLE_EXIT_S = 60
_NEEDED = "trainspool_agent", "blake3", "click", "msgspec", "watchfiles", "yaml"
# Detached twice: our child makes the agent's process and ends at once, so the agent is nobody's zombie and no
# os.wait() of the training script ever meets it.
_LAUNCHER = """
import os, sys
os.setsid()
if os.fork():
    os._exit(0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
_KEPT_VARIABLES = ("HOME", "PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class Agent:
    """What this process knows of the agent. The pump's thread only."""

    def __init__(self) -> None:
        self._check_due = self._start_due = 0.0
        self._backoff_s = 1.0
        self._warned = False
        self._pointer_written = False

    def look_after(self, settings: Settings, *, private_ring: bool) -> None:
        """Start an agent if there is none and it is wanted; at most every few seconds."""
        now = time.monotonic()
        if now < self._check_due:
            return
        self._check_due = now + CHECK_INTERVAL_S
        if private_ring and not self._pointer_written:
            _write_pointer(settings.spool)
            self._pointer_written = True
        if is_running():
            self._backoff_s = 1.0
            self._compare_versions()
        elif settings.autostart and is_installed() and now >= self._start_due:
            self._start_due = now + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_S_MAX)
            start(settings)

    def is_coming(self, settings: Settings) -> bool:
        """Whether an agent runs, or is about to."""
        return is_running() or (settings.autostart and is_installed())

    def _compare_versions(self) -> None:
        facts = agent_facts()
        theirs = facts.get("format")
        if isinstance(theirs, int) and theirs < FORMAT_VERSION and not self._warned:
            self._warned = True
            warn(
                "the agent (pid %s, version %s) is older than this trainspool; what it cannot read stays in the spool. "
                "Next: restart it",
                facts.get("pid"),
                facts.get("version"),
            )


def is_installed() -> bool:
    """Whether the agent's own dependencies are there: ``pip install 'trainspool[agent]'``."""
    return all(importlib.util.find_spec(name) for name in _NEEDED)


def is_running() -> bool:
    """Whether an agent of this host and user holds its lock."""
    return bool(lock.is_held(agent_folder() / AGENT_LOCK))


def agent_facts() -> dict[str, int | str]:
    """Return what the running agent says of itself in its lock file; empty if it says nothing."""
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((agent_folder() / AGENT_LOCK).read_text() or "{}")
        return facts if isinstance(facts, dict) else {}
    return {}


def log_path() -> Path:
    """Return where an agent that we start writes its log."""
    return state_folder() / "agent.log"


def start(settings: Settings) -> None:
    """Start an agent: own session, cwd ``/``, few environment variables, log in ``log_path()``. Never raises."""
    import subprocess  # in the pump's thread, once: importing trainspool has a budget

    arguments = ["-m", "trainspool_agent", "daemon", "--idle-exit", str(IDLE_EXIT_S), "--spool", str(settings.spool)]
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or _is_ours(name)}
    if "PYTHONPATH" in os.environ:
        kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
    try:
        path = log_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path, "ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=kept,
            )
        child.wait(START_S)
    except (OSError, subprocess.SubprocessError) as error:
        warn("no agent could be started: %s. The spool keeps everything. Next: trainspool daemon", error)


def stored_offset(folder: str) -> int:
    """Return how far the store is, from the agent's cursor file: for streams whose ring nobody else can see."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, msgpack.exceptions.UnpackException):
        raw = Path(folder, CURSOR).read_bytes()
        about = msgpack.unpackb(raw[8:], strict_map_key=False, unicode_errors="surrogateescape")
        return int(about["stored"])
    return 0


def _is_ours(name: str) -> bool:
    """TRAINSPOOL_* and XDG_* say where things are; a run's id and name are the script's alone.

    So is its store: an agent that is told of one takes it for every run whose own store it cannot reach.
    """
    return name.startswith(("TRAINSPOOL_", "XDG_")) and not name.startswith(("TRAINSPOOL_RUN_", "TRAINSPOOL_STORE"))


def _write_pointer(spool: Path) -> None:
    """Tell the agent of a spool that no ring in shared memory names."""
    import hashlib

    with contextlib.suppress(OSError):
        folder = agent_folder() / "spools"
        folder.mkdir(mode=0o700, exist_ok=True)
        name = hashlib.blake2b(str(spool).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        (folder / f"{name}.spool").write_text(str(spool))
