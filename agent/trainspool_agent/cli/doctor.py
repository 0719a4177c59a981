"""`trainspool doctor`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from trainspool_agent import doctor as checks
from trainspool_agent.cli import show
from trainspool_agent.cli.status import DEFAULT_STORE
from trainspool_agent.doctor import FAIL, OK, WARN, Finding

_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}


@click.command()
@show.spool_option
@show.store_option
@show.json_option
@show.failing_kindly
def doctor(spool: Path | None, store: Path | None, as_json: bool) -> None:
    """Check whether this box is set up well, log a run into temporary folders, and read it back.

    Exit status 1 if a check fails; warnings are advice.

    \b
    Example: trainspool doctor --json
    """
    settings = show.settings_of(spool, store)
    found = []
    for finding in checks.examine(settings, (settings.store or DEFAULT_STORE).absolute()):
        found.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        show.print_json({"checks": [asdict(finding) for finding in found]})
    elif show.for_a_person():
        bad = [sum(finding.state == state for finding in found) for state in (FAIL, WARN)]
        show.say("All is well." if not any(bad) else f"{bad[0]} failed, {bad[1]} warnings.", "bold")
    sys.exit(1 if any(finding.state == FAIL for finding in found) else 0)


def _print(finding: Finding) -> None:
    if not show.for_a_person():
        show.print_lines([(finding.check, finding.state, finding.what, finding.next_step or None)])
        return
    show.say(f"{finding.state:<5} {finding.check:<10} {finding.what}", _COLOURS[finding.state])
    if finding.next_step:
        show.say(f"{'':<17}Next: {finding.next_step}")
