"""The same calls of MLflow's clients, on its own file store and on ``trainspool:``: the same can be read afterwards.

Where we differ on purpose, it stands here, and nowhere else:

- points that are equal in key, ms, step and value are one point (MLflow's own migration fails on two);
- a batch with a param that has another value already is refused whole; MLflow has logged a part of it by then;
- a run that ``update_run`` gives a final status has an end time, too;
- a run, or another attempt of it, does not end before it began, whatever ``end_time`` says;
- a run whose process ended by an uncaught exception is FAILED; MLflow ends it as FINISHED;
- an experiment's artifacts lie in the store: another ``artifact_location`` is refused;
- there are no SCHEDULED runs;
- the dataset of a metric point is among the run's inputs, not at the point, where MLflow's file store loses the step;
- tags of ours begin with ``trainspool.``; the agent sets ``mlflow.experimentKind``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import SHARED_MEMORY, Box, until
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

WORKER = Path(__file__).with_name("client_worker.py")
Calls = list[list[Any]]


class Worker:
    """A process that plays sequences on one kind of store."""

    def __init__(self, prefix: str, box: Box, name: str) -> None:
        self.stderr = box.folder / f"{name}.err"
        environment = {**box.environment, "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
        if not prefix:
            environment["MLFLOW_ALLOW_FILE_STORE"] = "true"
        with open(self.stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), prefix],
                env=environment,
                cwd=box.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.stderr.read_text("utf-8")[-3000:]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class Both:
    """MLflow's file store and ours side by side, with an agent that carries; and a process that only reads ours."""

    def __init__(self, box: Box) -> None:
        self.box, self.count = box, 0
        box.start_agent(wait=False)
        self.theirs, self.ours = Worker("", box, "theirs"), Worker("trainspool:", box, "ours")
        self.reader = Worker("trainspool:", box, "reader")
        until(box.agent_pid, "an agent")

    def play(self, calls: Calls) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what became of *calls* on both; a process that wrote nothing must read what ours reads."""
        self.count += 1
        theirs, ours = (self.root(name) for name in ("theirs", "ours"))
        answers = self.theirs.ask(root=theirs, calls=calls), self.ours.ask(root=ours, calls=calls)
        again = self.reader.ask(root=ours, calls=None, runs=answers[1]["runs"])
        assert again["seen"] == answers[1]["seen"]
        return answers

    def root(self, name: str) -> str:
        return str(self.box.folder / name / str(self.count))

    def close(self) -> None:
        for worker in (self.theirs, self.ours, self.reader):
            worker.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with Box(tmp_path_factory.mktemp("plugin")) as box:
        made = Both(box)
        yield made
        made.close()


# -- comparing


def agree(theirs: dict[str, Any], ours: dict[str, Any], given_ms: set[int]) -> None:
    assert len(theirs["outcomes"]) == len(ours["outcomes"])
    for number, (they, we) in enumerate(zip(theirs["outcomes"], ours["outcomes"], strict=True)):
        assert _outcome(they, given_ms) == _outcome(we, given_ms), (number, they, we)
    seen, found = theirs["seen"], ours["seen"]
    assert seen["experiments"] == found["experiments"]
    assert seen["listed"] and found["listed"]
    assert len(seen["runs"]) == len(found["runs"])
    for they, we in zip(seen["runs"], found["runs"], strict=True):
        assert _plain(they, given_ms) == _plain({**we, "ended": _ended(they, we)}, given_ms)


def _outcome(outcome: Any, given_ms: set[int]) -> Any:
    if isinstance(outcome, dict):
        return {**_plain(outcome, given_ms), "ended": ...}
    return outcome.split(": ")[:2] if isinstance(outcome, str) else outcome


def _ended(theirs: dict[str, Any], ours: dict[str, Any]) -> Any:
    """Where the list above says that the ends differ, return theirs."""
    no_end = theirs["ended"] is None and ours["status"] != "RUNNING"
    too_early = isinstance(theirs["ended"], int) and ours["ended"] == "some time"
    return theirs["ended"] if no_end or too_early else ours["ended"]


def _plain(run: dict[str, Any], given_ms: set[int]) -> dict[str, Any]:
    """A run with each point once; a time that nobody gave is some time."""
    history = {
        key: sorted(set(Counter((ms if ms in given_ms else -1, step, value) for ms, step, value in points)))
        for key, points in run["history"].items()
    }
    return {**run, "history": history}


# -- sequences

RUN = st.integers(0, 4)
WORDS = st.sampled_from(["", "text", "你好 世界", "a b", "line\nline", "x" * 300, " padded "])
METRIC_KEYS = st.sampled_from(["loss", "train/acc", "val/损失", "a b"])
KEYS = st.sampled_from(["lr", "optimizer/name", "层数", "note"])
BAD_KEYS = st.sampled_from(["", "..", "a//b", "/a", "é~", "x" * 251])
VALUES = st.one_of(st.floats(), st.sampled_from([0.5, -0.0, 1e308, 5e-324]))
STEPS = st.one_of(st.integers(-3, 50), st.sampled_from([2**40, 2**63 - 1]))
TIMES = st.sampled_from([0, 1, 1_600_000_000_000, 1_600_000_000_001])
NAMES = st.sampled_from([None, "named", "named 第一"])
STATUSES = st.sampled_from(["FINISHED", "FAILED", "KILLED"])
TAGS = st.dictionaries(KEYS, WORDS, max_size=2)
PAIRS = st.lists(st.tuples(KEYS, WORDS).map(list), max_size=3, unique_by=lambda pair: pair[0])
NEVER_OTHER = st.lists(st.sampled_from([["batch", "1"], ["批", ""]]), max_size=2, unique_by=lambda pair: pair[0])
POINTS = st.lists(st.tuples(METRIC_KEYS, VALUES, TIMES, STEPS).map(list), max_size=6)
EXPERIMENTS = st.sampled_from(["first", "第二", "base", "Default"])
FILES = st.sampled_from(["a.txt", "文本/说明.txt", "d/e/f.txt", "../up.txt", "/abs.txt"])


def call(name: str, *arguments: Any, **named: Any) -> Any:
    return st.tuples(st.just(name), *arguments, st.fixed_dictionaries(named)).map(list)


CALL = st.one_of(
    call("start_run", run_name=NAMES, nested=st.booleans(), tags=TAGS, description=st.sampled_from([None, "# 说明"])),
    call("block", METRIC_KEYS, st.booleans(), run_name=NAMES, nested=st.just(True)),
    call("resume", RUN),
    call("fluent", st.just("end_run"), STATUSES),
    call("fluent", st.just("log_metric"), METRIC_KEYS, VALUES, step=STEPS, timestamp=TIMES),
    call("fluent", st.just("log_metrics"), st.dictionaries(METRIC_KEYS, VALUES, max_size=3), step=STEPS),
    call("fluent", st.just("log_param"), KEYS, WORDS),
    call("fluent", st.just("log_param"), BAD_KEYS, WORDS),
    call("fluent", st.just("set_tag"), KEYS, WORDS),
    call("fluent", st.just("delete_tag"), KEYS),
    call("fluent", st.just("log_text"), WORDS, FILES),
    call("log_file", WORDS, st.sampled_from([None, "图表", "a/b"])),
    call("log_metric_to", RUN, METRIC_KEYS, VALUES),
    call("create_run", start_time=st.sampled_from([None, 1_600_000_000_000]), run_name=NAMES, tags=TAGS),
    call("log_batch", RUN, POINTS, NEVER_OTHER, PAIRS, synchronous=st.booleans()),
    call("log_batch", RUN, POINTS, NEVER_OTHER, st.tuples(BAD_KEYS, WORDS).map(lambda pair: [list(pair)])),
    call("client_call", st.just("log_metric"), RUN, METRIC_KEYS, VALUES, TIMES, STEPS),
    call("client_call", st.just("log_metric"), RUN, BAD_KEYS, VALUES),
    call("client_call", st.just("log_metric"), RUN, METRIC_KEYS, st.sampled_from(["text", None, [1]])),
    call("client_call", st.just("log_param"), RUN, KEYS, WORDS),
    call("client_call", st.just("set_tag"), RUN, st.one_of(KEYS, st.just("mlflow.runName")), st.just("named tag")),
    call("client_call", st.just("delete_tag"), RUN, KEYS),
    call("client_call", st.just("set_terminated"), RUN, STATUSES, st.sampled_from([None, 1_600_000_000_500])),
    call("client_call", st.just("update_run"), RUN, STATUSES, NAMES),
    call("client_call", st.just("update_run"), RUN, st.just(None), NAMES),
    call("client_call", st.just("delete_run"), RUN),
    call("client_call", st.just("restore_run"), RUN),
    call("client_call", st.just("log_text"), RUN, WORDS, FILES),
    call("client_call", st.just("log_dict"), RUN, TAGS, st.sampled_from(["d.json", "d.yaml"])),
    call("create_experiment", EXPERIMENTS, tags=TAGS),
    call("experiment_call", st.just("set_experiment_tag"), RUN, KEYS, WORDS),
    call("experiment_call", st.just("rename_experiment"), RUN, st.sampled_from(["renamed", "base", "第二"])),
    call("experiment_call", st.just("delete_experiment"), RUN),
    call("experiment_call", st.just("restore_experiment"), RUN),
    call("fluent", st.just("set_experiment"), st.sampled_from(["base", "第二"])),
    call("read_run", RUN),
    call("read_search"),
    call("read_artifact", RUN),
    call("log_input", RUN, KEYS, st.sampled_from(["d1", "d2"]), WORDS),
)
_HOW = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.generate),
)


def play_and_compare(both: Both, calls: Calls) -> None:
    theirs, ours = both.play(calls)
    agree(theirs, ours, {0, 1, 1_600_000_000_000, 1_600_000_000_001})


@settings(_HOW, max_examples=12)
@given(calls=st.lists(CALL, min_size=3, max_size=14))
def test_any_sequence_of_calls_reads_as_on_mlflows_own_store(both: Both, calls: Calls) -> None:
    play_and_compare(both, calls)


@pytest.mark.long
@settings(_HOW, max_examples=150)
@given(calls=st.lists(CALL, min_size=5, max_size=40))
def test_any_long_sequence_of_calls_reads_as_on_mlflows_own_store(both: Both, calls: Calls) -> None:
    play_and_compare(both, calls)


def test_a_batch_with_one_thing_that_mlflow_refuses_leaves_nothing(both: Both) -> None:
    at = 1_600_000_000_000
    good = [["loss", 0.5, at, 1]], [["lr", "0.1"]], [["note", "x"]]
    calls: Calls = [
        ["create_run", {"run_name": "named"}],
        ["log_batch", 0, good[0], good[1], [["a//b", "x"]], {}],
        ["log_batch", 0, good[0], [["a//b", "x"]], good[2], {}],
        ["log_batch", 0, [*good[0], ["a//b", 1.0, at, 1]], good[1], good[2], {}],
        ["log_batch", 0, good[0], [["lr", "1"], ["lr", "2"]], good[2], {}],
        ["read_run", 0, {}],
    ]
    for answer in both.play(calls):
        assert [str(outcome).split()[0] for outcome in answer["outcomes"][1:5]] == ["raised"] * 4
        seen = answer["outcomes"][5]
        assert (seen["history"], seen["params"], "note" in seen["tags"]) == ({}, {}, False)


def test_the_differences_are_as_listed(both: Both) -> None:
    at = 1_600_000_000_000
    calls: Calls = [
        ["create_run", {"run_name": "named"}],
        ["log_batch", 0, [["twice", 0.5, at, 1], ["twice", 0.5, at, 1]], [["lr", "0.1"]], [], {}],
        ["log_batch", 0, [["late", 1.0, at, 1]], [["new", "1"], ["lr", "0.2"]], [], {}],
        ["client_call", "update_run", 0, "FINISHED", None, {}],
        ["create_run", {"run_name": "named"}],
        ["client_call", "set_terminated", 1, "FAILED", 5, {}],
        ["client_call", "set_terminated", 1, "FINISHED", None, {}],
        ["create_experiment", "elsewhere", {"artifact_location": "s3://bucket/x"}],
        ["client_call", "update_run", 1, "SCHEDULED", None, {}],
    ]
    theirs, ours = both.play(calls)
    raised = ["done", "done", "raised", "done", "done", "done", "done"]
    assert [outcome.split()[0] for outcome in theirs["outcomes"]] == [*raised, "done", "done"]
    assert [outcome.split()[0] for outcome in ours["outcomes"]] == [*raised, "raised", "raised"]
    assert "leave artifact_location out" in ours["outcomes"][7] and "SCHEDULED" in ours["outcomes"][8]
    they, we = theirs["seen"]["runs"][0], ours["seen"]["runs"][0]
    assert (they["params"], we["params"]) == ({"lr": "0.1", "new": "1"}, {"lr": "0.1"})
    assert (len(they["history"]["twice"]), len(we["history"]["twice"])) == (2, 1)
    assert "late" not in they["history"] and "late" not in we["history"]
    assert (they["ended"], we["ended"]) == (None, "some time")
    assert ours["seen"]["runs"][1]["status"] == "FINISHED", "the second attempt's"
