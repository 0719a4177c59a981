"""`trainspool daemon`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click

from trainspool_agent.agentlock import AgentRunning
from trainspool_agent.settings import LOG_LEVELS, BadSetting, load

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@click.command()
@click.option("--spool", type=click.Path(path_type=Path), help="Spool to carry, beside those found by their rings.")
@click.option(
    "--store", type=click.Path(path_type=Path), help="Where runs go whose recorded store cannot be seen here."
)
@click.option(
    "--idle-exit", type=float, metavar="S", help="Leave after S seconds without a living or unfinished stream."
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Least severe kind of line to log (info).")
def daemon(spool: Path | None, store: Path | None, idle_exit: float | None, log_level: str | None) -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C.

    One agent per user and host: a second one says who runs, and leaves.

    \b
    Example: trainspool daemon --idle-exit 60
    """
    try:
        settings = load(spool=spool, store=store, idle_exit=idle_exit, log_level=log_level)
    except BadSetting as error:
        raise click.UsageError(str(error)) from error
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change
    from trainspool_agent.daemon import Agent, born_meanwhile

    try:
        while True:
            agent = Agent(settings)
            asyncio.run(agent.run())
            if not agent.left_idle or not born_meanwhile(agent):
                return
    except AgentRunning as error:
        click.echo(str(error), err=True)
        # Started by an SDK that lost the race against another: all is well.
        sys.exit(0 if settings.idle_exit_s is not None else 1)
    except OSError as error:
        click.echo(f"the agent cannot run: {error}. Next: trainspool doctor", err=True)
        sys.exit(1)
