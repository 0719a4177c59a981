"""`trainspool artifacts ls` and `get`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from trainspool_agent.cli import show
from trainspool_agent.cli.status import DEFAULT_STORE
from trainspool_agent.look import artifacts as look
from trainspool_agent.look import fetching, findrun
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.artifacts import Found
from trainspool_agent.look.findrun import RunAt

BAR_BYTES = 64 << 20  # less is there before anyone has read a bar
DIGITS_SHOWN = 12


@click.group()
def artifacts() -> None:
    """List a run's artifacts and where each is on its way to the store, or copy them out.

    \b
    Example: trainspool artifacts ls 3f2a91c0
    """


@artifacts.command()
@click.argument("run")
@click.argument("path", required=False, default="")
@show.spool_option
@show.store_option
@show.json_option
@show.failing_kindly
def ls(run: str, path: str, spool: Path | None, store: Path | None, as_json: bool) -> None:
    """List the artifacts of a RUN (its id, the beginning of one, or its name), or those below PATH.

    Works without an agent. Without a terminal: a line per artifact (path, bytes, BLAKE3, how it was captured, where it
    is, bytes so far, shared, why), tab-separated. Exit status 1 if one of them was refused.

    \b
    Example: trainspool artifacts ls my-run checkpoints
    """
    at, found = _found(run, path, spool, store)
    if as_json:
        show.print_json({"run_id": at.run_id, "store": at.store, "artifacts": [one.facts for one in found]})
    elif show.for_a_person():
        _print(at, found)
    else:
        show.print_lines(list(one.facts.values()) for one in found)
    sys.exit(1 if look.needs_a_person(found) else 0)


@artifacts.command()
@click.argument("run")
@click.argument("path", required=False, default="")
@click.option("--to", "destination", type=show.FOLDER, default=Path(), help="The folder they go to [.].")
@show.spool_option
@show.store_option
@show.json_option
@show.failing_kindly
def get(run: str, path: str, destination: Path, spool: Path | None, store: Path | None, as_json: bool) -> None:
    """Copy the artifact at PATH of a RUN, or all in that folder, or all there are, into a folder.

    From the store, or from the spool what is not there yet. Content is checked where its hash is known; what stands at
    the destination is replaced by what is whole. Exit status 1 if one of them could not be had.

    \b
    Example: trainspool artifacts get my-run checkpoints/last.pt --to /tmp
    """
    at, found = _found(run, path, spool, store)
    top = path.strip("/").rpartition("/")[0]  # as cp does: the last part of PATH keeps its name
    fetched, failed = [], []
    with _progress(sum(one.size for one in found)) as advance:
        for one in found:
            target = destination / one.path.removeprefix(f"{top}/" if top else "")
            try:
                fetching.fetch(one, at.folder, target, advance)
                fetched.append(str(target))
            except fetching.NotFetched as error:
                failed.append({"path": one.path, "why": str(error)})
    if as_json:
        show.print_json({"run_id": at.run_id, "fetched": fetched, "failed": failed})
    else:
        for name in fetched:
            click.echo(show.plain(name))
        for failure in failed:
            click.echo(f"trainspool: {show.plain(failure['why'])}", err=True)
    sys.exit(1 if failed else 0)


def _found(run: str, path: str, spool: Path | None, store: Path | None) -> tuple[RunAt, list[Found]]:
    settings = show.settings_of(spool, store)
    spools = inspect_spool.spools_in_use(spool.absolute() if spool else None, settings.spool)
    streams = [seen for one in spools for seen in inspect_spool.seen_streams(one)]
    at = findrun.find_run(run, [(settings.store or DEFAULT_STORE).absolute()], streams)
    found = look.below(look.artifacts_of(at, streams), path)
    if path.strip("/") and not found:
        raise fetching.NotFetched(f"no artifact {path} in run {at.run_id}. Next: trainspool artifacts ls {at.run_id}")
    return at, found


def _print(at: RunAt, found: list[Found]) -> None:
    if not found:
        show.say(f"No artifacts: nothing was logged to run {at.run_id} with log_artifact, log_text or the like")
        return
    rows = [(one.path, show.size(one.size), (one.digest or "-")[:DIGITS_SHOWN], one.how, _where(one)) for one in found]
    show.print_table(("artifact", ">size", "blake3", "captured", "where"), rows)
    for one in found:
        if one.why:
            show.say(f"{one.path}: {one.why}", "red" if one.where in look.LOST else None)


def _where(one: Found) -> str:
    if one.where in (look.CAPTURING, look.ON_ITS_WAY) and one.done:
        return f"{one.where}, {show.size(one.done)} so far"
    return f"{one.where}, shared" if one.shared else one.where


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal where it takes a while; yields what to tell of further bytes."""
    if total < BAR_BYTES or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("get", total=total)
        yield lambda count: bar.advance(task, count)
