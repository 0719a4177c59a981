"""`trainspool cat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from trainspool.spool import layout
from trainspool_agent.cli import show
from trainspool_agent.look import facts as eventfacts
from trainspool_agent.look import reading
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.frames import Trouble


@click.command()
@click.argument("what", metavar="STREAM|SEGMENT|FOLDER")
@click.option("--run", "run_id", help="Events of this run alone: its id, or the beginning of it.")
@click.option("--after", type=int, default=-1, metavar="OFFSET", help="Events behind this offset alone.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(eventfacts.KINDS),
    help="This kind alone; may be given again. Definitions are shown when asked for.",
)
@show.spool_option
@show.failing_kindly
def cat(what: str, run_id: str | None, after: int, kinds: tuple[str, ...], spool: Path | None) -> None:
    """Print events as JSON lines, names resolved, floats exact; NaN and infinities are strings.

    STREAM is the beginning of a stream's id; SEGMENT a file; FOLDER a stream's folder or a spool. What a live stream
    of this host has in its ring alone is there too. Exit status 1 if something could not be read.

    \b
    Example: trainspool cat 3f2a --kind point | jq .value
    """
    wanted = reading.Wanted(run_id, after, frozenset(kinds))
    troubles = 0
    for source in _sources(what, spool):
        for found in source.facts(wanted):
            if isinstance(found, Trouble):
                troubles += 1
                click.echo(f"trainspool: {found.text}", err=True)
            else:
                click.echo(eventfacts.as_json(found))
    sys.exit(1 if troubles else 0)


def _sources(what: str, spool: Path | None) -> Iterator[reading.Source]:
    path = Path(what)
    if path.is_file():
        yield reading.SegmentSource(path)
    elif (path / layout.STREAMS).is_dir():
        yield from map(reading.StreamSource.of, inspect_spool.seen_streams(path.absolute()))
    elif path.is_dir():
        yield reading.StreamSource.at(path.absolute())
    else:
        root = show.settings_of(spool).spool
        found = inspect_spool.matching(inspect_spool.seen_streams(root), what)
        if len(found) != 1:
            names = ", ".join(seen.name for seen in found[:5])
            about = (
                f"several streams begin with {what}: {names}" if found else f"no stream begins with {what} in {root}"
            )
            raise click.ClickException(f"{about}. Next: trainspool ls, or name a file or folder")
        yield reading.StreamSource.of(found[0])
