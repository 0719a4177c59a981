"""How many bytes of spool a point takes at 1,000 points a second, headers of frames and segments included."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.harness import Place, short, worker
from bench.table import Line

RATE = 1000


def spooled(batch: int, seconds: float) -> dict[str, Any]:
    """Worker: log RATE points a second in batches of *batch*; return points and the size of the segments."""
    import trainspool
    from trainspool.stream import stream

    names = [f"layer{number}/grad_norm" for number in range(batch)]
    begun, points = time.monotonic(), 0
    with trainspool.start_run():
        while points < RATE * seconds:
            if batch == 1:
                trainspool.log_metric("loss", points * 0.1, points)
            else:
                trainspool.log_metrics(dict.fromkeys(names, points * 0.1), step=points)
            points += batch
            time.sleep(max(0.0, begun + points / RATE - time.monotonic()))
    trainspool.flush()
    size = sum(path.stat().st_size for path in Path(stream.folder).glob("*.seg"))
    return {"points": points, "bytes": size}


def bytes_per_point(place: Place, quick: bool) -> list[Line]:
    """Spool bytes per point."""
    lines = []
    for batch, limit in ((20, 12.0), (1, 32.0)):
        found = worker(spooled, place, batch=batch, seconds=1 if quick else 5)
        each = found["bytes"] / found["points"]
        how = "in batches of 20" if batch > 1 else "single"
        text = len(f"{time.time_ns() // 10**6} {1234 / 7!r} 1234\n")
        lines.append(
            Line(
                f"spool bytes per point, 1,000 points/s {how}",
                f"{each:.1f} B",
                f"≤ {limit:.0f} B",
                ((each, limit),),
                f"a line of MLflow's metric file, {text} B",
                each / text,
                note=f"{found['points']} points in {short(found['bytes'])} bytes, everything in the segment counted",
            )
        )
    return lines
