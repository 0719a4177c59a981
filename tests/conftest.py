"""Fixtures for every test: a place of its own for whatever logs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import spooled

CI_SEED = 20261123  # what a change broke, not what a new seed found: those are hunted by `make crash`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side (`make test`), crash tests stay behind each other: they count on some of a core."""
    for item in items:
        if "crash" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("crash"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[spooled.Place]:
    """A spool, a store and a ring folder of this test's own."""
    made = spooled.make_place(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed, printed where a test fails; set TEST_SEED to repeat one. In CI always the same one."""
    import os

    fresh = CI_SEED if "CI" in os.environ else random.SystemRandom().randrange(1 << 31)
    chosen = int(os.environ.get("TEST_SEED") or fresh)
    print(f"seed {chosen}: TEST_SEED={chosen} pytest {request.node.nodeid!r}")
    return chosen
