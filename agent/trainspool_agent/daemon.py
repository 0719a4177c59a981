"""The agent's life: start, loop, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from trainspool.errors import TrainspoolError
from trainspool.spool import layout
from trainspool.spool.listing import MTIME_MARGIN_NS
from trainspool.spool.ringfolder import agent_folder, ring_folder
from trainspool_agent import cursor as cursors
from trainspool_agent import discover, service
from trainspool_agent.agentlock import AgentLock
from trainspool_agent.discover import Place
from trainspool_agent.follow import Stores, carry
from trainspool_agent.health import Health
from trainspool_agent.liveness import Life, boot_id
from trainspool_agent.pace import Pace
from trainspool_agent.retention.keeper import Keeper
from trainspool_agent.settings import Settings
from trainspool_agent.tail import Stream

TICK_INTERVAL_S = 0.5
HURRY_INTERVAL_S = 0.1  # while someone waits for us to be done
RESCAN_INTERVAL_S = 5.0
REARM_S = 0.5  # more than it takes to watch again
DURABLE_INTERVAL_S = 1.0
PROBE_INTERVAL_S = 0.9  # at every other tick: a death shows within 2 s
SAVE_SHARE, SAVE_INTERVAL_S_MAX = 0.005, 10.0  # of a core, for checkpoints; what a restart applies again, and folds
STOP_PATIENCE_S = 3.0
GARBAGE_OBJECTS = 50_000  # alive beyond the last collection: more than the points of a turn

log = logging.getLogger("trainspool.agent")


class Agent:
    """Carries one user's streams on one host. For one event loop.

    Args:
        settings: what it was told.
        spools: further spools to carry, beside those found.
        until_done: leave when everything that is there now is carried (living streams: up to now).
        on_tick: called several times a second, in the loop.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        spools: tuple[Path, ...] = (),
        until_done: bool = False,
        on_tick: Callable[[Agent], None] | None = None,
    ) -> None:
        self.settings, self.until_done, self._on_tick = settings, until_done, on_tick
        self.folder, self.ring_folder = agent_folder(), ring_folder()
        self.host, boot = layout.host_name(), boot_id()
        self.lock = AgentLock(self.folder)
        self.stores = Stores(boot, settings.store)
        self.stores.on_handed_over = self._tell_writers
        self.health = Health(self.folder)
        self.pace = Pace()
        self.streams: dict[Place, Stream] = {}
        self.finished: set[Place] = set()
        self._boot = boot
        self._given = (settings.spool, *spools)
        self._spools: list[Path] = []
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._stop, self._rearm = asyncio.Event(), asyncio.Event()
        self._rescan_due = self._save_due = 0.0
        self._births: frozenset[str] = frozenset()
        self._births_ns: tuple[int, ...] = ()
        self._rings_ns: tuple[int, ...] = ()
        self._idle_since: float | None = None
        self.left_idle = False
        """It left by itself, for want of streams."""

    def stop(self) -> None:
        """Leave at the next opportunity: finish the turn, write checkpoints."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    async def run(self) -> None:
        """Take the lock, carry streams until told to stop or done, leave everything consistent.

        Raises:
            AgentRunning: another agent of this user runs on this host.
            OSError: the agent's folder cannot be used.
        """
        self.lock.acquire()
        try:
            helpers = self._start()
            try:
                await self._loop()
            finally:
                await self._leave(helpers)
        finally:
            self.lock.release()

    # -- start

    def _start(self) -> list[asyncio.Task[None]]:
        service.allow_many_files()
        # A batch lives for a turn and frees itself; by default each one would set off a collection that finds nothing.
        gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self._rescan()
        log.info("agent started pid=%d host=%s streams=%d", os.getpid(), self.host, len(self.streams))
        service.notify("READY=1")
        background = [self._make_durable()]
        if not self.until_done:
            background += [self._watch(), Keeper(self.settings, self.health, lambda: self._spools).run()]
        return [asyncio.create_task(one) for one in background]

    # -- loop

    async def _loop(self) -> None:
        while not self._stop.is_set():
            self._tick()
            if self._on_tick:
                self._on_tick(self)
            if self._is_over():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), HURRY_INTERVAL_S if self.until_done else TICK_INTERVAL_S)

    def _tick(self) -> None:
        service.notify("WATCHDOG=1")
        now = time.monotonic()
        if now >= self._rescan_due or self._births_seen():
            self._rescan()
        for stream in self.streams.values():
            if not stream.ended and now >= stream.probe_due:
                stream.probe_due = now + PROBE_INTERVAL_S
                stream.probe()
        if now >= self._save_due:
            begun = time.thread_time()
            self._save()
            self._save_due = now + min((time.thread_time() - begun) / SAVE_SHARE, SAVE_INTERVAL_S_MAX)
        self.health.artifacts = self.stores.artifacts()
        with contextlib.suppress(OSError):
            self.health.write()
        service.limit_log()

    def _births_seen(self) -> bool:
        """Whether a ring or pointer came or went: a stream may have been born in a spool we don't know."""
        changed_ns = discover.births_changed_ns(self.folder, self.ring_folder)
        if changed_ns == self._births_ns:
            return False
        if time.time_ns() - max(changed_ns) > MTIME_MARGIN_NS:
            self._births_ns = changed_ns
        before, self._births = self._births, discover.births(self.folder, self.ring_folder)
        return self._births != before

    def _save(self) -> None:
        """Write what is due: applied checkpoints, cursors, health. A full disk stops none of the others."""
        try:
            self.stores.checkpoint()
            self.health.clear("checkpoint")
        except OSError as error:
            self.health.note("checkpoint", error)
        self._rewind(self.stores.take_fallen())
        for stream in self.streams.values():
            self._save_cursor(stream)

    def _rewind(self, runs: set[str]) -> None:
        """Carry again what another agent's checkpoint does not know of *runs*; the stores fold the rest."""
        for place, stream in self.streams.items() if runs else ():
            if any(run.run_id in runs for run in stream.cursor.runs):
                had_ended = stream.ended
                stream.rewind()
                if had_ended:
                    self._tasks[place] = asyncio.create_task(carry(stream, self.stores, self.pace), name=place.name)

    def _save_cursor(self, stream: Stream) -> None:
        try:
            stream.save_cursor()
        except OSError as error:
            self.health.note(str(stream.folder), error)

    # -- which streams there are

    def _rescan(self) -> None:
        self._rescan_due = time.monotonic() + RESCAN_INTERVAL_S
        found = discover.rings(self.ring_folder, self.health.streams) if self.ring_folder else []
        found = [ring for ring in found if self._is_spool(ring.place.spool)]
        pointed = filter(self._is_spool, discover.pointed_spools(self.folder))
        spools = list(dict.fromkeys([*self._given, *self._spools, *(ring.place.spool for ring in found), *pointed]))
        if spools != self._spools:
            self._spools = spools
            self.health.agent["spools"] = [str(spool) for spool in spools]
            self.lock.describe(spools, service.log_path())
            self._rearm.set()
        for spool in spools:
            self._scan(spool)
        for ring in found:  # born, and perhaps killed, before its folder was made
            if ring.place.host == self.host:
                self._adopt(ring.place)
        before_ns, self._rings_ns = self._rings_ns, discover.births_changed_ns(self.folder, self.ring_folder)
        for stream in self.streams.values():
            if not stream.ended:
                stream.look_at_ring(may_be_new=self._rings_ns != before_ns)
                if stream.may_have_grown():
                    stream.wake.set()  # watches get lost, and don't exist on some network file systems

    def _is_spool(self, spool: Path) -> bool:
        """Whether a spool that a file names, not a person, may be one."""
        try:
            discover.check_spool(spool, must_be_one=spool not in self._given)
        except (OSError, TrainspoolError) as error:
            self.health.note(str(spool), error)
            return False
        return True

    def _scan(self, spool: Path) -> None:
        try:
            discover.check_spool(spool)
            for place in discover.streams(spool, self.host):
                self._adopt(place)
            self.health.clear(str(spool))
        except (OSError, TrainspoolError) as error:
            self.health.note(str(spool), error)

    def _adopt(self, place: Place) -> None:
        if place in self.streams or place in self.finished:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                discover.check_folder(place)
            stream = Stream(place, self.ring_folder, self._boot)
        except (OSError, TrainspoolError) as error:
            self.health.note(str(place.folder), error)
            return
        if stream.cursor.finished:
            self._finish(stream)
            return
        self.health.clear(str(place.folder))
        self.streams[place] = stream
        self.health.streams[place.name] = stream.facts
        stream.probe()
        self._tasks[place] = asyncio.create_task(carry(stream, self.stores, self.pace), name=place.name)

    def _finish(self, stream: Stream) -> None:
        """Nothing is left to do for this stream, and its cursor says so."""
        stream.close()
        self.finished.add(stream.place)
        self.health.finished = len(self.finished)
        self.streams.pop(stream.place, None)
        self.health.streams.pop(stream.name, None)
        self._tasks.pop(stream.place, None)

    async def _watch(self) -> None:
        """Wake the streams whose files change; start over when spools come or watches fail."""
        while not self._stop.is_set():
            self._rearm.clear()
            folders = [discover.watched_folder(spool, self.host) for spool in self._spools]
            try:
                async for names in discover.watch([folder for folder in folders if folder], self._rearm):
                    self._wake(names)
                    if self.pace.polls:
                        self._rearm.set()
                self.health.clear("watches")
                if self.pace.polls:
                    await self._poll()
            except (OSError, RuntimeError) as error:  # watchfiles raises RuntimeError for its Rust side's errors
                self.health.note("watches", error)
                log.warning("no watches, looking every %g s instead error=%r", RESCAN_INTERVAL_S, str(error))
                await asyncio.sleep(RESCAN_INTERVAL_S)

    async def _poll(self) -> None:
        """Look at the files of streams that wait, instead of watching all, while turns are far apart anyway."""
        while self.pace.polls:
            await asyncio.sleep(self.pace.interval_s)
            self.pace.spent(0.0)  # nobody else says so when there are no turns any more
            for stream in self.streams.values():
                if stream.waiting and stream.may_have_grown():
                    stream.wake.set()
        # What is written from here until the watches stand is found then.
        self._rescan_due = min(self._rescan_due, time.monotonic() + REARM_S)

    def _wake(self, names: set[str]) -> None:
        known = {place.name: stream for place, stream in self.streams.items()}
        finished = {place.name for place in self.finished}
        for name in names:
            if name in known:
                known[name].wake.set()
            elif name not in finished:
                self._rescan_due = 0.0
        if not self._rescan_due:
            self._rescan()

    # -- durability

    async def _make_durable(self) -> None:
        while True:
            await asyncio.sleep(DURABLE_INTERVAL_S)
            await self._settle(everything=False)

    async def _settle(self, *, everything: bool) -> None:
        """Make durable what is due, then forget what is finished."""
        try:
            await self.stores.make_durable(everything=everything)
            self.health.clear("durability")
        except OSError as error:
            self.health.note("durability", error)
            log.error("not durable error=%r", str(error))
            return
        for stream in list(self.streams.values()):
            try:
                if stream.cursor.runs or stream.ended:
                    self._settle_stream(stream)
            except OSError as error:
                self.health.note(str(stream.folder), error)

    def _settle_stream(self, stream: Stream) -> None:
        if stream.settle(lambda run: self.stores.is_settled(run, stream.name)):
            self._finish(stream)

    def _tell_writers(self, streams: set[str]) -> None:
        """Artifacts of *streams* came to their places: so whoever waits for the store is told."""
        for stream in self.streams.values():
            if stream.name in streams:
                with contextlib.suppress(OSError):
                    stream.tell_writer(self.stores.reached(stream.name, stream.cursor.offset))

    # -- stop

    def _is_over(self) -> bool:
        if self.until_done:
            return all(stream.is_carried for stream in self.streams.values()) and not self.stores.is_handing_over
        if self.settings.idle_exit_s is None:
            return False
        ended = all(stream.ended or stream.liveness.life is Life.UNKNOWN for stream in self.streams.values())
        if not ended or self.stores.is_handing_over:
            self._idle_since = None
            return False
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since < self.settings.idle_exit_s:
            return False
        self._rescan()  # the last look is under the lock: a stream born since finds an agent, until it is released
        self.left_idle = all(stream.ended or stream.liveness.life is Life.UNKNOWN for stream in self.streams.values())
        return self.left_idle

    async def _leave(self, helpers: list[asyncio.Task[None]]) -> None:
        """Finish the turns, force the checkpoints, let go. Takes seconds at most, whatever the disk does."""
        service.notify("STOPPING=1")
        self._rearm.set()
        for helper in helpers:
            helper.cancel()
        for stream in self.streams.values():
            stream.closing = True
            stream.wake.set()
        tasks = [*self._tasks.values(), *helpers]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_PATIENCE_S)
            for task in late:
                task.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stores.stop_handing_over(), STOP_PATIENCE_S)
        if self.until_done or self.settings.idle_exit_s is not None:
            await self._settle(everything=True)
        else:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.stores.rest(), STOP_PATIENCE_S)
        self._save_for_good()
        log.info("agent left pid=%d streams=%d", os.getpid(), len(self.streams))

    def _save_for_good(self) -> None:
        try:
            self.stores.checkpoint(force=True)
        except OSError as error:
            log.error("checkpoint not written, the next start applies more again error=%r", str(error))
        for stream in self.streams.values():
            with contextlib.suppress(OSError):
                stream.save_cursor(force=True)
            stream.close()
        with contextlib.suppress(OSError):
            self.stores.close()
        with contextlib.suppress(OSError):
            self.health.write(force=True)


def born_meanwhile(agent: Agent) -> bool:
    """Whether a stream came between an agent's last look and the release of its lock."""
    places = [place for spool in agent._spools for place in discover.streams(spool, agent.host)]
    places += [ring.place for ring in (discover.rings(agent.ring_folder) if agent.ring_folder else [])]
    known = agent.finished | set(agent.streams)
    return any(place not in known and not cursors.load(place.folder).finished for place in places)
