"""One agent per host and user."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from trainspool_agent.agentlock import AgentLock, AgentRunning, running_agent


def test_the_second_is_told_who_runs(tmp_path: Path) -> None:
    first = AgentLock(tmp_path)
    first.acquire()
    first.describe([Path("/spool")], None)
    with pytest.raises(AgentRunning, match=f"pid {os.getpid()}"):
        AgentLock(tmp_path).acquire(patience_s=0.1)
    about = running_agent(tmp_path)
    assert about is not None
    assert about["spools"] == ["/spool"]
    first.release()
    assert running_agent(tmp_path) is None
    AgentLock(tmp_path).acquire(patience_s=0)


def test_a_probe_that_holds_the_lock_for_an_instant_is_waited_out(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, [fd])
    timer.start()
    AgentLock(tmp_path).acquire()
    timer.join()


def test_without_a_lock_file_no_agent_runs(tmp_path: Path) -> None:
    assert running_agent(tmp_path) is None
