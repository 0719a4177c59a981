"""Bring runs to the device, then say so in their durable checkpoints."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from trainspool_agent import checkpoint
from trainspool_agent.store import distrust, runs
from trainspool_agent.store.accounttag import write_account
from trainspool_agent.store.errors import RunHeld
from trainspool_agent.store.files import sync_all
from trainspool_agent.store.giveway import give_way
from trainspool_agent.store.holding import Holding
from trainspool_agent.store.limits import DURABLE_INTERVAL_S
from trainspool_agent.store.memory import RunMemory
from trainspool_agent.store.state import RunState


class _Due(NamedTuple):
    """A run as it was before the sync began: all lengths in its checkpoint are of bytes written by then."""

    state: RunState
    serial: int
    folder: str
    checkpoint: bytes
    unsynced: set[str] | None


class Durability:
    """One store's; part of a FileStore and used like it.

    Args:
        root: the store's folder.
        spool_is_ours: staged files may be replaced by links to equal ones in the store.
    """

    def __init__(self, root: str, boot_id: str, memory: RunMemory, holding: Holding, *, spool_is_ours: bool) -> None:
        self._root, self._boot_id, self._memory, self._holding = root, boot_id, memory, holding
        self._spool_is_ours = spool_is_ours
        self._making: asyncio.Task[None] | None = None

    async def make(self, *, every: bool) -> None:
        """See ``FileStore.make_durable``."""
        self._making = asyncio.create_task(self._make(self._making, every=every))
        await asyncio.shield(self._making)

    async def rest(self) -> None:
        """Return when no ``make`` is under way."""
        if self._making is not None and not self._making.done():
            await asyncio.wait([self._making])

    async def _make(self, before: asyncio.Task[None] | None, *, every: bool) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        failed = None
        due: list[_Due] = []
        for run_id in list(self._memory.undurable):
            state = self._state_if_due(run_id, every=every)
            if state is not None:
                async with state.lock:  # a batch that came in between would be half in it
                    try:
                        due.append(await self._prepare(state))
                    except OSError as error:
                        failed = error
        if due:
            await self._sync(due)
        self._holding.hand_over()
        if failed is not None:
            raise failed

    def _state_if_due(self, run_id: str, *, every: bool) -> RunState | None:
        asked = self._holding.is_asked(run_id)
        try:
            state = self._memory.get(run_id) if asked else self._holding.take(run_id, wish=False)
        except RunHeld:
            return None
        if state.experiment is None or state.gone:
            self._memory.undurable.pop(run_id, None)
            return None
        due = every or asked or state.ended or time.monotonic() - state.durable_at >= DURABLE_INTERVAL_S
        return state if due and not state.lock.locked() else None

    async def _prepare(self, state: RunState) -> _Due:
        """Write what is owed to the run's files, then take its checkpoint; its lock is held."""
        if state.suspect:
            self._memory.close_files(state)
            await asyncio.to_thread(distrust.write_again, state)
        await runs.publish_wanted(state)
        write_account(state)
        due = _Due(state, state.serial, state.folder, state.encode(self._boot_id), state.unsynced)
        state.unsynced, state.durable_at = set(), time.monotonic()
        return due

    async def _sync(self, due: Sequence[_Due]) -> None:
        try:
            await asyncio.to_thread(_sync_and_write, self._root, due)
        except BaseException:
            for one in due:
                one.state.unsynced, one.state.durable_at, one.state.suspect = None, float("-inf"), True
            raise
        for one in due:
            one.state.durable_serial = one.serial
            if one.state.serial == one.serial:
                self._memory.undurable.pop(one.state.run_id, None)
                await self._give_way(one.state)

    async def _give_way(self, state: RunState) -> None:
        """All that is held of the run is durable: where the spool is crowded, it need not have copies of that."""
        if not self._spool_is_ours or not any(held.copy_of for held in state.held.values()):
            return
        for path in await asyncio.to_thread(give_way, dict(state.held)):
            state.held[path] = state.held[path]._replace(copy_of="")


def _sync_and_write(root: str, due: Sequence[_Due]) -> None:
    """Sync everything that these checkpoints name, then write them. Runs in a thread."""
    paths = [one.unsynced for one in due]
    known = None if None in paths else [path for some in paths for path in some or ()]
    sync_all(known, root)
    for one in due:
        if os.path.isdir(one.folder):
            checkpoint.write_durable(one.folder, one.checkpoint)
