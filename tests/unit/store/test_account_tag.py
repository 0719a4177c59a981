"""The account on the finished run: the same from any order and any replay, and nobody's own tag."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from handmade import Stream, contents, feed, open_store

from trainspool.spool import events as ev
from trainspool_agent.compact import RunRef
from trainspool_agent.store import accounttag
from trainspool_agent.store.writer import FileStore

RUN = "a" * 32
REF = RunRef(RUN, "/store", None, "exp", True)


def ended(points: int = 5, gap: int = 0) -> Stream:
    stream = Stream()
    run = stream.run(RUN)
    stream.start(run)
    for step in range(points):
        stream.point(run, "loss", step / 2, step)
    stream.frame()
    if gap:
        stream.event(ev.GAP, run, stream.tick(), gap, gap)
    stream.end(run)
    stream.frame()
    return stream


def told(store: FileStore) -> dict[str, Any] | None:
    asyncio.run(store.make_durable(all=True))
    [folder] = store.root.glob(f"*/{RUN}")
    path = folder / "tags" / "trainspool.account"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_finished_run_says_what_became_of_its_points(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    stream = ended(5, gap=3)
    feed(store, stream)
    account = told(store)
    assert account == {
        "accepted": 5, "stored": 5, "folded": 0, "refused": 0, "dropped": 3, "damaged": 0, "unknown_tail": False,
    }  # fmt: skip
    assert store.account(RUN)["other_events"] == 3  # start, gap, end: the tag is no event


def test_an_open_run_says_nothing_yet(tmp_path: Path) -> None:
    store, stream = open_store(tmp_path), ended()
    feed(store, stream, frames=stream.frames[:1])
    assert told(store) is None


def test_what_comes_after_the_end_is_in_it(tmp_path: Path) -> None:
    store, stream, other = open_store(tmp_path), ended(5), ended(7)
    feed(store, stream)
    assert told(store)["accepted"] == 5  # type: ignore[index]
    feed(store, other)
    account = told(store)
    assert account is not None
    assert account["accepted"] == 12
    assert account["stored"] + account["folded"] == 12


def test_a_replay_makes_the_same_tag_byte_for_byte(tmp_path: Path) -> None:
    stream = ended(9, gap=1)
    stores = [open_store(tmp_path / name) for name in ("live", "replayed")]
    feed(stores[0], stream)
    feed(stores[1], stream, size=2)
    stores[0].note_lag(REF, 1234)
    for store in stores:
        told(store)
    live, replayed = (contents(store.root) for store in stores)
    tag = next(path for path in live if path.endswith(accounttag.ACCOUNT_TAG))
    assert live[tag] == replayed[tag]


def test_the_tag_is_written_when_it_changes_only(tmp_path: Path) -> None:
    store, stream = open_store(tmp_path), ended()
    feed(store, stream)
    told(store)
    [path] = store.root.glob(f"*/{RUN}/tags/trainspool.account")
    before = path.stat().st_ino
    feed(store, stream)
    told(store)
    assert path.stat().st_ino == before


def test_a_run_whose_last_changes_were_applied_but_never_durable_is_not_settled(tmp_path: Path) -> None:
    store, stream = open_store(tmp_path), ended()
    feed(store, stream)
    store.checkpoint(force=True)  # and then it is killed
    store = open_store(tmp_path)
    assert not store.is_settled(REF, stream.id)
    asyncio.run(store.make_durable())
    assert store.is_settled(REF, stream.id)


def test_a_run_that_cannot_be_made_durable_takes_none_of_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream = open_store(tmp_path), ended()
    other, ref = Stream(), RunRef("b" * 32, "/store", None, "exp", True)
    run = other.run("b" * 32)
    other.start(run)
    other.end(run)
    other.frame()
    feed(store, stream)
    feed(store, other)

    def refuse(state: Any) -> None:
        if state.run_id == RUN:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr("trainspool_agent.store.durable.write_account", refuse)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(store.make_durable(all=True))
    assert store.is_settled(ref, other.id)
    assert not store.is_settled(REF, stream.id)
