"""Artifacts that are in their place are read once more for their hash, and the same content is stored once.

Source: agent/docs/artifacts.md, "The same content".
"""

from __future__ import annotations

import asyncio
import logging

from trainspool_agent.store import content, threads
from trainspool_agent.store.content import Hashing
from trainspool_agent.store.errors import Refused, StoreRefused
from trainspool_agent.store.memory import RunMemory
from trainspool_agent.store.state import Expected, Held, RunState
from trainspool_agent.store.threads import to_its_end
from trainspool_agent.store.transfer import is_of_this_host

log = logging.getLogger("trainspool.agent")


class Sharing:
    """One store's. For one event loop; a step at a time.

    Args:
        memory: the runs; those with something to hash are among its ``expecting``.
        in_spool_too: the staged file of a content that the store has once gives way to a link to that.
    """

    def __init__(self, memory: RunMemory, *, in_spool_too: bool) -> None:
        self._memory, self._in_spool_too = memory, in_spool_too
        self._hashing: tuple[str, Held, Hashing] | None = None

    async def step(self) -> bool:
        """Read on in a stored artifact for its hash, then have it share its content; whether there was one."""
        if self._hashing is None and not self._begin():
            return False
        assert self._hashing is not None
        run_id, held, hashing = self._hashing
        if hashing.digest is None:
            await to_its_end(threads.in_idle_thread(hashing.step))
        if hashing.digest is not None:
            await self._hashed(run_id, held, hashing)
        return True

    def close(self) -> None:
        """Let go of what is being read; it is read anew."""
        if self._hashing is not None:
            self._hashing[-1].close()
            self._hashing = None

    def _begin(self) -> bool:
        for run_id in list(self._memory.expecting):
            state = self._memory.peek(run_id)
            if state is None:
                self._memory.expecting.pop(run_id)
                continue
            if self._begin_in(state):
                return True
            self._memory.note_what_came(state)
        return False

    def _begin_in(self, state: RunState) -> bool:
        for path in list(state.unhashed):
            try:
                held = state.held[path]
                hashing = Hashing(state.folder, path, held.digest)
            except (OSError, LookupError, Refused):
                del state.unhashed[path]  # someone removed it, or wrote such a path into our checkpoint
                continue
            if not hashing.is_in_vain:
                self._hashing = state.run_id, held, hashing
                return True
            hashing.close()
            del state.unhashed[path]
        return False

    async def _hashed(self, run_id: str, held: Held, hashing: Hashing) -> None:
        self.close()
        shared = await to_its_end(asyncio.to_thread(_share, hashing))
        state = self._memory.peek(run_id)
        if state is None or state.held.get(hashing.path) is not held:
            return  # a later version took its place, whose turn comes
        expected = state.unhashed.pop(hashing.path, None)
        if shared and self._in_spool_too and expected is not None:
            await to_its_end(asyncio.to_thread(_restage, hashing, expected))
        if shared is not None:
            state.held[hashing.path] = held._replace(digest=hashing.digest, shared=shared)
            self._memory.touch(state)
        self._memory.note_what_came(state)


def _share(hashing: Hashing) -> bool | None:
    """Have what was hashed share its content: whether it does; None if it is not the same file any more."""
    if hashing.digest is None or not content.is_as_hashed(hashing.run_folder, hashing.path, hashing.info):
        return None
    experiment, _, run_id = hashing.run_folder.rpartition("/")
    try:
        return content.share(experiment, run_id, hashing.path, hashing.digest)
    except (OSError, StoreRefused) as error:
        log.warning("stored, but not once path=%.200r error=%r", hashing.path, str(error))
        return False


def _restage(hashing: Hashing, expected: Expected) -> None:
    if not is_of_this_host(expected.staging):
        return
    try:
        content.restage(hashing.run_folder, hashing.path, expected.staging, expected.artifact.staged)
    except OSError as error:
        log.debug("staged twice path=%.200r error=%r", hashing.path, str(error))
