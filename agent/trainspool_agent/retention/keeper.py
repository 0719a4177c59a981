"""The agent's housekeeping: retention at its start and every hour, the quota all the time.

Everything that looks at the disk runs in a thread: a full or slow one must not hold up the streams.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainspool.errors import TrainspoolError
from trainspool.spool import layout, quota
from trainspool_agent import retention
from trainspool_agent.health import Health
from trainspool_agent.retention import Report
from trainspool_agent.settings import Settings

FIRST_S = 2.0  # the streams come first
SWEEP_INTERVAL_S = 3600.0
LOOK_INTERVAL_S, LOOK_INTERVAL_S_MAX = 10.0, 60.0  # writers take what we measured for true three minutes long
LOOK_SHARE = 0.005  # of a core, for measuring
OVER_INTERVAL_S = 60.0  # between two sweeps while a spool is over its quota

log = logging.getLogger("trainspool.agent")


class Keeper:
    """Keeps an agent's spools within their bounds, and says in its health what it did. For the agent's loop."""

    def __init__(self, settings: Settings, health: Health, spools: Callable[[], list[Path]]) -> None:
        self._settings, self._health, self._spools = settings, health, spools
        self._host = layout.host_name()
        self._sweep_due: dict[Path, float] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Look after the spools until cancelled."""
        pause_s = FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            begun = time.monotonic()
            for spool in list(self._spools()):
                try:
                    await asyncio.to_thread(self._look_after, spool)
                    self._health.clear(f"retention of {spool}")
                except (OSError, TrainspoolError) as error:
                    self._health.note(f"retention of {spool}", error)
            self._health.agent["retention"] = dict(self._facts)
            took_s = time.monotonic() - begun
            pause_s = min(max(LOOK_INTERVAL_S, took_s / LOOK_SHARE), LOOK_INTERVAL_S_MAX)

    def _look_after(self, spool: Path) -> None:
        host_folder = spool / layout.STREAMS / self._host
        if not host_folder.is_dir():
            return
        rules, now = self._settings.retention, time.monotonic()
        usage, allowed = retention.measured(spool, self._host, rules)
        excess = allowed.excess(usage)
        due = self._sweep_due.get(spool, 0.0)
        if now >= due or (excess and now >= due - SWEEP_INTERVAL_S + OVER_INTERVAL_S):
            self._sweep_due[spool] = now + SWEEP_INTERVAL_S
            report = retention.sweep(spool, self._host, rules, elsewhere=self._settings.store)
            if report is not None:
                usage, excess = report.left, report.left_excess
                self._note(spool, report)
        quota.announce(str(host_folder), usage, allowed, excess)
        facts = self._facts.setdefault(str(spool), {"freed_segments": 0, "freed_bytes": 0})
        facts.update(usage._asdict(), quota_bytes=allowed.bytes, quota_files=allowed.files, excess=excess)

    def _note(self, spool: Path, report: Report) -> None:
        facts = self._facts.setdefault(str(spool), {"freed_segments": 0, "freed_bytes": 0})
        facts["freed_segments"] += len(report.freed)
        facts["freed_bytes"] += report.freed_bytes
        facts["swept"] = time.time_ns()
        facts["over_quota"] = report.excess
        facts["kept"] = [asdict(one) for one in report.kept if one.needed][:100]
        if report.freed:
            log.info("retention spool=%s segments=%d bytes=%d", spool, len(report.freed), report.freed_bytes)
        for problem in report.problems:
            log.warning("retention spool=%s problem=%r", spool, problem)
