"""`trainspool replay`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from trainspool_agent.cli import show
from trainspool_agent.replay import Progress, Report, preview
from trainspool_agent.replay import replay as replay_into
from trainspool_agent.replay.survey import FoundRun, Wanted

Result = TypeVar("Result")
TIMES = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])


@click.command()
@click.argument(
    "spools", nargs=-1, required=True, metavar="SPOOL...", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--to", "store", required=True, type=show.FOLDER, help="The store; made if it is not there.")
@click.option("--run", "runs", multiple=True, metavar="ID", help="This run alone: its id, or the beginning of it.")
@click.option("--experiment", "experiments", multiple=True, metavar="NAME", help="Runs of this experiment alone.")
@click.option("--since", type=TIMES, metavar="TIME", help="Runs alone that began then or later, in local time.")
@click.option("--until", type=TIMES, metavar="TIME", help="Runs alone that began before.")
@click.option("--again", is_flag=True, help="Look at every point, whatever the store says it has; add what is gone.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@show.json_option
@show.failing_kindly
def replay(
    spools: tuple[Path, ...],
    store: Path,
    runs: tuple[str, ...],
    experiments: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build a store again, or another one, from spools, copies of spools or single streams.

    Whatever the store has already is not written twice: repeat it in any order, any number of times. The spools are
    only read. --run, --experiment and --since may be given together; runs are always taken whole.
    Exit status 1: something could not be replayed; what could, is in the store.

    \b
    Example: trainspool replay /backup/spool --to ./mlruns --experiment mnist
    """
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong is in the report
    wanted = Wanted(tuple(runs), tuple(experiments), _ns(since), _ns(until))
    quiet = as_json or not sys.stderr.isatty()
    action = preview if dry_run else replay_into
    with_bar: Any = _without_bar if quiet else _with_progress_bar
    outcome = with_bar(lambda progress: action(list(spools), store, wanted, again=again, progress=progress))
    if isinstance(outcome, Report):
        _print_report(outcome, as_json)
        sys.exit(1 if outcome.problems else 0)
    _print_preview(outcome, store.absolute(), as_json)


def _ns(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1e9)


def _without_bar(action: Callable[[Callable[[Progress], None]], Result]) -> Result:
    return action(lambda _: None)


def _with_progress_bar(action: Callable[[Callable[[Progress], None]], Result]) -> Result:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    points = TextColumn("{task.fields[points]}")
    columns = TextColumn("replaying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Bar(*columns, points, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None, points="")

        def update(progress: Progress) -> None:
            count = f"{progress.points:,} points" if progress.points else ""
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes or None, points=count)

        return action(update)


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        show.print_json({**asdict(report), "ok": not report.problems})
        return
    rate = report.points / max(report.seconds, 1e-3)
    read = f"replayed {_count(report.runs, 'run')} of {_count(report.streams, 'stream')}, {show.size(report.bytes)}"
    click.echo(f"{read}, into {report.store} in {show.seconds(report.seconds)} ({rate:,.0f} points/s).")
    click.echo(f"{report.stored:,} points written, {report.folded:,} were there already.")
    for note in report.notes:
        head = "not replayed" if note.problem else "note"
        click.echo(f"{head}: {note.where}: {note.what}\n  next: {note.next_step}")


def _print_preview(runs: list[FoundRun], store: Path, as_json: bool) -> None:
    if as_json:
        facts = [
            {**asdict(run), "experiments": sorted(run.experiments), "missing": sorted(run.missing)} for run in runs
        ]
        show.print_json({"store": str(store), "dry_run": True, "runs": facts})
        return
    rows = [(run.run_id, _began(run), ", ".join(sorted(run.experiments)), run.points, run.new_points) for run in runs]
    if show.for_a_person():
        headings = "run", "began", "experiment", ">points", ">not there yet"
        show.print_table(headings, [(*row[:3], *map(show.count, row[3:])) for row in rows])
        new, missing = sum(run.new_points for run in runs), sum(len(run.missing) for run in runs)
        show.say(f"{_count(len(runs), 'run')}; {new:,} points would be looked at for {store}. Nothing was written.")
        if missing:
            show.say(f"{_count(missing, 'staged file')} missing: artifacts and tags that cannot be replayed.", "red")
    else:
        show.print_lines(rows)


def _began(run: FoundRun) -> str | None:
    return None if run.began is None else datetime.fromtimestamp(run.began / 1e9).isoformat(" ", "seconds")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
