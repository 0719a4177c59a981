"""Schedules: a list of steps drawn from a seed, carried out one by one, judged after each and at the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from crash.simulation.agents import Carrier, run_to_its_end, take_over
from crash.simulation.foreign import Foreigner
from crash.simulation.judge import Reader, check_run
from crash.simulation.model import FAILED, FINISHED, expected
from crash.simulation.world import Host, Killed, World, entered
from crash.simulation.writers import Writer, ring_files

from trainspool_agent import cursor
from trainspool_agent.replay import replay
from trainspool_agent.replay.survey import Wanted

WRITERS_MAX = 5
RUNS = 4
ROUNDS_MAX = 400


class Step(NamedTuple):
    """What to do; *seed* decides all that the step itself draws."""

    name: str
    seed: int


class Fault(AssertionError):
    """A schedule that went wrong."""


def draw(seed: int) -> list[Step]:
    """Return the schedule of *seed*."""
    rng = random.Random(seed)
    names, weights = zip(*[(name, weight) for name, (weight, _) in STEPS.items()], strict=True)
    count = rng.randrange(15, 70)
    return [Step(name, rng.randrange(1 << 32)) for name in rng.choices(names, weights, k=count)]


def parsed(text: str) -> list[Step]:
    """Return the steps that *text* lists, as a failing test prints them."""
    parts = (part.strip().rpartition(" ") for part in text.split(","))
    return [Step(name, int(seed)) for name, _, seed in parts]


def carry_out(seed: int, steps: Sequence[Step], folder: Path, hosts: int | None = None) -> None:
    """Do *steps* in a world of their own; raise Fault, which names the step, if anything is not as it must be."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with entered(World(folder, seed, hosts or 1 + seed % 3 // 2)) as world:
        play = _Play(world)
        at = Step("the beginning", 0)
        try:
            for at in steps:
                STEPS[at.name][1](play, random.Random(at.seed))
                play.look()
            at = Step("the end", 0)
            play.finish()
        except Exception as error:
            raise Fault(f"seed {seed}, at {at}: {type(error).__name__}: {error}") from error
        finally:
            play.close()
    shutil.rmtree(folder, ignore_errors=True)


def shrink(seed: int, steps: list[Step], folder: Path) -> list[Step]:
    """Return fewer steps that go wrong alike: pieces are left out, ever smaller ones, as long as it still does."""
    wrong = _fault(seed, steps, folder)
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if _fault(seed, fewer, folder) == wrong:
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


def _fault(seed: int, steps: list[Step], folder: Path) -> str:
    """What goes wrong, without the numbers in it; empty if nothing does."""
    try:
        carry_out(seed, steps, folder)
    except Fault as fault:
        return re.sub(r"[0-9a-f]{8,}|\d+", "", str(fault).partition(")")[2])[:60]
    return ""


class _Play:
    """One schedule under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.writers: list[Writer] = []
        self.agents: dict[str, Carrier] = {}
        self.reader = Reader(world.store)
        self.foreigner = Foreigner(world)
        self.run_ids = [world.random.randbytes(16).hex() for _ in range(RUNS)]

    def look(self) -> None:
        self.reader.look()
        for agent in self.agents.values():
            assert not agent.errors, agent.errors

    def host(self, rng: random.Random) -> Host:
        return rng.choice(self.world.hosts)

    def writer(self, rng: random.Random) -> Writer | None:
        alive = [writer for writer in self.writers if writer.alive]
        return rng.choice(alive) if alive else None

    def agent(self, rng: random.Random) -> Carrier | None:
        return self.agents.get(self.host(rng).name)

    def lose(self, agent: Carrier) -> None:
        """SIGKILL."""
        agent.kill()
        del self.agents[agent.host.name]

    # -- the end

    def finish(self) -> None:
        """End every process, carry all there is, and compare."""
        rng = self.world.random
        for writer in self.writers:
            if writer.alive:
                writer.leave(rng) if rng.random() < 0.5 else writer.kill()
        for host in self.world.hosts:
            if host.name not in self.agents:
                self.agents[host.name] = Carrier(self.world, host)
        for _ in range(ROUNDS_MAX):
            for agent in self.agents.values():
                agent.spin(3)
                agent.tick()
                agent.settle(everything=True)
                agent.spin(6)
            self.look()
            self.world.pass_time(0.3)
            if self.is_quiet():
                break
        else:
            raise AssertionError(f"never quiet: {[agent.errors for agent in self.agents.values()]}")
        for agent in self.agents.values():
            agent.stop()
        self.agents.clear()
        self.compare()

    def is_quiet(self) -> bool:
        if any(ring_files(host) for host in self.world.hosts):
            return False
        # One whose machine went down before its first segment says nothing of itself, not even whose it was.
        folders = {path.parent for path in self.world.spool.glob("streams/*/*/*.seg")}
        return all(cursor.load(folder).finished for folder in folders)

    def compare(self) -> None:
        self.reader.look()
        runs = expected([writer.model for writer in self.writers])
        found = {path.parent.name: path.parent for path in self.world.store.glob("[0-9]*/*/meta.yaml")}
        assert found.keys() == runs.keys(), (sorted(found), sorted(runs))
        for run_id, run in runs.items():
            check_run(found[run_id], run, self.foreigner.lines.get(run_id, {}), self.world.hosts[0].boot)
        self.foreigner.check(found)

    def close(self) -> None:
        for agent in list(self.agents.values()):
            with contextlib.suppress(Exception):
                agent.kill()
        for writer in self.writers:
            if writer.alive:
                writer.kill()


# -- steps


def _new_writer(play: _Play, rng: random.Random) -> None:
    if sum(writer.alive for writer in play.writers) < WRITERS_MAX:
        writer = Writer(play.world, play.host(rng))
        play.writers.append(writer)
        writer.start_run(rng.choice(play.run_ids), rng)


def _start_run(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.start_run(rng.choice(play.run_ids), rng, owner=rng.random() < 0.6)


def _end_run(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer and writer.runs:
        writer.end_run(rng.choice(writer.runs), rng.choice((FINISHED, FINISHED, FAILED)))


def _log(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.log(rng, rng.randrange(1, 12))


def _turn(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.turn()


def _roll(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.roll()


def _fill_ring(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.fill_ring(rng)


def _kill_writer(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.kill()


def _leave(play: _Play, rng: random.Random) -> None:
    writer = play.writer(rng)
    if writer:
        writer.leave(rng)


def _start_agent(play: _Play, rng: random.Random) -> None:
    host = play.host(rng)
    if host.name not in play.agents:
        play.agents[host.name] = Carrier(play.world, host)


def _agent_turns(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.spin(rng.randrange(1, 15))


def _agent_tick(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.tick()
        agent.spin(rng.randrange(4))


def _agent_rescan(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.do(agent.agent._rescan)


def _checkpoint(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.checkpoint()


def _save_cursors(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.save_cursors()


def _settle(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.settle(everything=rng.random() < 0.5)
        agent.spin(rng.randrange(12))


def _stop_agent(play: _Play, rng: random.Random) -> None:
    agent = play.agent(rng)
    if agent:
        agent.stop()
        del play.agents[agent.host.name]


def _kill_agent(play: _Play, rng: random.Random) -> None:
    """Let it go on until it dies between two file operations."""
    agent = play.agent(rng)
    if agent is None:
        return
    play.world.kill_in(rng.choice((rng.randrange(4), rng.randrange(40), rng.randrange(300))))
    with contextlib.suppress(Killed):
        for _ in range(30):
            for act in (lambda: agent.spin(5), agent.tick, lambda: agent.settle(everything=rng.random() < 0.5)):
                act()
                if play.world.killed:
                    break
            if play.world.killed:
                break
            play.world.pass_time(0.5)
    play.world.kill_in(None)
    play.lose(agent)


def _reboot(play: _Play, rng: random.Random) -> None:
    host = play.host(rng)
    if any(writer.host is host and writer.replayed > writer.pumped for writer in play.writers):
        return  # a replay took from the ring what would then be in a store alone, with no end to it
    for writer in play.writers:
        if writer.host is host and (writer.alive or _has_ring(writer)):
            writer.lose_ring(play.world.spool)
    if host.name in play.agents:
        play.lose(play.agents[host.name])
    shutil.rmtree(host.rings)
    host.rings.mkdir(mode=0o700)
    host.boots += 1


def _has_ring(writer: Writer) -> bool:
    return (writer.host.rings / f"{writer.model.name}.ring").exists()


def _pass_time(play: _Play, rng: random.Random) -> None:
    play.world.pass_time(rng.choice((0.001, 0.1, 1.0, 6.0, 70.0)))


def _clock_jump(play: _Play, rng: random.Random) -> None:
    play.world.wall_ns += rng.choice((-3600, -1, 1, 3600)) * 1_000_000_000


def _foreign(play: _Play, rng: random.Random) -> None:
    play.foreigner.act(rng)


def _replay(play: _Play, rng: random.Random) -> None:
    """A copy of the spool, or the spool itself, is carried to the same store once more."""
    if not play.world.spool.is_dir():
        return
    places = play.world.spool
    if rng.random() < 0.5:
        places = play.world.folder / "copy"
        shutil.rmtree(places, ignore_errors=True)
        shutil.copytree(play.world.spool, places)
    if any(places.glob("streams/*/*/*.seg")):
        host = play.host(rng)
        with play.world.within(host, play.world.new_pid(host)):
            for writer in play.writers:
                writer.replayed = writer.stream.ring.end if writer.host is play.world.here else writer.replayed
            # Not done with `again`: what one replay took from a ring that the next one cannot see is counted twice
            # when an agent carries it, in one frame with what follows.
            again = rng.random() < 0.3 and all(writer.replayed <= writer.pumped for writer in play.writers)
            in_its_time = mock.patch("asyncio.run", functools.partial(run_to_its_end, play.world))
            with in_its_time, contextlib.suppress(asyncio.TimeoutError):
                replay([places], play.world.store, Wanted(), again=again, progress=lambda _: None)


def _take_over(play: _Play, rng: random.Random) -> None:
    """`sync` on one machine, for the others: their agents, if any, stand still for longer than a lease."""
    if play.world.spool.is_dir():
        take_over(play.world, play.host(rng), rng.choice((None, None, rng.randrange(40), rng.randrange(300))))


STEPS: dict[str, tuple[int, Callable[[_Play, random.Random], None]]] = {
    "new writer": (6, _new_writer),
    "start run": (5, _start_run),
    "end run": (4, _end_run),
    "log": (22, _log),
    "turn": (14, _turn),
    "roll": (3, _roll),
    "fill ring": (1, _fill_ring),
    "kill writer": (2, _kill_writer),
    "leave": (2, _leave),
    "start agent": (6, _start_agent),
    "agent turns": (14, _agent_turns),
    "agent tick": (6, _agent_tick),
    "agent rescan": (4, _agent_rescan),
    "checkpoint": (3, _checkpoint),
    "save cursors": (2, _save_cursors),
    "settle": (3, _settle),
    "stop agent": (1, _stop_agent),
    "kill agent": (4, _kill_agent),
    "reboot": (1, _reboot),
    "pass time": (5, _pass_time),
    "clock jump": (1, _clock_jump),
    "foreign": (3, _foreign),
    "replay": (2, _replay),
    "take over": (3, _take_over),
}
