"""`trainspool ls`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from trainspool.spool import layout
from trainspool_agent.cli import show
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look import walk
from trainspool_agent.look.spool import SeenStream


@click.command()
@click.argument("what", required=False, metavar="[SPOOL|STREAM]")
@click.option("-l", "long", is_flag=True, help="Each stream's segments too, every frame checked.")
@show.spool_option
@show.json_option
@show.failing_kindly
def ls(what: str | None, long: bool, spool: Path | None, as_json: bool) -> None:
    """List the streams of a spool; with -l or the beginning of a stream's id, their segments.

    Without a terminal: a line per stream (stream, host, life, pid, program, segments, bytes, events, points, waiting
    bytes) or segment (stream, name, begin, end, bytes, frames, events, points, state), tab-separated.

    \b
    Example: trainspool ls -l 3f2a
    """
    is_folder = what is not None and ("/" in what or Path(what).is_dir())
    root = show.settings_of(Path(what) if is_folder and what else spool).spool
    streams = inspect_spool.seen_streams(root)
    if what is not None and not is_folder:
        streams, long = inspect_spool.matching(streams, what), True
        if not streams:
            raise click.ClickException(f"no stream begins with {what} in {root}. Next: trainspool ls")
    segments = {seen.name: _segments(seen) for seen in streams} if long else {}
    if as_json:
        facts = [
            _facts(seen) | ({"segments": list(map(asdict, segments[seen.name]))} if long else {}) for seen in streams
        ]
        show.print_json({"spool": str(root), "streams": facts})
    elif long:
        _print_segments(streams, segments)
    else:
        _print_streams(root, streams)
    damaged = any(segment.damage for found in segments.values() for segment in found)
    sys.exit(1 if damaged or any(seen.trouble for seen in streams) else 0)


def _segments(seen: SeenStream) -> list[walk.SegmentFacts]:
    folder = seen.place.folder
    return [walk.segment_facts(folder / str(name)) for name in layout.segments(folder)]


def _facts(seen: SeenStream) -> dict[str, Any]:
    identity = seen.identity
    return {
        "stream": seen.name,
        "host": seen.place.host,
        "life": seen.life,
        "pid": identity.get("pid"),
        "program": identity.get("program"),
        "rank": identity.get("rank"),
        "segment_count": seen.segments,
        "spool_bytes": seen.spool_bytes,
        "written": seen.written,
        "in_ring": seen.in_ring,
        "stored": seen.stored,
        "waiting": seen.waiting,
        "events": seen.events,
        "points": seen.points,
        "folder": str(seen.place.folder),
        "trouble": seen.trouble or None,
    }


def _print_streams(root: Path, streams: list[SeenStream]) -> None:
    if not show.for_a_person():
        keys = "stream", "host", "life", "pid", "program", "segment_count", "spool_bytes", "events", "points", "waiting"
        show.print_lines([facts[key] for key in keys] for facts in map(_facts, streams))
        return
    if not streams:
        show.say(f"No stream in {root}: nothing has been logged here. Next: trainspool demo, or trainspool doctor")
        return
    headings = "stream", "host", "life", ">pid", "program", ">size", ">events", ">points", ">not stored"
    rows = []
    for seen in streams:
        program = Path(str(seen.identity.get("program") or "")).name
        sizes = show.size(seen.spool_bytes), show.count(seen.events), show.count(seen.points)
        waiting = show.size(seen.waiting) if seen.waiting else None
        rows.append((seen.name[:8], seen.place.host, seen.life, seen.identity.get("pid"), program, *sizes, waiting))
    show.print_table(headings, rows, title=str(root))
    for seen in streams:
        if seen.trouble:
            show.say(seen.trouble, "red")


def _print_segments(streams: list[SeenStream], segments: dict[str, list[walk.SegmentFacts]]) -> None:
    headings = "segment", ">begin", ">end", ">size", ">frames", ">events", ">points", "state"
    for seen in streams:
        found = segments[seen.name]
        if not show.for_a_person():
            show.print_lines(
                (seen.name, one.name, one.offset, one.end, one.bytes, one.frames, one.events, one.points, _state(one))
                for one in found
            )
            continue
        rows = []
        for one in found:
            counts = map(show.count, (one.offset, one.end))
            more = map(show.count, (one.frames, one.events, one.points))
            rows.append((one.name, *counts, show.size(one.bytes), *more, _state(one)))
        ring = f", {seen.in_ring:,} bytes in its ring" if seen.in_ring else ""
        show.print_table(headings, rows, title=f"{seen.place.host}/{seen.name}  {seen.life}{ring}")


def _state(one: walk.SegmentFacts) -> str:
    states = ["sealed" if one.sealed else "open"]
    if one.torn_bytes:
        states.append(f"torn tail of {one.torn_bytes} bytes")
    return ", ".join(states + one.damage)
