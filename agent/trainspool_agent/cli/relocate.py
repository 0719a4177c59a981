"""`trainspool relocate`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from trainspool_agent.cli import show
from trainspool_agent.relocate import relocate

SHOWN = 10


@click.command("relocate")
@click.argument("store", type=show.FOLDER)
@click.option("--dry-run", is_flag=True, help="Say what would be mended; change nothing.")
@show.json_option
@show.failing_kindly
def relocate_command(store: Path, dry_run: bool, as_json: bool) -> None:
    """Mend the artifact addresses of a STORE that was copied or moved, so that MLflow finds its files again.

    MLflow keeps them as absolute paths: after an rsync metrics still show, but artifact lists are empty. Addresses that
    lie outside the store (S3, a server's, a folder of your own) stay, and are named. Exit status 1: some could not be
    read.

    \b
    Example: rsync -a cluster:project/mlruns . && trainspool relocate mlruns
    """
    report = relocate(store, dry_run=dry_run)
    unreadable = [one for one in report.left if not one.address]
    if as_json:
        facts = asdict(report)
        for name in ("mended", "left"):
            facts[name] = [one._asdict() for one in getattr(report, name)]
        show.print_json({"dry_run": dry_run, **facts})
    else:
        done = "would be mended" if dry_run else "mended"
        click.echo(f"{report.store}: {len(report.mended)} addresses {done}, {report.right} were right")
        for mended in report.mended[:SHOWN]:
            click.echo(f"  {show.plain(mended.before)} -> {show.plain(mended.after)}")
        if len(report.mended) > SHOWN:
            click.echo(f"  and {len(report.mended) - SHOWN} more (--json has all)")
        for left in report.left:
            click.echo(f"  left {show.plain(left.address or left.file)}: {show.plain(left.why)}", err=not left.address)
    sys.exit(1 if unreadable else 0)
