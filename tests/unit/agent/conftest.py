"""Streams made by hand: of the living, whose lock is held here, and of the dead."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from trainspool.spool import events, layout, lock
from trainspool.spool.items import Damage, Frame
from trainspool.spool.reader import StreamReader
from trainspool.spool.ring import Ring
from trainspool.spool.segment import SegmentWriter
from trainspool_agent.daemon import Agent
from trainspool_agent.discover import Place
from trainspool_agent.liveness import boot_id, pid_namespace
from trainspool_agent.settings import Settings

WALL = 1_700_000_000_000_000_000
GONE_PID = 2**22 + 1  # beyond the kernel's largest pid


class MadeStream:
    """One stream with one run and one metric `loss`, of a process that is gone.

    *locked*: of another pid namespace, so that its lock alone says whether it lives; it is held until `die`.
    """

    def __init__(
        self, box: Box, *, run_id: str | None = None, store: Path | None = None, ring: bool = True, locked: bool = False
    ) -> None:
        self.raw = os.urandom(16)
        self.place = Place(box.spool, layout.host_name(), self.raw.hex())
        self.folder = self.place.folder
        self.run_id = run_id or os.urandom(16).hex()
        self.store = store or box.store
        self.identity: dict[str, Any] = {
            "format": 1, "stream": self.raw.hex(), "host": self.place.host, "boot": boot_id(), "pid": GONE_PID,
            "pidns": 1 if locked else pid_namespace(), "started": 1, "uid": os.getuid(), "rank": None, "wall": WALL,
            "mono": 1, "spool": str(box.spool), "ring": None, "sdk": "test", "program": "/x/train.py",
        }  # fmt: skip
        self.ring = Ring(self.raw, msgpack.packb(self.identity), box.rings, 1 << 18) if ring else None
        self.ring_path = self.ring.path if self.ring else None
        self.segment: SegmentWriter | None = None
        self.step = 0
        self._lock = -1
        if locked:
            (self.folder / layout.STAGING).mkdir(parents=True)
            self._lock = lock.hold(str(self.folder))
        self._write(self._birth())

    def _birth(self) -> bytes:
        about = {"name": "made", "user": "me", "tags": {}, "resume": False}
        return b"".join(
            (
                events.pack(events.DEFINE_KEY, 0, "loss"),
                events.pack(events.DEFINE_RUN, 0, self.run_id, True, str(self.store), None, "made"),
                events.pack(events.START, 0, WALL, about),
            )
        )

    def _write(self, data: bytes) -> None:
        if self.ring:
            assert self.ring.append(data)
        else:
            self._to_segment(data)

    def log(self, count: int = 1) -> None:
        """Log *count* points, into the ring if there is one."""
        for _ in range(count):
            self._write(events.pack(events.POINT, 0, 0, WALL + self.step * 1_000_000, self.step, self.step / 4))
            self.step += 1

    def log_end(self) -> None:
        self._write(events.pack(events.END, 0, WALL + self.step * 1_000_000, events.FINISHED, None))

    def pump(self) -> None:
        """Carry what the ring holds into a segment, as the pump does."""
        assert self.ring
        while data := self.ring.committed():
            self._to_segment(data)
            self.ring.advance(len(data))

    def _to_segment(self, data: bytes) -> None:
        if self.segment is None:
            (self.folder / layout.STAGING).mkdir(parents=True, exist_ok=True)
            (self.folder / layout.LOCK).touch(exist_ok=True)
            identity = msgpack.packb(self.identity)
            self.segment = SegmentWriter(str(self.folder), self.raw, identity, [], 0, 0, 0)
        for piece in events.pieces(data, 1 << 16):
            self.segment.append(piece)

    def leave_in_order(self) -> None:
        if self.ring:
            self.pump()
            self.ring.unlink()
        assert self.segment
        self.segment.seal(in_order=True)

    def die(self) -> None:
        os.close(self._lock)
        self._lock = -1

    def close(self) -> None:
        if self._lock >= 0:
            self.die()
        if self.segment:
            self.segment.close()

    # -- what is there

    def held(self) -> list[list[Any]]:
        """Every event in the segments, damage excluded by assertion; and the stream has to be ended."""
        reader = StreamReader(self.folder, self.raw, writer_alive=lambda: False)
        found: list[list[Any]] = []
        while items := reader.read():
            assert not any(isinstance(item, Damage) for item in items)
            found += [event for item in items if isinstance(item, Frame) for event in events.decode(item.events)]
        assert reader.ended
        reader.close()
        return found

    @property
    def run_folder(self) -> Path:
        [folder] = self.store.glob(f"*/{self.run_id}")
        return folder

    def stored_steps(self) -> list[int]:
        lines = (self.run_folder / "metrics" / "loss").read_text().splitlines()
        return [int(line.split()[2]) for line in lines]

    def status(self) -> int:
        [line] = [
            line for line in (self.run_folder / "meta.yaml").read_text().splitlines() if line.startswith("status:")
        ]
        return int(line.split()[1])


class Box:
    """A machine of its own: spool, rings, store."""

    def __init__(self, folder: Path) -> None:
        self.spool, self.rings, self.store = folder / "spool", folder / "rings", folder / "mlruns"
        self.rings.mkdir(mode=0o700)
        self.streams: list[MadeStream] = []

    def stream(self, **about: Any) -> MadeStream:
        made = MadeStream(self, **about)
        self.streams.append(made)
        return made

    def agent(self, **about: Any) -> Agent:
        return Agent(Settings(self.spool), **about)

    def carry(self) -> Agent:
        """Be the agent until everything is carried."""
        agent = self.agent(until_done=True)
        asyncio.run(agent.run())
        return agent


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    made = Box(tmp_path)
    monkeypatch.setattr("trainspool_agent.daemon.ring_folder", lambda: made.rings)
    monkeypatch.setattr("trainspool_agent.daemon.agent_folder", lambda: made.rings)
    monkeypatch.setattr("trainspool_agent.agentlock.agent_folder", lambda: made.rings)
    monkeypatch.setattr("trainspool_agent.sync.agent_folder", lambda: made.rings)
    monkeypatch.setattr("trainspool_agent.sync.ring_folder", lambda: made.rings)
    yield made
    for stream in made.streams:
        stream.close()
