"""Agents: the daemon's own code on an event loop that runs a step at a time, in the world's time."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

from crash.simulation.world import Host, Killed, World

from trainspool_agent.daemon import Agent
from trainspool_agent.settings import Settings
from trainspool_agent.takeover import Takeover

TURN_S = 1e-6
PATIENCE_S = 300.0


class _Loop(asyncio.SelectorEventLoop):
    """Waits for nothing: where it would, the world's time passes."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        real = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None) -> Any:
            found = real(0)
            # A turn takes a moment, too: a wait for less than the loop's resolution would else come round for ever.
            world.pass_time(max(TURN_S, 0 if found else timeout or 0))
            return found

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._world.mono


class Carrier:
    """One agent process."""

    def __init__(self, world: World, host: Host) -> None:
        self.world, self.host, self.pid = world, host, world.new_pid(host)
        self.loop = _Loop(world)
        self.loop.set_exception_handler(self._note)
        self.faults: list[BaseException] = []
        with self.world.within(host, self.pid):
            self.agent = Agent(Settings(world.spool))
            self.agent.lock.acquire()
        self.do(self.agent._rescan)

    def _note(self, loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, Killed | asyncio.CancelledError):
            self.faults.append(error)

    # -- a little of its life

    def spin(self, times: int = 1) -> None:
        """Let every task that can go on do so, *times* times."""
        with self.world.within(self.host, self.pid):
            for _ in range(times):
                self.loop.call_soon(self.loop.stop)
                self.loop.run_forever()
                if self.world.killed:
                    break

    def do(self, call: Callable[[], Any]) -> None:
        self.loop.call_soon(call)
        self.spin()

    def tick(self) -> None:
        self.do(self.agent._tick)

    def settle(self, *, everything: bool) -> None:
        """Begin to make durable; it goes on with the turns that follow."""
        with self.world.within(self.host, self.pid):
            self.loop.create_task(self.agent._settle(everything=everything))

    def checkpoint(self) -> None:
        self.do(lambda: self.agent.stores.checkpoint(force=True))

    def save_cursors(self) -> None:
        self.do(lambda: [stream.save_cursor(force=True) for stream in self.agent.streams.values()])

    @property
    def errors(self) -> list[str]:
        """What holds a stream: with a sound disk, nothing may but another agent."""
        held = [stream.facts.error for stream in self.agent.streams.values() if stream.facts.error]
        held = [error for error in held if "is carried by" not in error]
        notes = [f"{note['where']}: {note['error']}" for note in self.agent.health.notes]
        return held + notes + [repr(fault) for fault in self.faults]

    # -- its end

    def stop(self) -> None:
        """SIGTERM: leave in order."""
        with self.world.within(self.host, self.pid):
            self.loop.run_until_complete(self.agent._leave([]))
            self.agent.lock.release()
        self._let_go()

    def kill(self) -> None:
        """SIGKILL: not one file changes any more."""
        self.world.kill_in(0)
        with contextlib.suppress(Killed):
            self._let_go()
        self.world.kill_in(None)

    def _let_go(self) -> None:
        """What the kernel does for a process that is gone."""
        self.world.gone(self.pid)
        agent = self.agent
        _cancel_all(self.loop)
        for stream in agent.streams.values():
            stream.close()
        for store in agent.stores._open.values():
            store._memory.close()
        if agent.lock._fd >= 0:
            os.close(agent.lock._fd)
        self.loop.close()


def take_over(world: World, host: Host, killed_in: int | None) -> None:
    """Carry the other hosts' streams from *host* while everyone else stands still; SIGKILL in the midst of it."""
    pid, loop = world.new_pid(host), _Loop(world)
    with world.within(host, pid):
        takeover = Takeover(Settings(world.spool), (world.spool,), lambda: None)
        world.kill_in(killed_in)
        try:
            loop.run_until_complete(takeover.run())
        except Killed:
            world.kill_in(0)
        with contextlib.suppress(Killed):
            _cancel_all(loop)
        world.kill_in(None)
        assert not takeover.problems, takeover.problems
    world.gone(pid)
    for stream in takeover.streams.values():
        stream.close()
    for store in takeover._stores._open.values():
        store._memory.close()
    loop.close()


def run_to_its_end(world: World, main: Coroutine[Any, Any, Any]) -> Any:
    """``asyncio.run`` in the world's time. Everyone else stands still: who waits for them is told to leave (Ctrl-C)."""
    loop = _Loop(world)
    try:
        return loop.run_until_complete(asyncio.wait_for(main, PATIENCE_S))
    finally:
        _cancel_all(loop)
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    for _ in range(20):
        if not asyncio.all_tasks(loop):
            break
        loop.call_soon(loop.stop)
        loop.run_forever()
