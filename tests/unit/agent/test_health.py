"""health.json says what the agent knows, whatever names the world has."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainspool_agent import health
from trainspool_agent.health import Health, StreamFacts


@pytest.mark.parametrize("program", ["train.py", "größer.py", "not utf-8: \udc80\udcff"])
def test_what_is_written_is_read(tmp_path: Path, program: str) -> None:
    told, facts = Health(tmp_path), StreamFacts("5" * 32, "/spool", "host")
    facts.program, facts.unknown_kinds, facts.dropped = program, {77: 2}, {"a" * 32: [1, 0]}
    told.streams[facts.stream] = facts
    told.write(force=True)
    found = health.read(tmp_path)
    assert found is not None and found["pid"] == told.agent["pid"]
    assert found["streams"] == [{**vars(facts), "unknown_kinds": {"77": 2}}]
