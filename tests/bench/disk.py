"""Log calls while another process writes the spool's disk as fast as it can."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Place, worker
from bench.log_calls import CALLS, FULL_RING, OURS, TIGHT_BUDGET, TIGHT_LIMITS, has_drops, one, result
from bench.table import Line

DD_MIB = 2048  # one file, written over and over
SETTLE_S = 1.0


@contextlib.contextmanager
def dd(folder: Path, *, fsync: bool) -> Iterator[list[float]]:
    """Keep ``dd`` writing one file in *folder*, synced after every round if *fsync*; yield the rounds' seconds."""
    target = folder / "dd.bytes"
    command = ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={DD_MIB}", "conv=notrunc"]
    if fsync:
        command[-1] += ",fsync"
    stop, running, rounds = threading.Event(), [subprocess.Popen(command, stderr=subprocess.DEVNULL)], []

    def again() -> None:
        begun = time.monotonic()
        while running[0].wait() == 0 and not stop.is_set():
            rounds.append(time.monotonic() - begun)
            begun = time.monotonic()
            running[0] = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    keeper = threading.Thread(target=again)
    keeper.start()
    try:
        time.sleep(SETTLE_S)
        yield rounds
    finally:
        stop.set()
        running[0].terminate()
        keeper.join()
        target.unlink(missing_ok=True)


def beside_dd(place: Place, quick: bool) -> list[Line]:
    """`log_metric` in a tight loop beside ``dd``, without and with fsync."""
    return [_beside(place, fsync, CALLS // 10 if quick else CALLS) for fsync in (False, True)]


def _beside(place: Place, fsync: bool, calls: int) -> Line:
    with dd(place.disk, fsync=fsync):
        ours, note = result(worker(one, place, target=OURS, calls=calls))
        base, base_note = result(worker(one, place, target="msgpack + os.write", calls=calls // 2))
        idle, _ = result(worker(one, place, target="empty call", calls=calls))
    return Line(
        f"log_metric beside dd{' conv=fsync' if fsync else ''}",
        str(ours),
        TIGHT_BUDGET,
        (*zip(ours[2:5], TIGHT_LIMITS, strict=True), (has_drops(note), 0)),
        f"msgpack + os.write {base}",
        ours.p999 / base.p999,
        why=f"{FULL_RING}; and while the disk stalls, only the ring takes points: 8 MiB are 0.4 s of such a loop",
        note=f"{note}; msgpack + os.write: {base_note.rpartition(';')[0]}; empty call {idle}; ratio of p99.9",
    )
