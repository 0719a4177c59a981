"""`make bench`: every line of design.md, section 5, measured in one run.

    python tests/bench [--quick] [--only NAME ...] [--dir FOLDER]

Prints the table, and after a full run writes it to RESULTS.md beside this file. Never fails for being slow.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import (  # noqa: E402
    agent_load,
    artifacts,
    bytes_per_point,
    compaction,
    disk,
    latency,
    life,
    log_calls,
    media,
    mlflow_plugin,
    one_script,
    recovery,
    table,
    threads,
    training_loop,
)
from bench.harness import Place, workplace  # noqa: E402
from bench.table import Line  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
SCENARIOS: dict[str, Callable[[Place, bool], list[Line]]] = {
    "log_calls": log_calls.tight,
    "disk": disk.beside_dd,
    "threads": threads.busy_threads,
    "together": threads.four_threads,
    "paced": log_calls.paced,
    "batches": log_calls.batches,
    "training_loop": training_loop.training_loop,
    "life": life.life,
    "plugin": mlflow_plugin.plugin,
    "one_script": one_script.one_script,
    "bytes": bytes_per_point.bytes_per_point,
    "compaction": compaction.compaction,
    "agent": agent_load.agent_load,
    "latency": latency.latency,
    "artifacts": artifacts.artifacts,
    "media": media.media,
    "recovery": recovery.recovery,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls; for trying things, not for figures")
    parser.add_argument("--dir", default="/var/tmp", help="where spools and stores go: a disk [/var/tmp]")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md even if the run was not a full one")
    options = parser.parse_args()
    begun, load = time.monotonic(), os.getloadavg()[0]
    lines: list[Line] = []
    with workplace(options.dir) as place:
        for name in options.only or SCENARIOS:
            print(f"{time.monotonic() - begun:5.0f} s  {name} ...", file=sys.stderr, flush=True)
            lines += _run(name, place, options.quick)
    print(table.on_screen(lines))
    print(*(f"- {line.what.strip()}: {line.note}" for line in lines if line.note), sep="\n")
    if options.write or not (options.only or options.quick):
        table.write_results(RESULTS, lines, time.monotonic() - begun, (load, os.getloadavg()[0]))
    return 0


def _run(name: str, place: Place, quick: bool) -> list[Line]:
    """One scenario; if it breaks, the table says so and the others go on."""
    try:
        return SCENARIOS[name](place, quick)
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return [Line(name, "failed", "", ((1.0, 0.0),), why=str(error).strip().splitlines()[-1][:300])]


if __name__ == "__main__":
    sys.exit(main())
