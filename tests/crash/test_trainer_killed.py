"""kill -9 of a script that logs: everything accepted is in the store, drops are counted, the run is marked KILLED.

The witness is the script itself: after each call has returned it counts it in memory that outlives it.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from box import KILLED, SHARED_MEMORY, Box, Stored, Witness, until

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

MARKED_S = 2.0
BATCH = ("train/acc", "val/损失", "lr")
TRAINER = (
    Witness.HEAD
    + """
pause_s, last = float(sys.argv[2]), int(sys.argv[3])
mlflow.set_experiment("crash")
run = mlflow.start_run(run_name="to be killed", tags={"kind": "trainer"})
os.pwrite(fd, run.info.run_id.encode(), 2048)
points = batches = params = 0
while True:
    for _ in range(200):
        mlflow.log_metric("loss", points * 0.5, step=points)
        points += 1
        words[0] = points
        if not points % 16:
            mlflow.log_metrics({"train/acc": batches + 0.25, "val/损失": -batches, "lr": batches / 8}, step=batches)
            batches += 1
            words[1] = batches
        if not points % 100:
            mlflow.log_param(f"p{params}", params)
            params += 1
            words[2] = params
        if points == last:
            os.kill(os.getpid(), 9)
    if pause_s:
        time.sleep(pause_s)
"""
)


class Outcome(NamedTuple):
    """What one kill gave."""

    calls: int
    stored: int
    dropped: int
    marked_s: float | None


def judge(box: Box, witness: Witness) -> Outcome:
    """Compare what the calls said with what is stored, by plain lines."""
    run = box.stored_run(witness.text)
    assert run is not None, f"run {witness.text} is not in the store: {box.agent_log()[-2000:]}"
    points, batches, params = witness[0], witness[1], witness[2]
    account = run.check_account()
    loss = run.points("loss")
    steps = [step for _, _, step in loss]
    assert steps == sorted(set(steps)) and all(float(value) == step * 0.5 for _, value, step in loss)
    columns = [[step for _, _, step in run.points(key)] for key in BATCH]
    assert columns[0] == columns[1] == columns[2] == sorted(set(columns[0]))
    texts = run.texts("params")
    assert all(texts[key] == key[1:] for key in texts)
    logged, held = points + 3 * batches, len(steps) + 3 * len(columns[0])
    assert held + account["dropped"] - logged in (0, 1, 3), (logged, held, account)
    events = len(steps) + len(columns[0]) + len(texts) + account["dropped_events"] - (points + batches + params)
    assert events in (0, 1), (points, batches, params, account)
    if not account["dropped_events"]:
        assert steps == list(range(len(steps))) and len(steps) - points in (0, 1)
    assert (account["damaged"], account["unknown_tail"], account["folded"], account["refused"]) == (0, 0, 0, 0)
    assert (run.status, run.texts("tags")["kind"]) == (KILLED, "trainer")
    return Outcome(logged, held, account["dropped"], None)


def judge_by_mlflow(run: Stored, store: Path) -> None:
    """MLflow's client reads the same points as the plain reader."""
    from conformance import recipe  # noqa: F401  it allows the file store
    from mlflow import MlflowClient

    client = MlflowClient(str(store))
    seen = client.get_run(run.run_id)
    assert seen.info.status == "KILLED" and seen.data.params == run.texts("params")
    for key in seen.data.metrics:
        history = [
            (point.timestamp, repr(point.value), point.step) for point in client.get_metric_history(run.run_id, key)
        ]
        assert history == run.points(key)


def kill_one(box: Box, rng: random.Random, ring_bytes: int = 0) -> tuple[Witness, float]:
    """Start a trainer and kill it at a random moment; return its witness and the time of the kill."""
    witness = box.witness()
    pause_s = rng.choice((0.0, 0.002, 0.01))
    tight = {"TRAINSPOOL_RING_BYTES": str(ring_bytes)} if ring_bytes else {}
    process = box.start(TRAINER, witness.path, pause_s, 0, **tight)
    until(lambda: witness[0] or process.poll() is not None, "the script logs")
    time.sleep(rng.choice((rng.uniform(0, 0.02), rng.uniform(0, 0.3), rng.uniform(0, 1.0))))  # the moment of the kill
    process.kill()
    killed_at = time.monotonic()
    process.wait()
    return witness, killed_at


def kill_many(box: Box, seed: int, count: int, ring_bytes: int = 0, *, at_once: int = 1) -> list[Outcome]:
    """Kill *count* trainers under one agent, *at_once* at a time; the last is read by MLflow, too."""
    agent = box.start_agent()

    def kill(number: int) -> tuple[Witness, float]:
        witness, killed_at = kill_one(box, random.Random(f"{seed} {number}"), ring_bytes)
        until(lambda: box.status_of(witness.text) == KILLED, "KILLED")
        return witness, time.monotonic() - killed_at

    with ThreadPoolExecutor(at_once) as pool:
        killed = list(pool.map(kill, range(count)))
    until(box.is_quiet, "everything is carried and durable")
    outcomes = [judge(box, witness)._replace(marked_s=marked_s) for witness, marked_s in killed]
    run = box.stored_run(killed[-1][0].text)
    assert run is not None
    judge_by_mlflow(run, box.store)
    box.stop(agent)
    assert len(box.stored()) == count
    tell(outcomes)
    return outcomes


def tell(outcomes: list[Outcome]) -> None:
    points, dropped = sum(outcome.calls for outcome in outcomes), sum(outcome.dropped for outcome in outcomes)
    times = sorted(outcome.marked_s for outcome in outcomes if outcome.marked_s is not None)
    marked = f"time to KILLED: median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s" if times else ""
    print(f"{len(outcomes)} kills, {points} points logged, {dropped} dropped and counted, 0 lost, 0 twice; {marked}")


def test_killed_at_random_moments_the_store_has_every_accepted_point(tmp_path: Path, seed: int) -> None:
    with Box(tmp_path) as box:
        outcomes = kill_many(box, seed, 6)
    assert max(outcome.marked_s or 0 for outcome in outcomes) <= MARKED_S, outcomes


def test_killed_with_a_ring_too_small_every_drop_is_counted(tmp_path: Path, seed: int) -> None:
    with Box(tmp_path) as box:
        outcomes = kill_many(box, seed, 2, ring_bytes=262_144)
        witness = box.witness()
        box.run(TRAINER, witness.path, 0.0, 150_000, TRAINSPOOL_RING_BYTES="262144")
        box.sync()
        assert judge(box, witness).dropped > 0, "a tight loop fits no ring of 256 KiB"
    assert max(outcome.marked_s or 0 for outcome in outcomes) <= MARKED_S, outcomes


@pytest.mark.parametrize("calls", [1, 17, 4000])
def test_killed_before_the_pump_made_a_folder_the_ring_alone_tells_it_all(tmp_path: Path, calls: int) -> None:
    with Box(tmp_path) as box:
        witness = box.witness()
        assert box.run(TRAINER, witness.path, 0.0, calls).returncode == -9
        if calls < 1000:
            assert not box.streams() and list(box.rings.glob("*.ring")), "the pump was faster than its first turn"
        box.sync()
        assert judge(box, witness).stored == calls + 3 * (calls // 16)
        assert not list(box.rings.glob("*.ring"))


def test_killed_before_the_first_pump_turn_beside_a_daemon_is_marked_too(tmp_path: Path) -> None:
    with Box(tmp_path) as box:
        agent = box.start_agent()
        witness = box.witness()
        box.run(TRAINER, witness.path, 0.0, 50)
        killed_at = time.monotonic()
        until(lambda: box.status_of(witness.text) == KILLED, "KILLED")
        assert time.monotonic() - killed_at <= MARKED_S
        until(box.is_quiet, "durable")
        judge(box, witness)
        box.stop(agent)


def test_killed_without_an_agent_sync_carries_all(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with Box(tmp_path) as box:
        witnesses = [kill_one(box, rng)[0] for _ in range(2)]
        box.sync()
        tell([judge(box, witness) for witness in witnesses])
        assert box.is_quiet() and len(box.stored()) == 2


@pytest.mark.long
@pytest.mark.parametrize("ring_bytes", [0, 262_144])
def test_killed_a_hundred_times(tmp_path: Path, seed: int, ring_bytes: int) -> None:
    with Box(tmp_path) as box:
        outcomes = kill_many(box, seed, 100, ring_bytes=ring_bytes)
    late = [outcome for outcome in outcomes if (outcome.marked_s or 0) > MARKED_S]
    assert not late, late


@pytest.mark.long
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("ring_bytes", [0, 262_144, 1 << 20, 32 << 20])
def test_killed_a_thousand_times_in_eight_parts(tmp_path: Path, seed: int, ring_bytes: int, part: int) -> None:
    """Two at once, so that one is carried while the other dies; for how soon a death shows, ask the test above."""
    with Box(tmp_path) as box:
        kill_many(box, seed + part, 125, ring_bytes=ring_bytes, at_once=2)


@pytest.mark.long
def test_killed_without_an_agent_fifty_times(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with Box(tmp_path) as box:
        outcomes = []
        for _ in range(50):
            witness, _ = kill_one(box, rng)
            box.sync()
            outcomes.append(judge(box, witness))
            witness.close()
        tell(outcomes)
        assert len(box.stored()) == 50
