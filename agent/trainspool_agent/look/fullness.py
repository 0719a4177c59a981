"""How full each spool is, for `trainspool status`: measured now, with what the agent said of its retention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainspool.spool import layout, quota
from trainspool_agent import retention
from trainspool_agent.settings import Retention


def usage_facts(spool: Path, rules: Retention, said: dict[str, Any]) -> dict[str, Any]:
    """Return what this host has in *spool* and may have, as a JSON object.

    Args:
        said: what the agent's health says of its retention, by spool.
    """
    host = layout.host_name()
    usage, allowed = retention.measured(spool, host, rules)
    told = said.get(str(spool)) or {}
    return {
        "spool": str(spool),
        "bytes": usage.bytes,
        "files": usage.files,
        "quota_bytes": allowed.bytes,
        "quota_files": allowed.files,
        "excess": allowed.excess(usage),
        "no_space": quota.free_space_refusal(str(spool)),
        "freed_segments": told.get("freed_segments", 0),
        "freed_bytes": told.get("freed_bytes", 0),
        "given_up_early": bool(told.get("over_quota")),
    }


def usage_problems(fact: dict[str, Any]) -> list[dict[str, str]]:
    """Return what a person should know of a full spool, and do about it."""
    found = []
    if fact["excess"]:
        what = (
            f"{fact['excess']}, and nothing in it that the stores have for good is left to delete: "
            "programs keep what they log in memory, then drop it and count"
        )
        step = "mend what keeps the store from taking it (trainspool gc says what), or raise TRAINSPOOL_SPOOL_QUOTA"
        found.append({"where": fact["spool"], "what": what, "next_step": step})
    if fact["no_space"]:
        what = f"{fact['no_space']}: programs keep what they log in memory, then drop it and count"
        found.append({"where": fact["spool"], "what": what, "next_step": "make room on that file system"})
    return found
