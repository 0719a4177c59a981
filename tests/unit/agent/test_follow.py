"""Which store a recorded one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainspool_agent.follow import find_root
from trainspool_agent.store.errors import StoreRefused


def test_a_recorded_store_is_itself_where_it_can_be_seen_or_made(tmp_path: Path) -> None:
    assert find_root(str(tmp_path), None) == tmp_path
    assert find_root(f"file://{tmp_path}/new/mlruns", None) == tmp_path / "new" / "mlruns"


@pytest.mark.parametrize("recorded", ["http://mlflow:5000", "relative/mlruns", "/nowhere/mlruns", "sqlite:///x.db", ""])
def test_any_other_is_refused_with_the_setting_to_use(recorded: str) -> None:
    with pytest.raises(StoreRefused, match="--store DIR"):
        find_root(recorded, None)


def test_the_agent_s_own_store_takes_what_would_be_refused(tmp_path: Path) -> None:
    assert find_root("/nowhere/mlruns", tmp_path) == tmp_path
