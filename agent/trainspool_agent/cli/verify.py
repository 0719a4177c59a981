"""`trainspool verify`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from trainspool.spool import layout
from trainspool_agent import verify
from trainspool_agent.cli import show
from trainspool_agent.discover import Place
from trainspool_agent.look import reading
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.spool import SeenStream
from trainspool_agent.verify import Verdict
from trainspool_agent.verify.findings import Finding
from trainspool_agent.verify.repair import Repaired, repair

BAR_FROM_BYTES = 64 << 20


@click.command("verify")
@click.argument("what", nargs=-1, metavar="[SPOOL|STREAM|SEGMENT]...")
@click.option("--repair", "mend", is_flag=True, help="Set damaged parts aside, write what is sound again.")
@show.spool_option
@show.json_option
@show.failing_kindly
def verify_command(what: tuple[str, ...], mend: bool, spool: Path | None, as_json: bool) -> None:
    """Check every frame, ring, cursor and checkpoint; say what is damaged, what is lost by it and what survives.

    STREAM is a folder or the beginning of a stream's id; SEGMENT a file. Without an argument: every spool in use.
    Nothing is locked and, without --repair, nothing written. --repair never deletes: what it replaces is beside it as
    .damaged. Exit status 0: nothing is wrong, or all of it was repaired; 1: damage.

    \b
    Example: trainspool verify /var/spool/trainspool/1000
    """
    segments = [Path(one) for one in what if Path(one).is_file()]
    if segments and mend:
        raise click.UsageError("--repair works on streams: name the segment's folder")
    streams = list(_streams([one for one in what if not Path(one).is_file()], bool(what), spool))
    verdict = _checked(streams, quiet=as_json)
    for path in segments:
        verdict.streams += verify.verify_segment(path.absolute()).streams
    repaired = repair(verdict, streams) if mend and verdict.damage else []
    left = _left(streams) if any(not one.refused for one in repaired) else verdict.damage
    if as_json:
        show.print_json(_facts(verdict, repaired, left))
    else:
        _print(verdict, repaired)
    sys.exit(1 if left else 0)


def _streams(what: list[str], chosen: bool, spool: Path | None) -> Iterator[SeenStream]:
    if not chosen:
        found = inspect_spool.spools_in_use(spool, show.settings_of(spool).spool)
        yield from verify.streams_of(found)
    for one in what:
        path = Path(one)
        if (path / layout.STREAMS).is_dir():
            yield from verify.streams_of([path.absolute()])
        elif path.is_dir():
            yield _stream_in(path.absolute())
        else:
            yield _stream_named(one, spool)


def _stream_in(folder: Path) -> SeenStream:
    """The stream in a folder, of a spool or copied from one."""
    source = reading.StreamSource.at(folder)
    spool, host = folder.parents[2] if len(folder.parts) > 3 else folder.parent, folder.parent.name
    place = Place(spool, host, source.name)
    if place.folder != folder:
        raise click.ClickException(
            f"{folder} is no folder of a spool (<spool>/streams/<host>/<stream>). Next: name its segments one by one"
        )
    _, rings = inspect_spool.ring_places()
    return inspect_spool.look_at(place, next((ring.path for ring in rings if ring.place == place), None))


def _stream_named(text: str, spool: Path | None) -> SeenStream:
    root = show.settings_of(spool).spool
    found = inspect_spool.matching(inspect_spool.seen_streams(root), text)
    if len(found) != 1:
        many = "several streams begin" if found else "no file, folder or stream begins"
        raise click.UsageError(f"{many} with {text} in {root}. Next: trainspool ls")
    return found[0]


def _checked(streams: list[SeenStream], *, quiet: bool) -> Verdict:
    total = verify.bytes_of(streams)
    if quiet or total < BAR_FROM_BYTES or not sys.stderr.isatty():
        return verify.verify(streams, lambda _: None)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("checking"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verify", total=total)
        return verify.verify(streams, lambda done: bar.advance(task, done))


def _left(streams: list[SeenStream]) -> list[Finding]:
    """What is wrong after the repair."""
    again = [inspect_spool.look_at(seen.place, seen.rings[0] if seen.rings else None) for seen in streams]
    return verify.verify(again, lambda _: None).damage


def _facts(verdict: Verdict, repaired: list[Repaired], left: list[Finding]) -> dict[str, Any]:
    return {
        "ok": not left,
        "streams": [
            {**asdict(stream), "findings": [finding.facts() for finding in stream.findings]}
            for stream in verdict.streams
        ],
        "checkpoints": verdict.checkpoints,
        "stores": [finding.facts() for finding in verdict.stores],
        "repaired": [one._asdict() for one in repaired],
    }


def _print(verdict: Verdict, repaired: list[Repaired]) -> None:
    for stream in verdict.streams:
        _print_findings(stream.findings)
    _print_findings(verdict.stores)
    for one in repaired:
        click.echo(f"{'not repaired' if one.refused else 'repaired'}: {one.file}: {one.done}")
    click.echo(_summary(verdict))


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        head, cost = "DAMAGE" if finding.is_damage else "note", f" ({finding.cost})" if finding.cost else ""
        click.echo(f"{head}: {finding.file} at byte {finding.at}: {finding.what}{cost}")
        if finding.next_step and not finding.is_damage:
            click.echo(f"  next: {finding.next_step}")


def _summary(verdict: Verdict) -> str:
    total: Callable[[str], int] = lambda name: sum(getattr(stream, name) for stream in verdict.streams)  # noqa: E731
    held = f"{total('frames'):,} sound frames, {total('events'):,} events, {total('points'):,} points"
    size = f"{total('segments')} segments of {len(verdict.streams)} streams, {show.size(total('bytes'))}"
    if not verdict.damage:
        return f"nothing wrong in {size}: {held}; {verdict.checkpoints} checkpoints."
    lost = [finding for finding in verdict.damage if finding.lost_offsets is not None]
    events, points = sum(one.lost_events for one in lost), sum(one.lost_points for one in lost)
    places = f"{len(verdict.damage)} damaged place{'' if len(verdict.damage) == 1 else 's'} in {size}"
    cost = f"{events:,} events with {points:,} points lost" if lost else "nothing lost"
    unknown = "" if all(one.exact for one in lost) else ", and some that nobody can count"
    step = "next: trainspool verify --repair, once its process has ended"
    return f"{places}: {cost}{unknown}. What survives: {held}.\n  {step}"
