"""trainspool demo."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import click

WAIT_S = 20.0
RUNS_MAX = 6
NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "rich": "rich"}


@click.command()
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where runs land [TRAINSPOOL_STORE, else ./mlruns].",
)
@click.option("--spool", type=click.Path(file_okay=False, path_type=Path), help="The spool folder.")
@click.option("--runs", type=click.IntRange(1, RUNS_MAX), default=5, show_default=True, help="Settings to try.")
@click.option("--steps", type=click.IntRange(1, 100_000), default=600, show_default=True, help="Batches per run.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def demo(store: Path | None, spool: Path | None, runs: int, steps: int, as_json: bool) -> None:
    """Train a small real model on handwritten digits, log it live, and show the result.

    \b
    Example:
      trainspool demo --runs 3 --steps 300
    """
    _require_packages()
    if spool:
        os.environ["TRAINSPOOL_DIR"] = str(spool.absolute())  # before the SDK reads its settings, at its first use
    from rich.console import Console

    from trainspool_agent.demo import show, training

    console = Console(quiet=as_json)
    with show.LiveView(console) as view:
        results = training.train_all(str(store.absolute()) if store else None, runs, steps, view.report)
    with console.status("waiting for the store"):
        caught_up = training.wait(WAIT_S)
    outcome = show.facts(results, str(spool.absolute()) if spool else None, caught_up)
    if as_json:
        click.echo(json.dumps(outcome, ensure_ascii=False))
    else:
        show.print_result(console, outcome)


def _require_packages() -> None:
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise click.ClickException(
            f"the demo trains a real model and needs {', '.join(missing)}. Next: pip install 'trainspool[demo]'"
        )
