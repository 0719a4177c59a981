"""`trainspool sync`."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import click

from trainspool_agent.settings import BadSetting, Settings, load
from trainspool_agent.sync import Others, Progress, Report
from trainspool_agent.sync import sync as carry_over


@click.command()
@click.argument("spools", nargs=-1, metavar="[SPOOL]...", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--spool", type=click.Path(path_type=Path), help="The spool, if none is named as an argument.")
@click.option(
    "--store", type=click.Path(path_type=Path), help="Where runs go whose recorded store cannot be seen here."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sync(spools: tuple[Path, ...], spool: Path | None, store: Path | None, as_json: bool) -> None:
    """Carry everything spooled into its store, runs of dead processes included, then leave.

    Where an agent runs, wait until it has done so. Exit status 0: all is carried; 1: something could not be,
    or it was told to stop before.

    On a spool that several hosts share, this carries the streams of other hosts too, up to now, where no agent of their
    own does; call it as often as you like, from a login node, say. It writes nothing into their streams: what is in a
    host's memory alone stays there, and a run whose process died is RUNNING until that host's agent, or sync there,
    ends it. Where an agent left its runs without a word, this waits up to 45 s to be sure that it is gone.

    \b
    Example: trainspool sync
    """
    absolute = tuple(path.absolute() for path in spools)
    try:
        settings = load(spool=absolute[0] if absolute else spool, store=store)
    except BadSetting as error:
        raise click.UsageError(str(error)) from error
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong is in the report
    try:
        if as_json or not sys.stderr.isatty():
            report = carry_over(settings, absolute[1:], lambda _: None)
        else:
            report = _with_progress_bar(settings, absolute[1:])
    except OSError as error:
        click.echo(f"cannot sync: {error}. Next: trainspool doctor", err=True)
        sys.exit(1)
    click.echo(json.dumps(asdict(report)) if as_json else _summary(report))
    sys.exit(1 if report.problems or report.stopped else 0)


def _with_progress_bar(settings: Settings, spools: tuple[Path, ...]) -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    points_column = TextColumn("{task.fields[points]}")
    columns = TextColumn("carrying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), points_column
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sync", total=None, points="")

        def show(progress: Progress) -> None:
            counts = (progress.points, "points"), (progress.artifacts, "artifacts to go")
            points = ", ".join(f"{count:,} {what}" for count, what in counts if count)
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes or None, points=points)

        return carry_over(settings, spools, show)


def _summary(report: Report) -> str:
    lines = [_what_was_done(report)]
    if report.live:
        lines.append(f"{_count(report.live, 'stream')} still being written: carried up to now.")
    lines += _about_others(report.others)
    if report.stopped:
        lines.append("stopped before the end; call it again for the rest.")
    for problem in report.problems:
        lines.append(f"not carried: {problem.where}: {problem.what}\n  next: {problem.next_step}")
    return "\n".join(lines)


def _about_others(others: Others) -> list[str]:
    lines = []
    if others.streams:
        carried = f"{_count(others.streams, 'stream')}, {others.bytes / 1e6:.1f} MB, {others.points:,} points"
        lines.append(f"of other hosts ({_names(others.hosts)}): {carried}, carried up to now.")
    if others.unread:
        many = _count(others.unread, "stream")
        lines.append(f"{many} of other hosts end in something that cannot be read yet: half written, or damaged.")
    if others.left:
        lines.append(f"{_count(others.left, 'stream')} of other hosts left to the agents there.")
    return lines


def _names(hosts: list[str]) -> str:
    return ", ".join(hosts if len(hosts) <= 5 else [*hosts[:4], f"and {len(hosts) - 4} more"])


def _what_was_done(report: Report) -> str:
    if not report.streams:
        return "nothing to carry: everything spooled on this host is in its store."
    size = f"{report.bytes / 1e6:.1f} MB"
    if report.by_agent is not None:
        return f"the agent (pid {report.by_agent}) carried {_count(report.streams, 'stream')}, {size}."
    rate = report.points / max(report.seconds, 1e-3)
    artifacts = f" and {_count(report.artifacts, 'artifact')} of {report.artifact_bytes / 1e6:.1f} MB"
    carried = f"carried {_count(report.streams, 'stream')}, {size}, {report.points:,} points"
    return f"{carried}{artifacts if report.artifacts else ''} in {report.seconds:.1f} s ({rate:,.0f} points/s)."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
