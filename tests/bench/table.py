"""The lines of a bench run, on screen and as RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.harness import short


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        what: what was measured.
        measured: the figures, with units.
        budget: design.md's, in the same form; empty if the line is reported only.
        limits: (figure, most or least) pairs; the line is ok if every figure keeps its limit.
        baseline: the comparison from the same run.
        ratio: measured ÷ baseline.
        why: shown when a limit is missed.
        note: shown always: tails, counts, what was scaled down.
        at_least: limits are lower ones.
    """

    what: str
    measured: str
    budget: str = ""
    limits: Sequence[tuple[float, float]] = ()
    baseline: str = ""
    ratio: float | None = None
    why: str = ""
    note: str = ""
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if not self.limits:
            return "-"
        kept = (figure >= limit if self.at_least else figure <= limit for figure, limit in self.limits)
        return "ok" if all(kept) else "MISS"


_HEAD = ("what", "measured", "budget", "baseline, same run", "ratio", "verdict")


def _cells(line: Line) -> tuple[str, ...]:
    ratio = "" if line.ratio is None else f"{short(line.ratio)}×"
    return line.what, line.measured, line.budget, line.baseline, ratio, line.verdict


def on_screen(lines: Sequence[Line]) -> str:
    """Return the table as aligned text."""
    rows = [_HEAD, *map(_cells, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write_results(path: Path, lines: Sequence[Line], seconds: float, loads: tuple[float, float]) -> None:
    """Write the table of a run as Markdown."""
    rows = ["| " + " | ".join(cells) + " |" for cells in (_HEAD, ("---",) * len(_HEAD), *map(_cells, lines))]
    misses = [f"- **{line.what}**: {line.why or 'not understood yet.'}" for line in lines if line.verdict == "MISS"]
    notes = [f"- {line.what}: {line.note}" for line in lines if line.note]
    text = [
        "# Results of the last run",
        "",
        f"Written by `make bench`; `README.md` says what each line means. {_machine()}; {seconds:.0f} s, "
        f"load {loads[0]:.1f} before it and {loads[1]:.1f} at its end. "
        "Percentiles are p50 / p99 / p99.9 unless the line says otherwise.",
        "",
        *rows,
        "",
        "## Misses",
        "",
        *(misses or ["None."]),
        "",
        "## Notes",
        "",
        *notes,
    ]
    path.write_text("\n".join(text) + "\n", "utf-8")


def _machine() -> str:
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return (
        f"{today}, {sys.implementation.name} {platform.python_version()}, Linux {platform.release()}, "
        f"{os.cpu_count()} CPUs ({_cpu()})"
    )


def _cpu() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()
