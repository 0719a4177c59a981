"""The disk fails at every single operation, in every way: when it is well again, the store has everything, once.

One process and one agent go through a whole story (`storyline.py`) on a disk that fails at its k-th operation, once or
from there on until it is healed. The bounded part takes a sample; the long part every operation and every error.
"""

from __future__ import annotations

import itertools
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import ERRORS, KILLED, FaultyFiles, under
from storyline import Logged, Story, paths_of
from wholeway import World

SAMPLE_S = 8.0
KILLS = 20
Case = tuple[bool, int, "int | str", bool]  # in order, step, error, until healed


@pytest.fixture
def home() -> Iterator[Path]:
    """In memory: nothing here asks what a real device does."""
    folder = Path(f"/dev/shm/trainspool-faults-{time.time_ns():x}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Judge:
    """Knows what an undisturbed story leaves in the store."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.calm: dict[bool, tuple[dict[str, bytes], dict[str, int], Logged, int]] = {}
        self.injected = Counter[str]()
        for in_order in (False, True):
            disk = FaultyFiles()
            with World(home) as world, under(disk):
                logged = Story(world, in_order=in_order).tell()
                world.carry_to_the_end()
                check_points(world.contents(), logged)
                check_whole(world.contents(), logged)
                self.calm[in_order] = world.contents(), world.account(1), logged, disk.steps

    def steps(self, in_order: bool) -> int:
        return self.calm[in_order][3]

    def try_one(self, case: Case) -> None:
        in_order, step, error, until_healed = case
        disk = FaultyFiles()
        with World(self.home) as world, under(disk):
            disk.fail_at(step, error, until_healed=until_healed)
            logged = Story(world, in_order=in_order).tell()
            if until_healed:
                disk.heal()
            world.carry_to_the_end()
            self.injected[str(error)] += disk.failed
            self.check(world, logged, in_order)

    def try_kill(self, in_order: bool, number: int) -> bool:
        """SIGKILL of the agent at its *number*-th operation, half-way through a write; another agent follows."""
        disk = FaultyFiles()
        with World(self.home) as world, under(disk):
            begun = 0

            def dies(_: int) -> bool:
                nonlocal begun
                begun += world.in_agent
                return world.in_agent and begun >= number

            disk.error, disk.fails, world.after_kill = KILLED, dies, disk.heal
            logged = Story(world, in_order=in_order).tell()
            world.carry_to_the_end()
            self.injected[KILLED] += bool(disk.failed)
            self.check(world, logged, in_order)
        return bool(disk.failed)

    def check(self, world: World, logged: Logged, in_order: bool) -> None:
        contents, account, calm, _ = self.calm[in_order]
        missing = tuple(paths_of(logged.uncaptured))
        expected = {path: data for path, data in contents.items() if not (missing and path.endswith(missing))}
        everything = world.contents()
        found = {path: data for path, data in everything.items() if not (missing and path.endswith(missing))}
        assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
        assert not [path for path in found if found[path] != expected[path]]
        check_points(found, logged)
        check_uncaptured(everything, logged)
        check_given(everything, logged)
        counted = world.account(1)
        assert counted["refused_events"] - logged.refused == account["refused_events"] - calm.refused, counted
        for name in ("accepted", "stored", "folded", "damaged", "refused"):
            assert counted[name] == account[name], (name, counted, account)
        if not missing:
            assert counted["other_events"] == account["other_events"], (counted, account)


def check_points(contents: dict[str, bytes], logged: Logged) -> None:
    for (run, key), points in logged.points().items():
        [data] = [data for path, data in contents.items() if path.endswith(f"/{f'{run}' * 32}/metrics/{key}")]
        lines = [line.split() for line in data.decode().splitlines()]
        assert Counter((float(value), int(step)) for _, value, step in lines) == points, (run, key)


def check_whole(contents: dict[str, bytes], logged: Logged) -> None:
    """Undisturbed, the last version of everything is there, and nothing of what was under way at the end."""
    last = {
        f"{f'{call.run}' * 32}/artifacts/{call.key}": call.value for call in logged.calls if call.kind == "artifacts"
    }
    texts = {path: data for path, data in contents.items() if "/artifacts/" in path and "/pictures/" not in path}
    found = {path.partition("/")[2]: data.decode() for path, data in texts.items()}
    last_words = {path: data for path, data in found.items() if path.endswith("/later/last.pt")}
    assert not logged.uncaptured and bool(last_words) == (not logged.unfinished)
    assert {path: data for path, data in found.items() if path not in last_words} == last


def check_uncaptured(contents: dict[str, bytes], logged: Logged) -> None:
    """Of what was reported as not captured there is a version that was, or nothing; never half of one."""
    for name in logged.uncaptured:
        known = [call.value.encode() for call in logged.calls if call.key == name]
        assert all(data in known for path, data in contents.items() if path.endswith(f"/artifacts/{name}")), name


def check_given(contents: dict[str, bytes], logged: Logged) -> None:
    """What was given away is at its place, in the store, or both."""
    for file, name, content in logged.given:
        stored = [data for path, data in contents.items() if path.endswith(f"/artifacts/{name}")]
        assert stored == [content.encode()] or file.read_text() == content, name


def all_cases(judge: Judge) -> Iterator[Case]:
    for in_order, until_healed in itertools.product((False, True), repeat=2):
        for step in range(1, judge.steps(in_order) + 1):
            for error in ERRORS:
                yield in_order, step, error, until_healed


def run_cases(judge: Judge, cases: list[Case]) -> list[str]:
    failed = []
    for case in cases:
        try:
            judge.try_one(case)
        except Exception as error:  # noqa: BLE001  all of them are wanted, not the first
            failed.append(f"{case}: {type(error).__name__} {str(error)[:300]}")
    return failed


def test_a_disk_that_fails_anywhere_loses_nothing_and_doubles_nothing(home: Path, seed: int) -> None:
    judge = Judge(home)
    cases = list(all_cases(judge))
    random.Random(seed).shuffle(cases)
    until, count = time.perf_counter() + SAMPLE_S, 0
    for case in cases:
        judge.try_one(case)
        count += 1
        if time.perf_counter() > until:
            break
    print(f"{count} of {len(cases)} cases, {sum(judge.injected.values())} operations failed")


@pytest.mark.long
def test_a_disk_that_fails_at_every_operation_in_every_way(home: Path) -> None:
    judge = Judge(home)
    cases = list(all_cases(judge))
    failed = run_cases(judge, cases)
    print(f"{len(cases)} cases, {sum(judge.injected.values())} operations failed: {dict(judge.injected)}")
    assert not failed, "\n".join([f"{len(failed)} cases:", *failed[:40]])


def test_an_agent_killed_at_any_operation_leaves_no_trace(home: Path, seed: int) -> None:
    judge, rnd = Judge(home), random.Random(seed)
    for number in rnd.sample(range(1, judge.steps(False)), KILLS):
        judge.try_kill(rnd.random() < 0.5, number)


@pytest.mark.long
def test_an_agent_killed_at_every_operation_leaves_no_trace(home: Path) -> None:
    judge = Judge(home)
    for in_order in (False, True):
        number = 1
        while judge.try_kill(in_order, number):
            number += 1
        print(f"{number - 1} kills, in order: {in_order}")
    assert judge.injected[KILLED] > 200


def test_a_disk_that_stalls_keeps_the_pump_waiting_and_nobody_else(home: Path) -> None:
    disk = FaultyFiles()
    with World(home) as world, under(disk):
        run = world.start_run(1)
        run.log_metric("loss", 0.0, step=0)
        disk.stall()
        turning = threading.Thread(target=world.turn)
        turning.start()
        disk.stalled.wait()
        for step in range(1, 2000):
            run.log_metric("loss", float(step), step=step)
        assert turning.is_alive()
        assert disk.steps == 1
        disk.release()
        turning.join()
        world.turn()
        run.end()
        world.die()
        world.carry_to_the_end()
        [data] = [data for path, data in world.contents().items() if path.endswith("metrics/loss")]
        assert data.count(b"\n") == 2000
        assert world.account(1)["stored"] == 2000
