"""sync: carries what is there, orphans included, or waits for the agent that runs; and says what it could not do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import events
from trainspool_agent.settings import Settings
from trainspool_agent.sync import Progress, sync

from .conftest import Box

MEMORY = Path("/dev/shm")


def test_it_carries_orphans_and_leaves_nothing_for_the_next(box: Box) -> None:
    stream = box.stream()
    stream.log(10)
    steps: list[Progress] = []
    report = sync(Settings(box.spool), (), steps.append)
    assert (report.streams, report.points, report.problems, report.by_agent) == (1, 10, [], None)
    assert stream.status() == events.KILLED
    assert steps[-1].done_bytes == steps[-1].total_bytes == report.bytes
    assert sync(Settings(box.spool), (), steps.append).streams == 0


def test_a_living_stream_is_carried_up_to_now(box: Box) -> None:
    stream = box.stream(locked=True)
    stream.log(3)
    stream.pump()
    report = sync(Settings(box.spool), (), lambda _: None)
    assert (report.streams, report.live) == (1, 1)
    assert stream.stored_steps() == [0, 1, 2]


def test_what_cannot_be_carried_is_a_problem_with_a_next_step(box: Box) -> None:
    box.stream(store=Path("/nowhere/at/all")).log(3)
    [problem] = sync(Settings(box.spool), (), lambda _: None).problems
    assert "/nowhere/at/all" in problem.what
    assert "--store" in problem.next_step


def test_a_spool_named_beside_the_default_is_carried_too(box: Box, tmp_path: Path) -> None:
    stream = box.stream(ring=False)
    stream.log(2)
    report = sync(Settings(tmp_path / "another"), (box.spool,), lambda _: None)
    assert report.streams == 1
    assert stream.stored_steps() == [0, 1]


def test_with_an_agent_running_it_waits_for_that(box: Box, tmp_path: Path) -> None:
    stream = box.stream(ring=False)
    stream.log(3)
    reports: list[Any] = []

    async def life() -> None:
        agent = box.agent()
        agent._given = (tmp_path / "unrelated",)
        running = asyncio.create_task(agent.run())
        while not agent.health.agent["spools"]:
            await asyncio.sleep(0.01)
        thread = threading.Thread(target=lambda: reports.append(sync(Settings(box.spool), (), lambda _: None)))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        agent.stop()
        await running

    asyncio.run(asyncio.wait_for(life(), 60))
    assert reports[0].by_agent == os.getpid()
    assert reports[0].problems == []
    assert stream.stored_steps() == [0, 1, 2]


# -- the commands, as processes

Cli = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cli(box: Box, tmp_path: Path) -> Iterator[Cli]:
    """Start `trainspool ...` on the box; whatever still runs at the end is killed."""
    rings = MEMORY / f"trainspool-test-{os.getpid()}-{tmp_path.name[:40]}"
    environment = {**os.environ, "TRAINSPOOL_DIR": str(box.spool), "TRAINSPOOL_RING_DIR": str(rings)}
    environment |= {"XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    environment.pop("TRAINSPOOL_STORE", None)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainspool_agent", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for path in (*rings.glob("spools/*"), *rings.glob("*.*")):
        path.unlink()
    for folder in (rings / "spools", rings):
        if folder.exists():
            folder.rmdir()


@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="needs shared memory")
def test_a_second_daemon_says_who_runs_and_leaves(cli: Cli) -> None:
    first = cli("daemon")
    assert first.stderr
    assert "agent started" in first.stderr.readline()
    second, autostarted = cli("daemon"), cli("daemon", "--idle-exit", "5")
    _, said = second.communicate(timeout=20)
    assert second.returncode == 1
    assert f"pid {first.pid}" in said
    autostarted.communicate(timeout=20)
    assert autostarted.returncode == 0
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=10)
    assert first.returncode == 0
    assert "agent left" in said


@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="needs shared memory")
def test_the_command_says_what_it_did_and_its_status_whether_all_is_carried(cli: Cli, box: Box) -> None:
    stream = box.stream(ring=False)
    stream.log(3)
    said, _ = (done := cli("sync")).communicate(timeout=30)
    assert (done.returncode, said.split(" in ")[0]) == (0, "carried 1 stream, 0.0 MB, 3 points")
    box.stream(ring=False, store=Path("/nowhere/at/all")).log(3)
    said, _ = (done := cli("sync", "--json")).communicate(timeout=30)
    assert done.returncode == 1
    assert "/nowhere/at/all" in json.loads(said)["problems"][0]["what"]
    (done := cli("sync", "/no/such/folder")).communicate(timeout=30)
    assert done.returncode == 2
