"""A run has one carrying agent at a time: leases taken, wished for, handed over, lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from handmade import BOOT, Stream, contents, feed_async

from trainspool_agent.compact import Dictionary
from trainspool_agent.files import StoreFiles
from trainspool_agent.store import lease
from trainspool_agent.store.errors import RunHeld
from trainspool_agent.store.lease import HOLD_S, LEASE_S, REFRESH_S, YIELD_S, Leases
from trainspool_agent.store.writer import FileStore

RUN = "a" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lease.time, "monotonic", made)
    return made


def agent(name: str, gone: Callable[[str], bool] = lambda name: False) -> Leases:
    return Leases({"host": name, "pid": 1}, lambda other: gone(str(other.get("host"))))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "experiment" / RUN).mkdir(parents=True)
    return str(tmp_path / "experiment" / RUN)


def test_a_run_is_held_by_one(folder: str, clock: Clock) -> None:
    one, other = agent("a"), agent("b")
    one.take(RUN, folder)
    with pytest.raises(RunHeld, match="host a"):
        other.take(RUN, folder)
    assert one.has(RUN)
    assert not other.has(RUN)


def test_the_lease_of_a_process_that_is_gone_is_taken_at_once(folder: str, clock: Clock) -> None:
    agent("a").take(RUN, folder)
    other = agent("b", gone=lambda name: name == "a")
    other.take(RUN, folder)
    assert other.has(RUN)


def test_a_count_that_stands_still_is_taken_over_and_the_stopped_one_notices(folder: str, clock: Clock) -> None:
    stopped, other = agent("a"), agent("b")
    stopped.take(RUN, folder)
    with pytest.raises(RunHeld):
        other.take(RUN, folder)
    clock.now += LEASE_S - 1
    with pytest.raises(RunHeld):
        other.take(RUN, folder)
    clock.now += 2
    other.take(RUN, folder)
    assert not stopped.has(RUN)


def test_a_count_that_rises_is_left_alone_for_ever(folder: str, clock: Clock) -> None:
    one, other = agent("a"), agent("b")
    one.take(RUN, folder)
    for _ in range(20):
        clock.now += REFRESH_S
        one.refresh()
        with pytest.raises(RunHeld):
            other.take(RUN, folder, wish=False)
    assert not one.asked


def test_counting_replaces_no_file_and_leaves_the_lease_readable(folder: str, clock: Clock) -> None:
    one = agent("a")
    one.take(RUN, folder)
    path = Path(folder, lease.FILE)
    inode = path.stat().st_ino
    for count in range(1, 13):
        clock.now += REFRESH_S
        assert one.refresh() == []
        assert json.loads(path.read_bytes()) == {"holder": {"host": "a", "pid": 1}, "count": count}
    assert path.stat().st_ino == inode


def test_a_lease_of_ours_in_another_form_is_counted_up_too(folder: str, clock: Clock) -> None:
    one = agent("a")
    one.take(RUN, folder)
    path = Path(folder, lease.FILE)
    path.write_text(json.dumps({"count": 7, "holder": {"pid": 1, "host": "a"}}))
    clock.now += REFRESH_S
    assert one.refresh() == []
    assert json.loads(path.read_bytes()) == {"holder": {"host": "a", "pid": 1}, "count": 1}


def test_a_lease_that_is_gone_or_anothers_is_lost(folder: str, clock: Clock) -> None:
    for theirs in (None, b"", b"rubbish", json.dumps({"holder": {"host": "b", "pid": 1}, "count": 0}).encode()):
        one = agent("a")
        path = Path(folder, lease.FILE)
        path.unlink(missing_ok=True)
        one.take(RUN, folder)
        path.unlink() if theirs is None else path.write_bytes(theirs)
        clock.now += REFRESH_S
        assert one.refresh() == [RUN]
        assert not one.has(RUN)
        assert (path.read_bytes() if path.exists() else None) == theirs


def test_who_waits_is_told_on_which_host_a_count_rises(folder: str, clock: Clock) -> None:
    one, other = agent("a"), agent("b")
    one.take(RUN, folder)
    told = []
    for _ in range(3):
        with pytest.raises(RunHeld) as held:
            other.take(RUN, folder)
        told.append(held.value.alive_on)
        clock.now += REFRESH_S
        one.refresh()
    assert told == [None, "a", "a"]
    with pytest.raises(RunHeld):
        other.take(RUN, folder)
    with pytest.raises(RunHeld) as held:
        other.take(RUN, folder)
    assert held.value.alive_on is None, "the same count as at the last look"


def test_whom_we_leave_alone_is_not_asked_and_lapses_all_the_same(folder: str, clock: Clock) -> None:
    one, other = agent("a"), Leases({"host": "b", "pid": 1}, lambda other: False, asks=lambda host: host != "a")
    one.take(RUN, folder)
    with pytest.raises(RunHeld):
        other.take(RUN, folder)
    clock.now += HOLD_S
    one.refresh()
    assert not one.asked
    clock.now += LEASE_S
    other.take(RUN, folder)
    assert other.has(RUN)


def test_who_is_asked_lets_go_and_stands_back(folder: str, clock: Clock) -> None:
    one, other = agent("a"), agent("b")
    one.take(RUN, folder)
    with pytest.raises(RunHeld):
        other.take(RUN, folder)
    one.refresh()
    assert not one.asked, "it was only just taken"
    clock.now += HOLD_S
    one.refresh()
    assert one.asked == [RUN]
    one.release(RUN)
    with pytest.raises(RunHeld, match="asked for it"):
        one.take(RUN, folder)
    other.take(RUN, folder)
    assert other.has(RUN)


def test_who_asked_and_never_came_is_not_waited_for(folder: str, clock: Clock) -> None:
    one, other = agent("a"), agent("b")
    one.take(RUN, folder)
    with pytest.raises(RunHeld):
        other.take(RUN, folder)
    clock.now += HOLD_S
    one.refresh()
    one.release(RUN)
    clock.now += YIELD_S
    one.take(RUN, folder)
    assert one.has(RUN)


def test_two_stores_take_turns_and_nothing_is_lost_or_doubled(tmp_path: Path, clock: Clock) -> None:
    streams = Stream(), Stream()
    for number, stream in enumerate(streams):
        run = stream.run(RUN)
        stream.start(run)
        stream.frame()
        for step in range(6):
            stream.point(run, f"k{number}", step / 4, step)
            stream.tags(run, {"last": f"{number}.{step}"}, time=stream.now + number)
            stream.frame()
        stream.end(run)
        stream.frame()

    async def carry() -> None:
        stores = [FileStore(tmp_path, boot_id=f"{BOOT}{number}", leases=agent(str(number))) for number in range(2)]
        dictionaries = Dictionary(), Dictionary()
        at = [0, 0]
        while any(at[number] < len(streams[number].frames) for number in range(2)):
            for number, store in enumerate(stores):
                todo = streams[number].frames[at[number] :][:1]
                try:
                    await feed_async(store, streams[number], tmp_path, frames=todo, dictionary=dictionaries[number])
                    at[number] += len(todo)
                except RunHeld:
                    pass
                store.checkpoint()
                await store.make_durable()
            clock.now += 0.5
        for store in stores:
            await store.make_durable(all=True)
            store.close()

    asyncio.run(carry())
    files = contents(tmp_path)
    for number in range(2):
        (lines,) = [data for name, data in files.items() if name.endswith(f"metrics/k{number}")]
        assert [int(line.split()[2]) for line in lines.splitlines()] == list(range(6))
    account = FileStore(tmp_path, boot_id=BOOT).account(RUN)
    assert (account["accepted"], account["stored"], account["folded"]) == (12, 12, 0)
    assert any(name.endswith("tags/last") and data == b"1.5" for name, data in files.items())


def test_a_reboot_here_mends_nothing_of_a_run_that_another_host_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream()
    run = stream.run(RUN)
    stream.tags(run, {"empty": ""})
    stream.frame()
    store = FileStore(tmp_path, boot_id="boot of a", leases=agent("a"))
    asyncio.run(feed_async(store, stream, tmp_path))
    store.checkpoint(force=True)
    monkeypatch.setenv("TRAINSPOOL_HOST", "b")
    FileStore(tmp_path, boot_id="boot of b", leases=agent("b"))
    assert any(name.endswith("tags/empty") for name in contents(tmp_path))


def test_a_disk_that_takes_nothing_takes_no_run_away(
    folder: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = agent("a")
    one.take(RUN, folder)
    with monkeypatch.context() as patch:
        patch.setattr(lease.files, "fs", _FullDisk())
        patch.setattr(lease, "publish", _fail)
        clock.now += REFRESH_S
        assert one.refresh() == []
        assert one.has(RUN)
    clock.now += REFRESH_S
    assert one.refresh() == []
    assert one.has(RUN)


class _FullDisk(StoreFiles):
    def overwrite(self, path: str, old: bytes, new: bytes) -> bool:
        return _fail(path, old, new)


def _fail(*_: object, **__: object) -> NoReturn:
    raise OSError(28, "full")
