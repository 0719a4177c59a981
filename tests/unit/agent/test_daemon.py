"""The agent's life: whatever happens to it or to a stream, the store ends up as if nothing had."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import events
from trainspool_agent import cursor, follow
from trainspool_agent.daemon import Agent, born_meanwhile
from trainspool_agent.settings import Settings
from trainspool_agent.store.writer import FileStore

from .conftest import Box, MadeStream


def while_running(agent: Agent, *steps: Callable[[], Any]) -> None:
    """Run *agent*; each step is asked until it returns something true; then the agent is told to stop."""

    async def life() -> None:
        running = asyncio.create_task(agent.run())
        try:
            for step in steps:
                deadline = time.monotonic() + 20
                while not step():
                    assert not running.done() or running.result() is None
                    assert time.monotonic() < deadline, step
                    await asyncio.sleep(0.01)
        finally:
            agent.stop()
            await asyncio.wait_for(running, 10)

    asyncio.run(life())


def test_an_orphan_is_carried_and_ended_killed(box: Box) -> None:
    stream = box.stream()
    stream.log(5)
    stream.pump()
    stream.log(5)
    agent = box.carry()
    assert stream.stored_steps() == list(range(10))
    assert stream.status() == events.KILLED
    assert cursor.load(stream.folder).finished
    assert agent.finished == {stream.place}


def test_a_finished_stream_costs_its_cursor_alone(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = box.stream()
    stream.log(5)
    box.carry()

    def read(*_: object) -> None:
        raise AssertionError("a finished stream was read")

    monkeypatch.setattr("trainspool_agent.tail.StreamReader.read", read)
    agent = box.carry()
    assert agent.finished == {stream.place}


@pytest.mark.parametrize("content", [None, b"", b"TSC1 nonsense"])
def test_a_lost_or_corrupt_cursor_changes_nothing_in_the_store(box: Box, content: bytes | None) -> None:
    stream = box.stream()
    stream.log(5)
    box.carry()
    before = {path: path.read_bytes() for path in stream.run_folder.rglob("*") if path.is_file()}
    (stream.folder / "cursor").unlink()
    if content is not None:
        (stream.folder / "cursor").write_bytes(content)
    box.carry()
    assert stream.stored_steps() == list(range(5))
    for path in (stream.run_folder / "metrics" / "loss", stream.run_folder / "meta.yaml"):
        assert path.read_bytes() == before[path]
    assert cursor.load(stream.folder).finished


def test_a_living_stream_is_followed_and_its_ring_told(box: Box) -> None:
    stream = box.stream(locked=True)
    stream.log(3)
    stream.pump()

    def more() -> bool:
        stream.log(2)
        stream.pump()
        return True

    ring = stream.ring
    assert ring
    while_running(
        box.agent(),
        lambda: ring.stored == ring.head,
        more,
        lambda: ring.stored == ring.head,
    )
    assert stream.stored_steps() == list(range(5))
    assert not cursor.load(stream.folder).finished


def test_where_turns_are_far_apart_files_are_looked_at_instead_of_watched(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = box.stream(locked=True)
    stream.log()
    stream.pump()
    ring, agent = stream.ring, box.agent()
    assert ring
    told, watches = asyncio.Event(), list[asyncio.Event]()

    async def watch(folders: list[Path], stop: asyncio.Event) -> AsyncIterator[set[str]]:
        watches.append(stop)
        while not stop.is_set():
            await asyncio.sleep(0.01)
            if told.is_set():
                yield {stream.place.name}

    def more() -> bool:
        stream.log(2)
        stream.pump()
        return True

    def be_slow() -> bool:
        agent.pace.interval_s, agent.pace.polls = 0.5, True
        monkeypatch.setattr(agent.pace, "spent", lambda seconds: None)
        told.set()
        return watches[0].is_set()

    def be_fast() -> bool:
        agent.pace.interval_s, agent.pace.polls = 0.0, False
        told.clear()
        return True

    def is_carried() -> bool:
        return ring.stored == ring.head

    monkeypatch.setattr("trainspool_agent.daemon.discover.watch", watch)
    monkeypatch.setattr("trainspool_agent.daemon.RESCAN_INTERVAL_S", 1000.0)
    while_running(
        agent, lambda: watches and is_carried(), be_slow, more, is_carried, more, is_carried,
        lambda: len(watches) == 1, be_fast, lambda: len(watches) == 2, more, is_carried,
    )  # fmt: skip
    assert stream.stored_steps() == list(range(7))


def test_a_stream_without_a_ring_file_is_told_by_its_cursor(box: Box) -> None:
    stream = box.stream(ring=False, locked=True)
    stream.log(3)
    assert stream.segment
    end = stream.segment.offset
    while_running(box.agent(), lambda: cursor.load(stream.folder).offset == end)


def test_a_death_ends_the_run(box: Box) -> None:
    stream = box.stream(locked=True)
    stream.log(3)
    stream.pump()

    def die() -> bool:
        stream.log(2)
        stream.die()
        return True

    while_running(
        box.agent(),
        lambda: bool(list(stream.store.glob(f"*/{stream.run_id}/metrics/loss"))),
        die,
        lambda: stream.status() == events.KILLED,
    )
    assert stream.stored_steps() == list(range(5))


def test_a_stream_that_cannot_be_stored_is_held_and_the_others_go_on(box: Box) -> None:
    held, other = box.stream(store=Path("/nowhere/at/all")), box.stream()
    for stream in (held, other):
        stream.log(3)
    agent = box.carry()
    assert other.stored_steps() == [0, 1, 2]
    facts = agent.health.streams[held.place.name]
    assert facts.error and "/nowhere/at/all" in facts.error
    assert facts.next_step and "--store" in facts.next_step
    assert not cursor.load(held.folder).finished


def test_a_store_chosen_for_the_agent_takes_runs_whose_own_cannot_be_seen(box: Box) -> None:
    stream = box.stream(store=Path("/nowhere/at/all"))
    stream.log(3)
    asyncio.run(Agent(Settings(box.spool, store=box.store), until_done=True).run())
    stream.store = box.store
    assert stream.stored_steps() == [0, 1, 2]


def test_a_full_disk_is_waited_out(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "RETRY_FIRST_S", 0.01)
    stream = box.stream()
    stream.log(3)
    full, apply = [True], FileStore.apply

    async def fail_while_full(self: FileStore, *arguments: Any) -> Any:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(box.store))
        return await apply(self, *arguments)

    monkeypatch.setattr(FileStore, "apply", fail_while_full)
    agent = box.agent()

    def facts() -> Any:
        return agent.health.streams.get(stream.place.name)

    def space_returns() -> bool:
        assert "make room" in facts().next_step
        full[0] = False
        return True

    while_running(agent, lambda: facts() and facts().error, space_returns, lambda: stream.place in agent.finished)
    assert stream.stored_steps() == [0, 1, 2]


def test_a_bug_met_in_one_stream_does_not_stop_another(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = box.stream(), box.stream()
    for stream in (bad, good):
        stream.log(3)
    compact = follow.compact

    def fail(frames: Any, dictionary: Any, name: str, position: Any) -> Any:
        if name == bad.place.name:
            raise KeyError("a bug")
        return compact(frames, dictionary, name, position)

    monkeypatch.setattr(follow, "compact", fail)
    agent = box.carry()
    assert good.stored_steps() == [0, 1, 2]
    assert "KeyError" in str(agent.health.streams[bad.place.name].error)


def test_a_damaged_frame_is_counted_in_the_account_of_its_run(box: Box) -> None:
    stream = box.stream(ring=False)
    stream.log(3)
    stream.log_end()
    stream.leave_in_order()
    [path] = stream.folder.glob("*.seg")
    data = bytearray(path.read_bytes())
    at = data.index(events.pack(events.POINT, 0, 0, 1_700_000_000_001_000_000, 1, 0.25))
    data[at + 5] ^= 1
    path.write_bytes(data)
    agent = box.carry()
    assert stream.stored_steps() == [0, 2]
    account = FileStore(box.store, boot_id=agent._boot).account(stream.run_id)
    assert account["damaged"] == 1
    assert account["accepted"] == 3


def test_a_link_in_place_of_a_stream_is_noted_and_the_others_go_on(box: Box) -> None:
    stream = box.stream()
    stream.log(2)
    stream.pump()
    (stream.folder.parent / ("e" * 32)).symlink_to("/etc")
    agent = box.carry()
    assert stream.stored_steps() == [0, 1]
    assert any("e" * 32 in note["where"] for note in agent.health.notes)


def test_an_idle_agent_leaves_and_a_living_stream_keeps_it(box: Box) -> None:
    asyncio.run(asyncio.wait_for(Agent(Settings(box.spool, idle_exit_s=0.1)).run(), 20))
    stream = box.stream(locked=True)
    stream.log()
    stream.pump()
    agent = Agent(Settings(box.spool, idle_exit_s=0.0))

    async def life() -> None:
        running = asyncio.create_task(agent.run())
        await asyncio.sleep(1.2)  # two ticks: that nothing happens has no event to wait for
        assert not running.done()
        stream.die()
        await asyncio.wait_for(running, 20)

    asyncio.run(life())
    assert agent.left_idle
    assert stream.status() == events.KILLED


def test_a_stream_born_between_the_last_look_and_the_release_is_noticed(box: Box) -> None:
    agent = Agent(Settings(box.spool, idle_exit_s=0.0))
    asyncio.run(asyncio.wait_for(agent.run(), 20))
    assert not born_meanwhile(agent)
    stream = box.stream()
    stream.log()
    assert born_meanwhile(agent)


def test_killed_between_store_and_cursor_stores_nothing_twice(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart that knows nothing of what the last one stored since its cursor."""
    stream: MadeStream = box.stream(locked=True)
    stream.log(3)
    stream.pump()
    ring = stream.ring
    assert ring
    while_running(box.agent(), lambda: ring.stored == ring.head)
    old = (stream.folder / "cursor").read_bytes()
    stream.log(3)
    stream.pump()
    while_running(box.agent(), lambda: ring.stored == ring.head)
    (stream.folder / "cursor").write_bytes(old)
    for checkpoint in stream.run_folder.glob(".*checkpoint*"):
        checkpoint.unlink()
    stream.die()
    box.carry()
    assert stream.stored_steps() == list(range(6))
