"""How far artifacts are: what the agent says while they are on their way, and what sync waits for."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import events, files
from trainspool_agent import files as agent_files
from trainspool_agent import health
from trainspool_agent.daemon import Agent
from trainspool_agent.settings import Settings
from trainspool_agent.store import transfer
from trainspool_agent.sync import Progress, Report, sync

from .conftest import WALL, Box, MadeStream

MIB = 1 << 20


class NoLinks(agent_files.StoreFiles):
    """Spool and store on file systems that share nothing: everything is copied, a part at a time."""

    def link_open(self, source: int, target: str) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def clone(self, source: int, target: int) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Steps of 1 MiB, each of which waits for a permit."""
    permits, step = threading.Semaphore(0), transfer.Transfer.step
    no_links = NoLinks()
    monkeypatch.setattr(agent_files, "fs", no_links)
    monkeypatch.setattr(files, "fs", no_links)
    monkeypatch.setattr(transfer, "STEP_BYTES", MIB)

    def stepped(one: transfer.Transfer) -> None:
        if one.size > MIB:
            assert permits.acquire(timeout=30)
        step(one)

    monkeypatch.setattr(transfer.Transfer, "step", stepped)
    yield permits
    permits.release(1000)


def log_artifact(stream: MadeStream, path: str, size: int) -> None:
    staged = os.urandom(8).hex()
    (stream.folder / "staging").mkdir(parents=True, exist_ok=True)
    (stream.folder / "staging" / staged).write_bytes(os.urandom(size))
    stream._write(events.pack(events.ARTIFACT, 0, WALL, path, staged, size, 0o644, "copied"))


def said(box: Box) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((box.rings / health.FILE).read_text())
    return found


async def until(agent: Agent, what: str, value: object) -> dict[str, Any]:
    """Return what the agent says of the artifacts on their way, once it says *value* of *what*."""
    while True:
        for about in agent.stores.artifacts().values():
            if about[what] == value:
                return about
        await asyncio.sleep(0.01)


def test_the_total_holds_what_is_done_until_nothing_is_left(box: Box, copying: threading.Semaphore) -> None:
    stream = box.stream(ring=False, locked=True)
    log_artifact(stream, "a", 2 * MIB)
    log_artifact(stream, "b", 3 * MIB)

    async def life() -> None:
        agent = box.agent()
        running = asyncio.create_task(agent.run())
        first = await until(agent, "done_bytes", 0)
        assert (first["waiting"], first["bytes"], first["path"]) == (2, 5 * MIB, "a")
        copying.release()
        assert (await until(agent, "done_bytes", MIB))["bytes"] == 5 * MIB
        copying.release(2)
        about = await until(agent, "done_bytes", 3 * MIB)
        assert (about["waiting"], about["bytes"], about["path"]) == (1, 5 * MIB, "b")
        assert about["rate"] > 0 and about["remaining_s"] > 0 and about["error"] is None
        agent.health.artifacts = agent.stores.artifacts()
        agent.health.write(force=True)
        assert said(box)["artifacts"][str(box.store)]["bytes"] == 5 * MIB
        copying.release(2)
        while agent.stores.artifacts():
            await asyncio.sleep(0.01)
        log_artifact(stream, "c", 2 * MIB)
        stream_of = next(iter(agent.streams.values()))
        stream_of.wake.set()
        assert (await until(agent, "waiting", 1))["bytes"] == 2 * MIB
        copying.release(2)
        agent.stop()
        await running

    asyncio.run(asyncio.wait_for(life(), 60))


def test_sync_is_done_when_the_artifacts_are(box: Box, copying: threading.Semaphore) -> None:
    stream = box.stream(ring=False)
    log_artifact(stream, "a", 3 * MIB)
    log_artifact(stream, "small", 10)
    steps: list[Progress] = []

    def see(progress: Progress) -> None:
        steps.append(progress)
        copying.release()

    report = sync(Settings(box.spool), (), see)
    assert (report.artifacts, report.artifact_bytes, report.problems) == (2, 3 * MIB + 10, [])
    assert any(step.artifacts and step.total_bytes > 3 * MIB for step in steps)
    assert (stream.run_folder / "artifacts" / "a").stat().st_size == 3 * MIB


def test_sync_says_which_artifacts_wait_and_why(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(NoLinks):
        def open_part(self, path: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(agent_files, "fs", Full())
    stream = box.stream(ring=False)
    log_artifact(stream, "a", 10)
    stream.log(3)
    [problem] = sync(Settings(box.spool), (), lambda _: None).problems
    assert (problem.where, "1 artifacts wait: " in problem.what) == (str(box.store), True)
    assert "make room" in problem.next_step
    assert stream.stored_steps() == [0, 1, 2]


def test_with_an_agent_running_sync_waits_for_its_artifacts_too(
    box: Box, copying: threading.Semaphore, tmp_path: Path
) -> None:
    stream = box.stream(ring=False)
    log_artifact(stream, "a", 2 * MIB)
    reports: list[Report] = []
    waited = threading.Event()

    def see(progress: Progress) -> None:
        if progress.artifacts:
            waited.set()

    async def life() -> None:
        agent = box.agent()
        agent._given = (tmp_path / "unrelated",)
        running = asyncio.create_task(agent.run())
        while not agent.health.agent["spools"]:
            await asyncio.sleep(0.01)
        thread = threading.Thread(target=lambda: reports.append(sync(Settings(box.spool), (), see)))
        thread.start()
        while not waited.is_set():
            await asyncio.sleep(0.01)
        assert not reports
        copying.release(2)
        while thread.is_alive():
            await asyncio.sleep(0.01)
        agent.stop()
        await running

    asyncio.run(asyncio.wait_for(life(), 60))
    assert reports[0].by_agent == os.getpid() and reports[0].problems == []
    assert (stream.run_folder / "artifacts" / "a").stat().st_size == 2 * MIB
