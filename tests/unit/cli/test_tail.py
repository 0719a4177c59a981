"""`tail`: what is there, then what comes; lines are read as they come, so no test waits by the clock."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from .conftest import Box

LIVE = (
    "import sys, trainspool as ts\nts.start_run(run_name='live')\nprint('ready', flush=True)\n"
    "for line in sys.stdin: ts.log_metric('loss', float(line), step=int(line))\nts.end_run()"
)


@contextlib.contextmanager
def following(box: Box, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with box.start(*box.trainspool("tail", *arguments)) as process:
        try:
            yield process
        finally:
            process.kill()


def next_event(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["kind"] == kind:
            return found
    raise AssertionError(f"no {kind}: {process.stderr.read() if process.stderr else ''}")


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def begin(box: Box) -> subprocess.Popen[str]:
    process = box.start(sys.executable, "-c", LIVE)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_tail_shows_a_point_as_it_is_logged_and_leaves_with_0(box: Box) -> None:
    with begin(box) as training, following(box) as tail:
        assert next_event(tail, "start")["name"] == "live"
        for step in range(3):
            say(training, str(step))
            assert next_event(tail, "point")["step"] == step
        tail.send_signal(signal.SIGINT)
        assert tail.wait(10) == 0
        training.communicate()


def test_tail_meets_a_stream_that_is_born_later(box: Box) -> None:
    with begin(box) as first, following(box) as tail:
        next_event(tail, "start")
        with begin(box) as second:
            assert next_event(tail, "start")["name"] == "live"
            second.communicate("5\n")
        assert next_event(tail, "point")["step"] == 5
        first.communicate()


def test_tail_of_a_run_leaves_out_the_others(box: Box) -> None:
    run_id = box.log("with ts.start_run() as run: ts.log_metric('a', 1)\nprint(run.run_id)")
    with begin(box) as other, following(box, run_id) as tail:
        assert next_event(tail, "point")["run"] == run_id
        other.communicate("5\n")
        box.log(f"ts.log_metric('b', 2.0, run_id='{run_id}')")
        assert next_event(tail, "point")["key"] == "b"


def test_tail_begins_with_as_many_events_as_wanted(box: Box) -> None:
    run_id = box.log("with ts.start_run() as run:\n  for i in range(9): ts.log_metric('a', i)\nprint(run.run_id)")
    with following(box, run_id, "-n", "3") as tail:
        assert [next_event(tail, "point")["value"] for _ in range(2)] == [7.0, 8.0]
        assert next_event(tail, "end")["status"] == "FINISHED"


def test_tail_survives_the_roll_of_a_segment(box: Box) -> None:
    small = LIVE.replace("ts.start_run", "from trainspool import pump\npump.SEGMENT_BYTES = 1\nts.start_run", 1)
    with box.start(sys.executable, "-c", small) as training, following(box) as tail:
        next_event(tail, "start")
        for step in range(3):
            say(training, str(step))
            assert next_event(tail, "point")["step"] == step
        training.communicate()
        assert next_event(tail, "end")["status"] == "FINISHED"
