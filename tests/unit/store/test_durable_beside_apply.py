"""A run is made durable while a batch of it arrives: each sees the other's work whole, or not at all."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from handmade import Stream, feed_async, open_store

from trainspool.spool import events as ev
from trainspool_agent import checkpoint
from trainspool_agent.compact import Dictionary
from trainspool_agent.store import durable, runs

RUN = "a" * 32


def test_a_batch_that_comes_while_its_run_is_made_durable_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, dictionary = Stream(), Dictionary()
    run = stream.run(RUN)
    stream.start(run)
    stream.point(run, "loss", 0.5, 1)
    stream.frame()
    stream.point(run, "loss", 0.25, 2)
    stream.end(run, ev.FAILED)
    stream.frame()
    store = open_store(tmp_path / "mlruns")
    real, entered, go_on = runs.publish_meta, threading.Event(), threading.Event()

    def slow_once(*arguments: Any) -> bool:
        if not entered.is_set():
            entered.set()
            assert go_on.wait(5)
        return real(*arguments)

    async def both() -> None:
        await feed_async(store, stream, tmp_path, frames=stream.frames[:1], dictionary=dictionary)
        store._memory.get(RUN).published = runs.Published()  # meta.yaml could not be read then: to be tried again
        monkeypatch.setattr(runs, "publish_meta", slow_once)
        durable = asyncio.create_task(store.make_durable(all=True))
        await asyncio.to_thread(entered.wait, 5)
        later = feed_async(store, stream, tmp_path, frames=stream.frames[1:], dictionary=dictionary)
        batch = asyncio.create_task(later)
        await asyncio.wait([batch], timeout=0.1)  # as far as it comes
        go_on.set()
        await asyncio.gather(durable, batch)

    asyncio.run(both())
    (folder,) = (tmp_path / "mlruns").glob(f"*/{RUN}")
    assert "status: 4" in (folder / "meta.yaml").read_text()
    saved = checkpoint.decode((folder / "trainspool.durable").read_bytes())
    assert saved is not None
    lines = (folder / "metrics/loss").read_bytes()[: saved["metrics"]["loss"][1]]
    assert lines.count(b"\n") == saved["counts"]["stored"] == 1
    store.close()


def test_a_cancelled_caller_s_sync_is_done_before_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream()
    run = stream.run(RUN)
    stream.start(run)
    stream.point(run, "loss", 0.5, 1)
    stream.frame()
    store = open_store(tmp_path / "mlruns")
    real, entered, go_on, at_work = durable._sync_and_write, threading.Event(), threading.Event(), threading.Lock()

    def alone(*arguments: Any) -> None:
        assert at_work.acquire(blocking=False), "two at once: one takes the other's files away"
        try:
            entered.set()
            assert go_on.wait(5)
            real(*arguments)
        finally:
            at_work.release()

    async def leave() -> None:
        await feed_async(store, stream, tmp_path, frames=stream.frames, dictionary=Dictionary())
        monkeypatch.setattr(durable, "_sync_and_write", alone)
        helper = asyncio.create_task(store.make_durable(all=True))
        await asyncio.to_thread(entered.wait, 5)
        helper.cancel()
        last = asyncio.create_task(store.make_durable(all=True))
        await asyncio.wait([helper, last], timeout=0.1)  # as far as they come
        go_on.set()
        await last
        await store.rest()

    asyncio.run(leave())
    assert store.is_durable
    (folder,) = (tmp_path / "mlruns").glob(f"*/{RUN}")
    assert checkpoint.load_durable(str(folder)) is not None
    assert not list(folder.glob("trainspool.durable.*"))
    store.close()
