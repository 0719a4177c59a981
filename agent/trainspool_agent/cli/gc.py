"""`trainspool gc`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from trainspool.spool import layout
from trainspool_agent import retention
from trainspool_agent.cli import show
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.retention import Report
from trainspool_agent.settings import BadSetting, load


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@click.option("--days", help="Keep what the store has for so many days [TRAINSPOOL_RETENTION_DAYS, else 7].")
@click.option("--bytes", "size", help="And no more of it than this [TRAINSPOOL_RETENTION_BYTES, else 5 GiB].")
@show.spool_option
@show.store_option
@show.json_option
@show.failing_kindly
def gc(
    dry_run: bool, days: str | None, size: str | None, spool: Path | None, store: Path | None, as_json: bool
) -> None:
    """Apply retention now: delete what the store has for good, by age and size, oldest first.

    What is not in the store for good stays, whatever its age; so does the last segment of whatever lives, damage, and
    what other hosts wrote. An agent may run meanwhile. Exit status 1: something could not be looked at or deleted.

    \b
    Example: trainspool gc --dry-run
    """
    try:
        settings = load(spool=spool, store=store, retention_days=days, retention_bytes=size)
    except BadSetting as error:
        raise click.UsageError(str(error)) from error
    spools = inspect_spool.spools_in_use(spool.absolute() if spool else None, settings.spool)
    host = layout.host_name()
    found = {
        str(one): retention.sweep(one, host, settings.retention, elsewhere=store and store.absolute(), dry_run=dry_run)
        for one in spools
    }
    if as_json:
        reports = [_facts(where, report) for where, report in found.items()]
        show.print_json({"dry_run": dry_run, "host": host, "spools": reports})
    else:
        for where, report in found.items():
            _print(where, report, dry_run)
    sys.exit(1 if any(report is None or report.problems for report in found.values()) else 0)


def _facts(where: str, report: Report | None) -> dict[str, Any]:
    if report is None:
        return {"spool": where, "busy": True}
    facts = asdict(report)
    for name in ("usage", "left", "quota"):
        facts[name] = getattr(report, name)._asdict()
    return {**facts, "freed_bytes": report.freed_bytes}


def _print(where: str, report: Report | None, dry_run: bool) -> None:
    if report is None:
        click.echo(f"{where}: another pass is at it. Next: the same again in a moment")
        return
    streams = len({one.stream for one in report.freed})
    done = "would free" if dry_run else "freed"
    of = f", {len(report.freed)} segments of {streams} streams" if report.freed else ""
    click.echo(f"{where}: {done} {show.size(report.freed_bytes)} of {show.size(report.usage.bytes)}{of}")
    for why, count in Counter(one.why for one in report.freed).most_common():
        freed = sum(one.bytes for one in report.freed if one.why == why)
        click.echo(f"  {done} {show.size(freed)} in {count} segments: {why}")
    for kept in report.kept:
        click.echo(f"  kept {show.size(kept.bytes)} in {kept.segments} segments of {kept.stream[:8]}: {kept.why}")
    if report.left_excess:
        click.echo(f"  {report.left_excess}. Next: trainspool status, or a larger TRAINSPOOL_SPOOL_QUOTA")
    for problem in report.problems:
        click.echo(f"  {problem}", err=True)
