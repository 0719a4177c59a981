"""What commands print: tables for a person at a terminal, tab-separated lines or JSON for a program."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from trainspool.errors import TrainspoolError
from trainspool_agent.settings import BadSetting, Settings, load

Command = TypeVar("Command", bound=Callable[..., Any])
WIDE = 1000
FOLDER = click.Path(file_okay=False, path_type=Path)

spool_option = click.option("--spool", type=FOLDER, help="The spool folder [TRAINSPOOL_DIR].")
store_option = click.option("--store", type=FOLDER, help="The store [TRAINSPOOL_STORE, else ./mlruns].")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def settings_of(spool: Path | None, store: Path | None = None) -> Settings:
    """Return the settings; one that means nothing is a usage error."""
    try:
        return load(spool=spool, store=store)
    except BadSetting as error:
        raise click.UsageError(str(error)) from error


def failing_kindly(command: Command) -> Command:
    """Turn what we expect to go wrong into a message and status 1; a reader that left early is no error."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit's flush would complain
            sys.exit(128 + signal.SIGPIPE)
        except (TrainspoolError, OSError) as error:
            click.echo(f"trainspool: {error}", err=True)
            sys.exit(1)

    return wrapper  # type: ignore[return-value]


def for_a_person() -> bool:
    return sys.stdout.isatty()


def plain(text: str) -> str:
    """Return *text* with what a terminal would obey, or would hide, escaped: names in a spool are anyone's words."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def print_json(found: Any) -> None:
    click.echo(json.dumps(found, ensure_ascii=False, indent=2 if for_a_person() else None, default=repr))


def print_lines(rows: Iterable[Sequence[Any]]) -> None:
    """Print rows for a program: tab-separated, an absent value is ``-``."""
    for row in rows:
        cells = ("-" if cell is None else plain(str(cell).replace("\t", " ").replace("\n", " ")) for cell in row)
        click.echo("\t".join(cells))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print rows for a person; a heading that begins with ``>`` is right-aligned.

    Those columns and the first stay whole; the others give way where the terminal is narrow.
    """
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    console, cells = Console(), [["" if cell is None else plain(str(cell)) for cell in row] for row in rows]
    for gap in (1, 0):  # closer together where the terminal is narrow
        table = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0)
        )
        for index, heading in enumerate(headings):
            right = heading.startswith(">")
            whole = right or index == 0
            table.add_column(heading.lstrip(">"), justify="right" if right else "left", no_wrap=whole, overflow="fold")
        for row in cells:
            table.add_row(*row)
        if Measurement.get(console, console.options.update(max_width=WIDE), table).maximum <= console.width:
            break
    console.print(table)


def say(text: str, style: str | None = None) -> None:
    """Print a line for a person; *style* is rich's. Paths and commands in it are never broken or coloured."""
    from rich.console import Console

    Console().print("\n".join(map(plain, text.split("\n"))), style=style, highlight=False, markup=False, soft_wrap=True)


def size(count: float | None) -> str:
    """Return a number of bytes as a person reads it."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def seconds(value: float | None) -> str:
    """Return a duration as a person reads it."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def progress(about: dict[str, Any]) -> str:
    """Return how far artifacts are, of what the agent says in its health file, as a person reads it."""
    how_far = f"{size(about['done_bytes'])} of {size(about['bytes'])}, {size(about['rate'])}/s"
    left = f", {seconds(about['remaining_s'])} left" if about["remaining_s"] is not None else ""
    return f"{about['waiting']:,} left, {how_far}{left}: {about['path']}"


def count(value: int) -> str:
    return f"{value:,}"
