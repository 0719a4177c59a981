"""Fixtures for every test: a place of its own for whatever logs."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import spooled

CI_SEED = 20261123  # what a change broke, not what a new seed found: those are hunted by `make crash`


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have tests that run side by side (`make test`) shared out by file: what a file's tests share is made once.

    Crash tests stay behind each other: they count on some of a core. Not by xdist's groups: pytest 9.2 and xdist 3.8
    know nothing of them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "crash" if nodeid.startswith("tests/crash/") else nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def temporary_files() -> Iterator[None]:
    """What killed processes leave in the system's temporary folder is gone with the tests."""
    # Not below pytest's own: Ray puts a socket there, whose path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", folder)
            patch.setattr(tempfile, "tempdir", folder)
            yield


@pytest.fixture
def place(tmp_path: Path) -> Iterator[spooled.Place]:
    """A spool, a store and a ring folder of this test's own."""
    made = spooled.make_place(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed, printed where a test fails; set TEST_SEED to repeat one. In CI always the same one."""
    fresh = CI_SEED if "CI" in os.environ else random.SystemRandom().randrange(1 << 31)
    chosen = int(os.environ.get("TEST_SEED") or fresh)
    print(f"seed {chosen}: TEST_SEED={chosen} pytest {request.node.nodeid!r}")
    return chosen
