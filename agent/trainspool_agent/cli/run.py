"""`trainspool run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from trainspool.errors import TrainspoolException
from trainspool_agent import wrapped
from trainspool_agent.cli import show


@click.command(context_settings={"allow_interspersed_args": False})  # behind the command's name, all is the command's
@click.option("-e", "--experiment", help="The run's experiment [TRAINSPOOL_EXPERIMENT, else Default].")
@click.option("-n", "--name", help="The run's name [TRAINSPOOL_RUN_NAME, else made up].")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag; may be given again.")
@show.store_option
@show.spool_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(
    experiment: str | None,
    name: str | None,
    tags: tuple[str, ...],
    store: Path | None,
    spool: Path | None,
    command: tuple[str, ...],
) -> None:
    """Run a command as a tracked run: what it logs with trainspool, at any depth, goes to that run.

    Its input, output, signals and exit status are its own. At the end the run is FINISHED, FAILED or KILLED as the
    command was; then we wait for the store, 10 s at most [TRAINSPOOL_EXIT_WAIT], and say where the run is.

    \b
    Example: trainspool run -e mnist -n first --tag gpu=a100 -- python train.py --lr 0.1
    """
    for variable, value in (("TRAINSPOOL_STORE", store), ("TRAINSPOOL_DIR", spool)):
        if value is not None:
            os.environ[variable] = str(value.absolute())  # before the SDK reads its settings, at its first use
    pairs = [tag.partition("=") for tag in tags]
    if any(not key or not sign for key, sign, _ in pairs):
        raise click.UsageError("--tag takes KEY=VALUE")
    wish = wrapped.Wish(experiment, name, {key: value for key, _, value in pairs})
    try:
        sys.exit(wrapped.run(command, wish, _complain))
    except TrainspoolException as error:
        raise click.UsageError(str(error)) from error
    except wrapped.CannotStart as error:
        _complain(f"cannot run {command[0]}: {error}")
        sys.exit(error.status)


def _complain(text: str) -> None:
    click.echo(f"trainspool: {text}", err=True)
