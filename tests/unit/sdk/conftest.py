"""A stream of the test's own inside the test process, and all of it let go of afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import spooled

import trainspool as mlflow
from trainspool import active, destination, leaving, settings, source
from trainspool.stream import stream


def let_go() -> None:
    """Be as a process that has not logged yet."""
    pump = stream.pump
    if pump is not None:
        pump.finish(2.0)
        spooled.until(lambda: pump._syncer is None or pump._syncer.idle)  # else it works into the next test
        for ring in pump.rings:
            ring.unlink()
        pump.close_after_fork()
    stream.generation += 1
    stream._reset()
    stream.settings = stream._store = None
    for remembered in (active._process, active._open, active._last, active._stack_of):
        remembered.clear()
    active._thread.stack = active._Stack()
    destination.chosen.clear()
    destination._used_ids.clear()
    destination.names_by_id.clear()
    leaving._uncaught.clear()
    source.user.cache_clear()


@pytest.fixture
def here(place: spooled.Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[spooled.Place]:
    """This process logs into *place*."""
    for name in ("EXPERIMENT", "RUN_ID", "RUN_NAME", "RING_BYTES", "DISABLED", "HOST"):
        monkeypatch.setenv(f"TRAINSPOOL_{name}", "")
        monkeypatch.delenv(f"TRAINSPOOL_{name}")
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_RUN_CONTEXT", *settings.OF_MLFLOW):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    let_go()
    yield place
    let_go()
    for name in [name for name in os.environ if name.startswith("TRAINSPOOL_")]:
        del os.environ[name]


@pytest.fixture
def seen(here: spooled.Place) -> spooled.Seen:
    """What the stream holds now."""

    def look() -> spooled.Held:
        assert mlflow.flush(timeout=20)
        return here.stream()

    return look
