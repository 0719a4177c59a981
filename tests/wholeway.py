"""The whole way of an event in one process and one thread, in simulated time: SDK, ring, pump, spool, agent, store.

Deterministic: the pump turns when it is told, syncs and the store's threads run inline, and whoever waits lets the
clock jump. So the n-th operation on the disk is the same one in every run of a plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from faults import Killed
from storyfiles import Background, Transfers, make_small

from trainspool import artifacts as artifacts_module
from trainspool import captures as captures_module
from trainspool import media as media_module
from trainspool import pump as pump_module
from trainspool import run as run_module
from trainspool import runevents as runevents_module
from trainspool import stream as stream_module
from trainspool import syncer as syncer_module
from trainspool.entities import Experiment
from trainspool.run import Run
from trainspool.stream import stream
from trainspool_agent import checkpoint, cursor, liveness
from trainspool_agent import daemon as daemon_module
from trainspool_agent.daemon import Agent
from trainspool_agent.liveness import Process
from trainspool_agent.settings import Settings
from trainspool_agent.store import experiments as experiments_module
from trainspool_agent.store import threads as threads_module

WALL = 1_700_000_000_000_000_000
PATIENCE = 200
OUR_OWN = ("trainspool.applied", "trainspool.durable", "trainspool.problem", "trainspool.account")
T = TypeVar("T")


class Clock:
    """Monotonic seconds that pass only when someone waits."""

    def __init__(self) -> None:
        self.now = 10_000.0
        self.wall = WALL

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        self.wall += 1_000_000
        return self.wall


class _JumpingSelector(selectors.DefaultSelector):
    clock: Clock

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits, and nothing will come")
        self.clock.now += timeout
        return super().select(0)


async def _inline(function: Callable[..., T], /, *arguments: Any, **options: Any) -> T:
    return function(*arguments, **options)


class _InlineSyncer(syncer_module.Syncer):
    """Syncs while the pump waits."""

    def __init__(self) -> None:
        self.results, self.idle, self._threaded, self._distrusted = deque(), True, False, set()


class World:
    """One box: a process that logs, an agent, their folders. Use it as a context manager; one at a time."""

    count = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool, self.store, self.rings = folder / "spool", folder / "mlruns", folder / "rings"
        self.clock = Clock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.agent: Agent | None = None
        self.boot = "boot 1"
        self.alive = True
        self.in_agent = False
        self.background, self.transfers = Background(), Transfers()
        self.after_kill: Callable[[], None] = lambda: None
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> World:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.rings.mkdir(parents=True, mode=0o700)
        self._set_time()
        self._set_places()
        _let_go()
        selector = _JumpingSelector()
        selector.clock = self.clock
        self.loop = asyncio.SelectorEventLoop(selector)
        return self

    def __exit__(self, *_: object) -> None:
        self.forget_agent()
        assert self.loop is not None
        self.loop.close()
        _let_go()
        self._patch.undo()
        World.count += 1
        if World.count % 16 == 0:
            gc.collect()  # a ring's maps hold descriptors until its cycle is found

    def _set_time(self) -> None:
        patch = self._patch
        patch.setattr(time, "monotonic", self.clock.monotonic)
        for module in (run_module, runevents_module, artifacts_module, media_module):
            patch.setattr(module, "_time_ns", self.clock.time_ns)
        patch.setattr(asyncio, "to_thread", _inline)
        patch.setattr(captures_module.Captures, "submit", lambda *call: self.background.submit(*call))
        make_small(patch)
        self.transfers.watch(patch)
        patch.setattr(threads_module, "in_idle_thread", _inline)
        patch.setattr(pump_module, "Syncer", _InlineSyncer)
        patch.setattr(pump_module.Pump, "start", _started)
        patch.setattr(stream, "at_birth", lambda: None)
        patch.setattr(experiments_module.time, "time_ns", lambda: WALL)

    def _set_places(self) -> None:
        patch, identity = self._patch, stream_module.identity
        for name in [name for name in os.environ if name.startswith("TRAINSPOOL_")]:
            patch.delenv(name)
        for name, value in (("DIR", self.spool), ("STORE", self.store), ("RING_DIR", self.rings), ("AUTOSTART", "0")):
            patch.setenv(f"TRAINSPOOL_{name}", str(value))
        patch.setenv("TRAINSPOOL_RING_BYTES", str(256 << 10))
        patch.setattr(stream_module, "ring_folder", lambda: self.rings)
        patch.setattr(
            stream_module,
            "identity",
            lambda *about: {**identity(*about), "boot": self.boot, "wall": WALL, "program": "train.py"},
        )
        for name in ("agent_folder", "ring_folder"):
            patch.setattr(daemon_module, name, lambda: self.rings)
        patch.setattr(liveness, "process_of", self._process_of)
        for module in ("daemon", "liveness", "drain"):
            patch.setattr(f"trainspool_agent.{module}.boot_id", lambda: self.boot)

    def _process_of(self, identity: dict[str, Any]) -> Process:
        if identity.get("boot") != self.boot:
            return Process.ELSEWHERE
        return Process.RUNS if self.alive else Process.GONE

    def restart(self, boot: str) -> None:
        """The machine stopped, and starts again: nobody runs, and shared memory is empty."""
        self.forget_agent()
        if stream.pump is not None:
            self.die()
        shutil.rmtree(self.rings)
        self.rings.mkdir(mode=0o700)
        self.boot, self.alive = boot, False

    # -- the process that logs

    def start_run(self, number: int = 0) -> Run:
        run_id = f"{number:x}" * 32
        experiment = Experiment("424242424242424242", "whole way", str(self.store / "424242424242424242"))
        run = Run(run_id, experiment, str(self.store), name=f"run {number}", user="me", owner=True)
        run.start_time = WALL // 1_000_000
        run.start({"mlflow.user": "me"}, resume=False)
        return run

    def turn(self) -> None:
        """One turn of the pump, a tenth of a second after the last."""
        self.clock.now += 0.1
        if stream.pump is not None:
            stream.pump.turn()

    def leave(self) -> None:
        """The process ends in order; what of its ring a broken disk does not take now, it does not take at all."""
        stream.finish(1.0)
        self.die()

    def die(self) -> None:
        """SIGKILL of the process: lock and descriptors go, the ring's file stays."""
        assert stream.pump is not None
        self.alive = False
        self.background.die()
        stream.pump.close_after_fork()
        for ring in stream.pump.rings:
            ring.path = None
        _reset()

    # -- the agent

    def run_agent(self, seconds: float) -> None:
        """Let the agent work for so long."""
        assert self.loop is not None
        self.in_agent = True
        try:
            self.loop.run_until_complete(self._work(seconds))
        except Killed:
            self.forget_agent()
            self.after_kill()
        finally:
            self.in_agent = False

    async def _work(self, seconds: float) -> None:
        if self.agent is None:
            self.agent = Agent(Settings(self.spool))
            self.agent.lock.acquire()
        agent, until = self.agent, self.clock.now + seconds
        while self.clock.now < until:
            agent._tick()
            for one in agent.streams.values():
                one.wake.set()
            await asyncio.sleep(0.5)
            await agent._settle(everything=False)

    def carry_to_the_end(self) -> None:
        """Let the agent work until every stream is finished; it has to come to that."""
        assert self.loop is not None
        for _ in range(PATIENCE):
            self.run_agent(2.0)
            if self.agent is None:
                continue  # killed meanwhile
            left = [one for one in self.agent.streams.values() if one.find_identity() is not None]
            if not left and not list(self.rings.glob("*.ring")):  # what is without identity says nothing of anyone
                return
        assert self.agent is not None
        facts = [vars(one.facts) for one in self.agent.streams.values()]
        raise AssertionError(f"not carried after {PATIENCE} tries: {facts} {self.agent.health.notes}")

    def forget_agent(self) -> None:
        """SIGKILL of the agent: nothing more is written."""
        agent, self.agent = self.agent, None
        if agent is None or self.loop is None:
            return
        tasks = asyncio.all_tasks(self.loop)
        while tasks := {task for task in tasks if not task.done()}:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Killed):  # whatever it wants to do on leaving, it is dead
                self.loop.run_until_complete(_gathered(tasks))
        self.transfers.die()
        for one in agent.streams.values():
            one.close()
        for store in agent.stores._open.values():
            for file in store._memory._open_files:
                with contextlib.suppress(OSError):  # it may have died in closing it
                    os.close(file.fd)
        agent.lock.release()

    # -- what is there

    def contents(self) -> dict[str, bytes]:
        """Every file of the store but our own: path → bytes."""
        found = {}
        for folder, folders, names in os.walk(self.store):
            folders[:] = [name for name in folders if name != ".trainspool"]
            for name in names:
                if not name.startswith(OUR_OWN):
                    path = f"{folder}/{name}"
                    with open(path, "rb") as file:
                        found[path[len(str(self.store)) + 1 :]] = file.read()
        return found

    def account(self, number: int = 0) -> dict[str, Any]:
        [folder] = self.store.glob(f"*/{f'{number:x}' * 32}")
        saved = checkpoint.load(str(folder), self.boot)
        assert saved is not None
        return dict(saved["counts"])

    def cursors(self) -> list[cursor.Cursor]:
        return [cursor.load(path) for path in self.spool.glob("streams/*/*")]


def _started(pump: pump_module.Pump) -> bool:
    pump.started = True
    return True


async def _gathered(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _let_go() -> None:
    pump = stream.pump
    if pump is not None:
        with contextlib.suppress(OSError):
            pump.close_after_fork()
        for ring in pump.rings:
            ring.unlink()
    _reset()


def _reset() -> None:
    stream.generation += 1
    stream._reset()
    stream.settings = stream._store = None
