"""`trainspool tail`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trainspool_agent.cli import show
from trainspool_agent.cli.status import DEFAULT_STORE
from trainspool_agent.look import facts as eventfacts
from trainspool_agent.look import findrun
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.frames import Trouble
from trainspool_agent.look.reading import Found, Wanted
from trainspool_agent.look.tailing import Tail


@click.command()
@click.argument("what", required=False, metavar="[RUN|STREAM]")
@click.option("-n", "count", type=click.IntRange(0), default=10, show_default=True, help="Events to begin with.")
@show.spool_option
@show.store_option
@show.failing_kindly
def tail(what: str | None, count: int, spool: Path | None, store: Path | None) -> None:
    """Follow what is being logged, to the last event in a live ring; Ctrl-C leaves.

    All live streams, or those of a RUN (id, the beginning of one, name), or one STREAM. Lines for a person on a
    terminal, JSON lines otherwise.

    \b
    Example: trainspool tail my-run
    """
    settings = show.settings_of(spool, store)
    spools = inspect_spool.spools_in_use(spool.absolute() if spool else None, settings.spool)
    followed = Tail(spools, Wanted())
    if what is not None:
        followed = _meant(what, spools, (settings.store or DEFAULT_STORE).absolute())
    try:
        _print(followed.last(count), followed.run_names)
        for found in followed.follow():
            _print(found, followed.run_names)
    except KeyboardInterrupt:
        sys.exit(0)


def _meant(what: str, spools: list[Path], store: Path) -> Tail:
    streams = [seen for spool in spools for seen in inspect_spool.seen_streams(spool)]
    named = frozenset(seen.name for seen in inspect_spool.matching(streams, what))
    if named:
        return Tail(spools, Wanted(), only=named)
    run_id = findrun.find_run(what, [store], streams).run_id
    holding = (seen.name for seen in streams if any(run.run_id == run_id for run in findrun.runs_in(seen)))
    return Tail(spools, Wanted(run_id), also=frozenset(holding))


def _print(found: list[Found], names: dict[str, str]) -> None:
    person = show.for_a_person()
    for one in found:
        if isinstance(one, Trouble):
            click.echo(f"trainspool: {one.text}", err=True)
            continue
        run_id = str(one.get("run", ""))
        if one["kind"] == "start" and one.get("name"):
            names[run_id] = str(one["name"])
        click.echo(eventfacts.readable(one, names.get(run_id, run_id[:8])) if person else eventfacts.as_json(one))
    sys.stdout.flush()
