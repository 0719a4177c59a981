"""Blocking work of the event loop: in a thread that yields the disk to everyone else, and never left half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trainspool_agent.store.idleio import use_idle_priority

T = TypeVar("T")

_idle = ThreadPoolExecutor(1, "trainspool-artifacts", initializer=use_idle_priority)


async def in_idle_thread(function: Callable[..., T], /, *arguments: Any) -> T:
    """Call *function* in the one thread that yields the disk to everyone else."""
    return await asyncio.get_running_loop().run_in_executor(_idle, function, *arguments)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await what a thread does. Cancelled meanwhile, let it end first: it uses files that are closed then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # said by nobody: whoever comes next meets it, too
        raise
