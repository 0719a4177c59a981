"""`status`: the box's streams, and a run's account, before, while and after an agent has carried it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trainspool_agent.look import findrun

from .conftest import Box

KEYS = ["accepted", "stored", "folded", "dropped", "damaged", "unknown_tail", "worst_lag_ms"]
LOG = (
    "with ts.start_run(run_name='one') as run:\n  ts.log_param('lr', 1)\n  for i in range(10): ts.log_metric('a', i)\n"
)
# A ring of its least size and a pump that never turns: the ring fills, and drops.
DROP = (
    "from trainspool import pump\npump.TURN_INTERVAL_S = 3600\nrun = ts.start_run(run_name='full')\n"
    "for i in range(40000): ts.log_metric('a', i)\nprint(run.run_id, flush=True)\nimport sys; sys.stdin.readline()"
)


def account(box: Box, run: str) -> dict[str, Any]:
    found: dict[str, Any] = box.json("status", run, "--json")["account"]
    return found


def test_status_of_an_empty_box_is_quiet(box: Box) -> None:
    found = box.call("status")
    assert found.exit_code == 0 and found.stdout.startswith("agent\tnot running")


def test_a_run_in_the_spool_alone_is_accepted_and_not_stored(box: Box) -> None:
    box.log(LOG)
    facts = box.json("status", "one", "--json")
    assert list(facts["account"]) == KEYS
    assert (facts["in_store"], facts["status"], facts["experiment"]) == (False, "FINISHED", "Default")
    assert (facts["account"]["accepted"], facts["account"]["stored"]) == (10, 0)
    assert facts["waiting"]["points"] == 10
    assert "spool only" not in box.call("status", "one").stdout  # plain lines; a person is told


def test_a_carried_run_has_everything_stored(box: Box) -> None:
    run_id = box.log(LOG + "print(run.run_id)")
    box.sync()
    facts = box.json("status", run_id[:6], "--json")
    assert facts["account"] | {"worst_lag_ms": 0} == dict(zip(KEYS, (10, 10, 0, 0, 0, False, 0), strict=True))
    assert (facts["in_store"], facts["status"], facts["waiting"]["points"]) == (True, "FINISHED", 0)
    assert Path(facts["path"], "metrics", "a").read_text().count("\n") == 10
    assert facts["streams"][0]["life"] == "ended"


def test_points_after_the_checkpoint_are_waiting_until_they_are_carried(box: Box) -> None:
    run_id = box.log(LOG + "print(run.run_id)")
    box.sync()
    box.log(f"with ts.start_run('{run_id}'):\n  ts.log_metrics({{'b': 1.0, 'c': 2.0}})")
    facts = box.json("status", run_id, "--json")
    assert (facts["account"]["accepted"], facts["account"]["stored"], facts["waiting"]["points"]) == (12, 10, 2)
    box.sync()
    assert account(box, run_id)["stored"] == 12


def test_drops_of_a_live_run_are_exact_and_end_with_1(box: Box) -> None:
    box.all["TRAINSPOOL_RING_BYTES"] = str(256 << 10)
    with box.start(sys.executable, "-c", f"import trainspool as ts\n{DROP}") as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        found = box.call("status", run_id, "--json")
        counts = account(box, run_id)
        overall = box.call("status")
        process.communicate("\n")
    assert counts["dropped"] > 0 and counts["accepted"] + counts["dropped"] == 40000
    assert found.exit_code == overall.exit_code == 1
    assert "TRAINSPOOL_RING_BYTES" in overall.stdout
    box.sync()
    assert account(box, run_id) | {"worst_lag_ms": 0} == counts | {"stored": counts["accepted"]}


def test_a_name_that_two_runs_have_is_refused_with_both(box: Box) -> None:
    box.log(LOG)
    box.log(LOG)
    found = box.call("status", "one")
    assert found.exit_code == 1 and "2 runs" in found.stderr and "whole id" in found.stderr


def test_an_unknown_run_says_where_we_looked(box: Box) -> None:
    found = box.call("status", "nobody")
    assert found.exit_code == 1 and str(box.store) in found.stderr


def test_runs_are_found_in_the_spool_by_the_bytes_of_their_definitions(box: Box) -> None:
    from trainspool_agent.look import spool as inspect_spool

    box.log("for n in range(3):\n  with ts.start_run(run_name=f'run {n}'): ts.log_metric('a', n)")
    (seen,) = inspect_spool.seen_streams(box.spool)
    assert [run.name for run in findrun.runs_in(seen)] == ["run 0", "run 1", "run 2"]


def test_a_killed_process_is_dead_until_someone_carries_it(box: Box) -> None:
    lines = "import os, trainspool as ts", "ts.start_run(run_name='k')", "ts.log_metric('a', 1)", "ts.flush()"
    box.process(sys.executable, "-c", "\n".join((*lines, "os.kill(os.getpid(), 9)")))
    (stream,) = box.json("status", "--json")["streams"]
    assert stream["life"] == "dead" and stream["waiting"] > 0 and stream["lag_ms"] > 0
    assert box.json("status", "k", "--json")["status"] == "RUNNING"
    box.sync()
    facts = box.json("status", "k", "--json")
    assert (facts["status"], facts["account"]["stored"], facts["account"]["unknown_tail"]) == ("KILLED", 1, False)
