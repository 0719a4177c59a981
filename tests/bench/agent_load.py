"""What the agent costs a machine: CPU and memory beside 100 idle and 100 logging streams."""

from __future__ import annotations

import time

import psutil

from bench import agents
from bench.harness import Place
from bench.table import Line

STREAMS = 100
SETTLE_S = 5.0
IDLE = (
    "every living stream is probed once a second (a flock, a pidfd), its run's lease is looked at as often and counted "
    "up every five, as its files and ring are looked at; nothing else is left but the loop's own ticks"
)
BUSY = (
    "an append to each of 20 files per stream and turn, 3 µs of kernel each, then the text of 10,000 values a second; "
    "where turns would take more than 5 % of a core, points gather for up to a second"
)
RSS_MIB = 80.0


def agent_load(place: Place, quick: bool) -> list[Line]:
    """The agent beside 100 streams."""
    seconds = 4.0 if quick else 15.0
    return [_line(place, rate, limit, seconds) for rate, limit in ((0, 0.5), (5, 8.0))]


def _line(place: Place, rate: int, limit: float, seconds: float) -> Line:
    home = place.fresh("agent")
    with agents.daemon(place, home) as agent, agents.streams(place, home, STREAMS, rate):
        time.sleep(SETTLE_S)
        process = psutil.Process(agent.pid)
        share, rss = _watch(process, seconds)
        writers = process.num_threads()
    what = f"{STREAMS} streams × {rate} batches of 20/s" if rate else f"{STREAMS} idle streams"
    return Line(
        f"agent: {what}, CPU of a core / RSS",
        f"{share:.2f} % / {rss:.0f} MiB",
        f"≤ {limit:g} % / 80 MiB",
        ((share, limit), (rss, RSS_MIB)),
        why=BUSY if rate else IDLE,
        note=f"over {seconds:.0f} s; {writers} threads; {agents.store_bytes(home):,} bytes of metric files at the end",
    )


def _watch(process: psutil.Process, seconds: float) -> tuple[float, float]:
    """Return the share of a core in per cent, and the largest RSS in MiB."""
    begun, before = time.monotonic(), process.cpu_times()
    largest = 0
    while time.monotonic() - begun < seconds:
        time.sleep(0.5)
        largest = max(largest, process.memory_info().rss)
    after, taken = process.cpu_times(), time.monotonic() - begun
    return (after.user + after.system - before.user - before.system) / taken * 100, largest / 2**20
