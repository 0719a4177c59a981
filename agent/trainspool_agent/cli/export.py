"""`trainspool export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trainspool_agent.cli import show
from trainspool_agent.cli.status import DEFAULT_STORE
from trainspool_agent.cli.stopping import tidily
from trainspool_agent.export import Report, export

FILES_SHOWN = 5


@click.group("export")
def export_command() -> None:
    """Hand a store over to something else.

    \b
    Example: trainspool export mlflow-db sqlite:///mlflow.db
    """


@export_command.command("mlflow-db")
@click.argument("target", metavar="sqlite:///FILE")
@show.store_option
@show.json_option
@show.failing_kindly
@tidily
def mlflow_db(target: str, store: Path | None, as_json: bool) -> None:
    """Make an MLflow database of a store, by MLflow's own migration (3.10 or later), and count what arrived.

    The file appears only when all of the store was counted in it: experiments, runs, points, params, tags, datasets,
    inputs, traces, assessments, logged and registered models. What MLflow would skip or refuse is named instead. Lines
    of a metric that say the same twice (MLflow's log_model leaves such) are one point in a database. Artifacts stay
    where they are: the database has their addresses. The store is only read.

    \b
    Example: trainspool export mlflow-db sqlite:///mlflow.db --store ./mlruns
    """
    settings = show.settings_of(None, store)
    report = export((settings.store or DEFAULT_STORE).absolute(), target)
    if as_json:
        show.print_json(asdict(report))
        return
    _say(report)
    click.echo(f"See it: mlflow ui --backend-store-uri {target}")


def _say(report: Report) -> None:
    counts = ", ".join(
        f"{count:,} {'points' if name == 'metrics' else name.replace('_', ' ')}"
        for name, count in report.counts.items()
        if count
    )
    click.echo(f"{show.plain(report.database)}: {counts}; as many as in the store")
    if report.repeats:
        click.echo(
            f"{report.repeats:,} metric lines say what another says, and are one point there; in each file first:"
        )
        for file in report.repeated[:FILES_SHOWN]:
            click.echo(f"  {show.plain(file)}")
