"""`trainspool relocate`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from trainspool_agent.cli import show
from trainspool_agent.cli.stopping import tidily
from trainspool_agent.relocate import Report, relocate

SHOWN = 10


@click.command("relocate")
@click.argument("store", type=show.FOLDER)
@click.option("--from", "before", multiple=True, metavar="FOLDER", help="Where the store lay, if nothing else tells.")
@click.option("--dry-run", is_flag=True, help="Say what would be mended; change nothing.")
@show.json_option
@show.failing_kindly
@tidily
def relocate_command(store: Path, before: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Mend the artifact addresses of a STORE that was copied or moved, so that MLflow finds its files again.

    MLflow keeps them as absolute paths: after an rsync metrics still show, but artifact lists are empty.

    An address is mended if it is of this store before it moved: it ends as the store's own folders do, and the files
    are here, or a store still lies where it points (a copy). It stays, and is named, if it is S3's or a server's, or if
    files lie there that are not here: a folder of your own (--default-artifact-root). Where there are no files in
    either place, what the other addresses below the same folder tell decides, else --from.

    Exit status 1: something could not be read or written; it is named, and all the rest is mended.

    \b
    Example: rsync -a cluster:project/mlruns . && trainspool relocate mlruns
    """
    report = relocate(store, before=before, dry_run=dry_run)
    if as_json:
        facts = asdict(report)
        for name in ("mended", "left"):
            facts[name] = [one._asdict() for one in getattr(report, name)]
        show.print_json({"dry_run": dry_run, **facts})
    else:
        _say(report, "would be mended" if dry_run else "mended")
    sys.exit(1 if report.unreadable else 0)


def _say(report: Report, done: str) -> None:
    click.echo(f"{show.plain(report.store)}: {len(report.mended)} addresses {done}, {report.right} were right")
    _list([f"{show.plain(one.before)} -> {show.plain(one.after)}" for one in report.mended])
    _list([f"left {show.plain(one.address)}: {show.plain(one.why)}" for one in report.left if one.address])
    for one in report.unreadable:
        click.echo(f"  left {show.plain(one.file)}: {show.plain(one.why)}", err=True)
    if report.warning:
        click.echo(f"trainspool: {show.plain(report.warning)}", err=True)


def _list(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        click.echo(f"  {line}")
    if len(lines) > SHOWN:
        click.echo(f"  and {len(lines) - SHOWN} more (--json has all)")
