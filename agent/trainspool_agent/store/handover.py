"""Artifacts on their way from staging folders into the runs of one store, beside the events that name them.

An event enters what it asks for into its run's state (``RunState.expected``), which every checkpoint keeps; here it is
brought about. So no point waits for a gigabyte, and what a killed agent had begun the next one finishes. What can be
linked or shared is there at once; long copies go step by step, at idle disk priority, with the quick ones in between.

Source: agent/docs/artifacts.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

from trainspool_agent.store import runs, threads
from trainspool_agent.store.errors import Refused, RunHeld, StoreRefused
from trainspool_agent.store.files import sync_all
from trainspool_agent.store.holding import Holding
from trainspool_agent.store.howfar import Done, Meter, Progress
from trainspool_agent.store.limits import ARTIFACTS_AT_ONCE, RUNS_EXPECTING_MAX
from trainspool_agent.store.memory import RunMemory
from trainspool_agent.store.sharing import Sharing
from trainspool_agent.store.state import Expected, Held, RunState
from trainspool_agent.store.threads import to_its_end
from trainspool_agent.store.transfer import NotYet, Transfer

RETRY_FIRST_S, RETRY_LAST_S = 0.5, 15.0
MAKE_ROOM_S = 1.0
LOOK_AGAIN_S = 0.2  # at what a living process is still capturing

log = logging.getLogger("trainspool.agent")


class Handover:
    """One store's. For one event loop.

    Args:
        root: the store's folder.
        boot_id: of this boot.
        memory: the runs; those with something to do are its ``expecting``.
        holding: which runs are ours.
        done: called with the streams whose artifacts are there by now.
        in_spool_too: the staged file of a content that the store has once gives way to a link to that.
    """

    def __init__(
        self,
        root: str,
        boot_id: str,
        memory: RunMemory,
        holding: Holding,
        done: Callable[[set[str]], None],
        *,
        in_spool_too: bool,
    ) -> None:
        self._root, self._boot_id, self._memory = root, boot_id, memory
        self._holding, self._done = holding, done
        self.error: Exception | None = None
        """Why the last try failed; None after one that did not."""
        self._task: asyncio.Task[None] | None = None
        self._aside: dict[Expected, str] = {}  # long copies that wait, and their runs
        self._not_yet: dict[Expected, float] = {}  # still being captured: when to look again; looked at last, last
        self._copying: tuple[Expected, Transfer] | None = None
        self._woken = False
        self._sharing = Sharing(memory, in_spool_too=in_spool_too)
        self._meter = Meter()

    def wake(self) -> None:
        """See to it that someone is at work, if there is anything to do, and looks at all of it once more."""
        self._woken = True
        if self._memory.expecting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="artifacts")

    async def make_room(self) -> None:
        """Have so many runs not wait at once that they fill the memory; a second at most, as some wait for long."""
        until = time.monotonic() + MAKE_ROOM_S
        while len(self._memory.expecting) >= RUNS_EXPECTING_MAX and self.busy and time.monotonic() < until:
            await asyncio.sleep(LOOK_AGAIN_S / 10)

    @property
    def is_done(self) -> bool:
        return not self._memory.expecting

    @property
    def busy(self) -> bool:
        """Whether artifacts are on their way just now: not refused by the disk, nor in another agent's hand."""
        return self.error is None and self._task is not None and not self._task.done()

    async def finish(self) -> None:
        """Return when nothing is left to do.

        Raises:
            OSError: the store does not take it; the rest stays expected.
        """
        while self._memory.expecting:
            self.wake()
            assert self._task is not None
            await asyncio.wait([self._task], timeout=LOOK_AGAIN_S)
            if self.error is not None:
                raise self.error
            if self._task.done():
                return  # other agents carry these runs

    async def stop(self) -> None:
        """Leave; a step that is under way is finished, and a part stays for the next agent."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        self._drop(keep=True)
        self._sharing.close()

    def first_offset(self, stream: str) -> int | None:
        """Return the stream offset of the first artifact of *stream* that is not there yet."""
        return min((one.artifact.offset for _, one in self._expected() if one.stream == stream), default=None)

    @property
    def published(self) -> Done:
        """What came to its place since the start."""
        return self._meter.published

    def progress(self) -> Progress | None:
        """Return how far it is, None if nothing is on its way. Ask every second or so: the rate is of what was seen."""
        return self._meter.progress([one for _, one in self._expected()], self._copying[1] if self._copying else None)

    def _expected(self) -> Iterator[tuple[RunState, Expected]]:
        for run_id in self._memory.expecting:
            state = self._memory.peek(run_id)
            if state is not None:
                yield from ((state, one) for one in state.expected.values())

    # -- the work

    async def _run(self) -> None:
        """Until nothing can be done now; what the disk refuses is tried again, ever less often."""
        pause_s = RETRY_FIRST_S
        while self._memory.expecting:
            self._woken = False
            try:
                moved, later, failed = await self._round()
            except Exception as error:  # noqa: BLE001  the task's boundary: a bug must not end what nobody else does
                self._drop(keep=True)
                moved, later, failed = False, True, error
            self._say(failed)
            if moved:
                pause_s = RETRY_FIRST_S
            elif failed is not None:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_LAST_S)
            elif later:
                await asyncio.sleep(LOOK_AGAIN_S)
            elif not self._woken:
                return  # others carry these runs

    async def _round(self) -> tuple[bool, bool, Exception | None]:
        """Do what is quick, then one step of what is long: whether anything moved, whether something is to come, and
        what one run met: it stops no other."""
        moved = False
        failed: Exception | None = None
        self._forget_what_came()
        for run_id in list(self._memory.expecting):
            state = self._memory.peek(run_id)
            if state is not None and not state.expected:
                continue  # all are in their place; what is left is to hash them
            try:
                self._holding.take(run_id)
                moved = await self._quick(self._memory.get(run_id)) or moved
            except RunHeld:
                self._forget_what_came(but_of=run_id)
            except (OSError, StoreRefused) as error:
                failed = error
        stepped = await self._copy_step() or await self._sharing.step()
        return moved or stepped, bool(self._not_yet), failed

    # -- what is quick

    async def _quick(self, state: RunState) -> bool:
        """Publish what can be linked, shared or is small, some hundreds at once; long ones are put aside."""
        if not os.path.isdir(state.folder):
            self._memory.relocate(state)
            if state.gone:  # someone removed the run: so its artifacts are nowhere to go
                state.expected.clear()
                state.unhashed.clear()
        chosen = self._choose(state)
        if not chosen:
            self._memory.note_what_came(state)
            return False
        begun: list[_Begun] = []  # filled by the thread: what is open is closed, though nobody awaits it any more
        try:
            await to_its_end(asyncio.to_thread(_begin_all, chosen, state.work, self._boot_id, begun))
            self._note_not_yet(begun)
            ready = [one.transfer.temporary for one in begun if one.transfer is not None and one.transfer.ready]
            await to_its_end(asyncio.to_thread(sync_all, ready, self._root))
            await self._publish(state, begun)
        finally:
            for one in begun:
                if one.transfer is not None:
                    one.transfer.close(keep=not one.transfer.ready)
                    if not one.transfer.ready:
                        self._aside[one.expected] = state.run_id
        for one in begun:
            if isinstance(one.why, OSError):
                raise one.why
        return any(not isinstance(one.why, NotYet) for one in begun)

    def _choose(self, state: RunState) -> list[Expected]:
        """Return what to look at next: first what never was, then what was longest ago, so that nothing is hidden."""
        now = time.monotonic()
        for one in state.expected.values():
            if one.artifact.about is not None and self._not_yet.get(one, now) <= now:
                self._aside[one] = state.run_id  # to be encoded, which takes long
        new = (one for one in state.expected.values() if one not in self._not_yet)
        again = (one for one, due in self._not_yet.items() if due <= now and self._is_expected(state, one))
        return list(islice((one for one in chain(new, again) if one not in self._aside), ARTIFACTS_AT_ONCE))

    def _forget_what_came(self, *, but_of: str | None = None) -> None:
        """Wait no more for what is there, was replaced, or is of a run that another agent carries."""
        if self._not_yet:
            expected = {one for state, one in self._expected() if state.run_id != but_of}
            self._not_yet = {one: due for one, due in self._not_yet.items() if one in expected}

    @staticmethod
    def _is_expected(state: RunState, one: Expected) -> bool:
        return state.expected.get(one.artifact.path) is one

    def _note_not_yet(self, begun: list[_Begun]) -> None:
        for one in begun:
            self._not_yet.pop(one.expected, None)
            if isinstance(one.why, NotYet):
                self._not_yet[one.expected] = time.monotonic() + LOOK_AGAIN_S

    async def _publish(self, state: RunState, begun: list[_Begun]) -> None:
        """Give what is ready its name, and enter into the run's state what became of each."""
        streams: set[str] = set()
        try:
            async with state.lock:
                await self._publish_locked(state, begun, streams)
        finally:
            self._memory.note_what_came(state)
            if streams:
                self._done(streams)

    async def _publish_locked(self, state: RunState, begun: list[_Begun], streams: set[str]) -> None:
        if self._holding.take(state.run_id) is not state:
            return  # another agent had the run meanwhile, and what it put there may be newer
        failed: OSError | None = None
        ours = [one for one in begun if state.expected.get(one.expected.artifact.path) is one.expected]
        is_ours = partial(self._holding.surely_has, state.run_id)
        for one, why in await to_its_end(asyncio.to_thread(_publish_all, ours, state.folder, is_ours)):
            if isinstance(why, Refused):
                _refuse(state, one.expected, why)
            elif why is None and one.transfer is not None and one.transfer.ready:
                _enter(state, one.expected, one.transfer.stored_bytes, one.transfer.digest)
                self._meter.came(one.transfer.stored_bytes)
            if one.expected.artifact.path not in state.expected:
                streams.add(one.expected.stream)
                self._memory.touch(state)
            if isinstance(why, OSError) and one.why is None:
                failed = failed or why
        if len(state.problems) > state.problems_told:
            await runs.publish_wanted(state)
        if failed is not None:
            raise failed

    # -- what is long

    async def _copy_step(self) -> bool:
        """Go on with a long copy; whether there was one."""
        if self._copying is None and not await self._begin_long():
            return False
        assert self._copying is not None
        expected, transfer = self._copying
        state = self._memory.peek(self._aside.get(expected, ""))
        if state is None or not self._is_expected(state, expected):
            self._drop()  # a later one of that path took its place, or another agent its run
            return True
        why = None
        try:
            if not transfer.ready:
                await to_its_end(threads.in_idle_thread(transfer.step))
        except Refused as error:
            why = error
        if transfer.ready or why is not None:
            if why is None:
                await self._sync_part(transfer)
            with contextlib.suppress(RunHeld):
                await self._publish(state, [_Begun(expected, transfer, why)])
            self._drop()
        return True

    async def _sync_part(self, transfer: Transfer) -> None:
        try:
            await to_its_end(asyncio.to_thread(sync_all, [transfer.temporary], self._root))
        except OSError:
            self._drop()  # a later sync would succeed and prove nothing: it is copied anew
            raise

    async def _begin_long(self) -> bool:
        for expected, run_id in list(self._aside.items()):
            state = self._memory.peek(run_id)
            if state is None or not self._is_expected(state, expected):
                del self._aside[expected]
                continue
            begun: list[_Begun] = []
            try:
                await to_its_end(threads.in_idle_thread(_begin_all, [expected], state.work, self._boot_id, begun))
            finally:
                for one in begun:
                    if one.transfer is not None:
                        self._copying = expected, one.transfer  # closed with the hand-over, whatever comes
            if self._copying is not None:
                return True
            del self._aside[expected]
            self._note_not_yet(begun)
            [one] = begun
            if isinstance(one.why, Refused):
                self._woken = True
                await self._publish(state, begun)
            elif isinstance(one.why, OSError):
                raise one.why
        return False

    def _drop(self, *, keep: bool = False) -> None:
        """Let go of the long copy; *keep* its part."""
        copying, self._copying = self._copying, None
        if copying is not None:
            self._aside.pop(copying[0], None)
            copying[1].close(keep=keep)

    def _say(self, error: Exception | None) -> None:
        if error is not None and (self.error is None or str(self.error) != str(error)):
            bug = None if isinstance(error, OSError) else error
            log.error("artifacts wait store=%s error=%r", self._root, str(error), exc_info=bug)
        self.error = error


class _Begun(NamedTuple):
    """One artifact that was looked at: under way, or why not."""

    expected: Expected
    transfer: Transfer | None
    why: Refused | NotYet | OSError | None


def _begin_all(chosen: list[Expected], work: str, boot_id: str, begun: list[_Begun]) -> None:
    for one in chosen:
        begun.append(_begin(one, work, boot_id))


def _begin(one: Expected, work: str, boot_id: str) -> _Begun:
    transfer = Transfer(one.artifact, one.stream, one.staging, work, boot_id)
    try:
        transfer.begin()
    except (Refused, NotYet, OSError) as error:
        transfer.close(keep=isinstance(error, OSError))
        return _Begun(one, None, error)
    return _Begun(one, transfer, None)


def _publish_all(
    ready: list[_Begun], run_folder: str, is_ours: Callable[[], bool]
) -> list[tuple[_Begun, Refused | NotYet | OSError | None]]:
    """Give each that is ready its name; return what came of each."""
    return [(one, _publish(one, run_folder, is_ours)) for one in ready]


def _publish(one: _Begun, run_folder: str, is_ours: Callable[[], bool]) -> Refused | NotYet | OSError | None:
    if one.transfer is None or not one.transfer.ready or one.why is not None:
        return one.why
    if not is_ours():
        return NotYet("this agent stood still, and another may carry the run")
    try:
        one.transfer.publish(run_folder)
    except (Refused, OSError) as error:
        return error
    return None


def _enter(state: RunState, expected: Expected, size: int, digest: str | None) -> None:
    artifact = expected.artifact
    del state.expected[artifact.path]
    how, copied = ("encoded", False) if artifact.about is not None else (artifact.how, digest is not None)
    copy_of = f"{expected.staging}/{artifact.staged}" if copied else ""
    state.held[artifact.path] = Held(size, how, digest, copy_of=copy_of)
    state.unhashed[artifact.path] = expected
    state.remember_artifact(artifact.path, expected.order)
    state.unsynced = None


def _refuse(state: RunState, expected: Expected, error: Refused) -> None:
    path = expected.artifact.path
    del state.expected[path]
    state.remember_artifact(path, expected.order)  # decided: its event may come again, and is not to be counted twice
    state.counts["refused_events"] += expected.counts
    name = f"{path!r:.200}"
    state.note_problem(str(error) if name in str(error) else f"artifact {name}: {error}")
    log.error("artifact not stored run=%s path=%.200r error=%r", state.run_id, path, str(error))
