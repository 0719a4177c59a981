"""`trainspool export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trainspool_agent.cli import show
from trainspool_agent.cli.status import DEFAULT_STORE
from trainspool_agent.export import export


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
def mlflow_db(target: str, store: Path | None, as_json: bool) -> None:
    """Make an MLflow database of a store, by MLflow's own migration (3.10 or later), and count what arrived.

    The file appears only when every run, point, param and tag of the store was counted in it. Artifacts stay where they
    are: the database has their addresses. The store is only read.

    \b
    Example: trainspool export mlflow-db sqlite:///mlflow.db --store ./mlruns
    """
    settings = show.settings_of(None, store)
    report = export((settings.store or DEFAULT_STORE).absolute(), target)
    if as_json:
        show.print_json(asdict(report))
        return
    counts = ", ".join(f"{count:,} {'points' if name == 'metrics' else name}" for name, count in report.counts.items())
    click.echo(f"{report.database}: {counts}; as many as in the store")
    click.echo(f"See it: mlflow ui --backend-store-uri {target}")
