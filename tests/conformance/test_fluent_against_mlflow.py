"""The same calls, made with MLflow and with trainspool: MLflow's client reads the same runs.

Where we differ on purpose, it stands here, and nowhere else:

- a param's second, other value raises in MLflow; here the first is kept, the other becomes a tag ``param.<key>.v2``;
- points that are equal in key, ms, step and value are one point (MLflow's own migration fails on two);
- a step with a fraction, a step of 2**63, and True as a step raise; MLflow writes them and cannot read them back;
- two keys of which one is a folder of the other (``a``, ``a/b``): both are kept, one of them under another name;
- an artifact where another one has a folder, or a folder where another is a file, raises in MLflow; here the run tells
  it in its tag ``trainspool.problem``, as the store is looked at later;
- a run id that nobody knows is taken, also while another experiment is set; MLflow looks it up, and a log call of ours
  looks nowhere. A run that is resumed while it is active is KILLED if one of the two was; in MLflow the last one says;
- a key part of more than 255 bytes raises at the call;
- tags of ours begin with ``trainspool.``.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import SHARED_MEMORY, Box, until
from conformance import recipe
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

WORKER = Path(__file__).with_name("fluent_worker.py")
Calls = list[list[Any]]


class Worker:
    """A process that plays sequences with one library."""

    def __init__(self, library: str, folder: Path, environment: dict[str, str]) -> None:
        with open(folder / f"{library}.err", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), library],
                env={**environment, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.stderr = folder / f"{library}.err"

    def play(self, root: Path, calls: Calls) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"root": str(root), "calls": calls}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.stderr.read_text()[-3000:]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class Both:
    """MLflow and trainspool, side by side, with an agent that carries."""

    def __init__(self, box: Box) -> None:
        self.box, self.count = box, 0
        box.start_agent(wait=False)
        self.theirs, self.ours = (Worker(name, box.folder, box.environment) for name in ("mlflow", "trainspool"))
        until(box.agent_pid, "an agent")

    def play(self, calls: Calls) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what became of *calls* in both: outcomes, and runs as MLflow's client reads them, in their order."""
        self.count += 1
        answers = []
        for name, worker in (("theirs", self.theirs), ("ours", self.ours)):
            root = self.box.folder / name / str(self.count)
            answer = worker.play(root, calls)
            assert answer.get("stored", True), self.box.agent_log()[-3000:]
            seen = recipe.snapshot(root)
            assert set(seen) == set(answer["runs"]), (name, set(seen) ^ set(answer["runs"]))
            answer["seen"] = [_comparable(seen[run], answer["runs"], root) for run in answer["runs"]]
            answers.append(answer)
        return answers[0], answers[1]

    def close(self) -> None:
        self.theirs.close()
        self.ours.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with Box(tmp_path_factory.mktemp("fluent")) as box:
        made = Both(box)
        yield made
        made.close()


def _comparable(run: dict[str, Any], runs: list[str], root: Path) -> dict[str, Any]:
    tags = {
        key: value
        for key, value in run["tags"].items()
        if not key.startswith("trainspool.") and not (key.startswith("param.") and ".v" in key)
    }
    if "mlflow.parentRunId" in tags:
        tags["mlflow.parentRunId"] = str(runs.index(tags["mlflow.parentRunId"]))
    name = tags.pop("mlflow.runName")
    assert name == run["info"]["run_name"]
    folder = root / run["eid"] / run["info"]["run_id"] / "artifacts"
    return {
        "experiment": run["exp"],
        "status": run["info"]["status"],
        "ended": run["info"]["end_time"] is not None,
        "user": run["info"]["user_id"],
        "name": name if name.startswith("named") else "a random one",
        "params": run["params"],
        "tags": tags,
        "history": run["hist"],
        "artifacts": {
            str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()
        },
    }


def agree(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Both did the same, but for the differences listed above."""
    for number, (they, we) in enumerate(zip(theirs["outcomes"], ours["outcomes"], strict=True)):
        if "Changing param values is not allowed" not in they:
            assert they.split()[0] == we.split()[0], (number, they, we)
    assert len(theirs["seen"]) == len(ours["seen"])
    for they, we in zip(theirs["seen"], ours["seen"], strict=True):
        assert they.pop("history").keys() == we["history"].keys()
        assert they == {key: value for key, value in we.items() if key != "history"}


def points_agree(theirs: dict[str, list[Any]], ours: dict[str, list[Any]], given_ms: set[int]) -> None:
    """Every point, as often; those with a time of their own once, as they are one point."""
    assert theirs.keys() == ours.keys()
    for key, points in theirs.items():
        expected, found = _counted(points, given_ms), _counted(ours[key], given_ms)
        assert expected.keys() == found.keys(), key
        for point, count in expected.items():
            if point[0] is None:
                assert 1 <= found[point] <= count, (key, point)  # fewer if they fell into one ms
            else:
                assert found[point] == 1, (key, point)


def _counted(points: list[Any], given_ms: set[int]) -> Counter[tuple[int | None, int, str]]:
    return Counter((ms if ms in given_ms else None, step, _value(value)) for ms, step, value in points)


def _value(text: str) -> str:
    number = float(text)
    return repr(math.copysign(sys.float_info.max, number) if math.isinf(number) else number + 0.0)


# -- sequences

WORDS = st.sampled_from(["", "text", "你好 世界", "a b", "line\nline", "x" * 300, "# é", " padded "])
METRIC_KEYS = st.sampled_from(["loss", "train/acc", "val/损失", "a b", "x.y-z_1", "lr:0"])
KEYS = st.sampled_from(["lr", "optimizer/name", "层数", "note", "a b"])
BAD_KEYS = st.sampled_from(["", "..", "../up", "a//b", "/a", "a/", "é~", "x" * 251])
VALUES = st.one_of(
    st.floats(),
    st.integers(-(10**6), 10**6),
    st.booleans(),
    st.sampled_from(["0.5", "1e-3", "nan", 0.0, -0.0, 1e308, 5e-324, 10**30]),
)
BAD_VALUES = st.sampled_from(["text", None, [1.0], 10**400, {}])
STEPS = st.one_of(st.none(), st.integers(-3, 50), st.sampled_from([2**40, -(2**40), 2**63 - 1]))
TIMES = st.one_of(st.none(), st.integers(1_600_000_000_000, 1_600_000_000_003))
PARAMS = st.one_of(WORDS, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers(), max_size=3))
FOLDERS = st.sampled_from([None, "图表", "a/b"])
NAMES = st.sampled_from([None, "named", "named 第一", "named: [yes]"])
TAGS = st.dictionaries(KEYS, st.one_of(WORDS, st.integers(), st.booleans(), st.none()), max_size=3)


def call(name: str, *arguments: Any, **named: Any) -> Any:
    return st.tuples(st.just(name), *arguments, st.fixed_dictionaries(named)).map(list)


def starting(name: str, *arguments: Any) -> Any:
    about = {"run_name": NAMES, "nested": st.booleans(), "tags": TAGS, "description": st.sampled_from([None, "# 说明"])}
    return call(name, *arguments, **about)


CALL = st.one_of(
    starting("start_run"),
    starting("start_run"),
    starting("block", KEYS),
    starting("failing_block", METRIC_KEYS),
    call("end_run", st.sampled_from(["FINISHED", "FAILED", "KILLED"])),
    call("end_run"),
    call("set_experiment", st.sampled_from(["base", "other", "图像 分类"])),
    call("log_param", KEYS, PARAMS),
    call("log_param", BAD_KEYS, PARAMS),
    call("log_metric", METRIC_KEYS, VALUES, step=STEPS, timestamp=TIMES),
    call("log_metric", METRIC_KEYS, VALUES, step=STEPS),
    call("log_metric", METRIC_KEYS, BAD_VALUES),
    call("log_metric", BAD_KEYS, VALUES),
    call("log_metrics", st.dictionaries(METRIC_KEYS, VALUES, max_size=4), step=STEPS, timestamp=TIMES),
    call("set_tag", KEYS, st.one_of(WORDS, st.integers(), st.none())),
    call("set_tag", BAD_KEYS.filter(lambda key: len(key) < 250), WORDS),
    call("set_tags", TAGS),
    call("delete_tag", KEYS),
    call("log_text", WORDS, st.sampled_from(["a.txt", "文本/说明.txt", "d/e/f.txt", "../up.txt", "/abs.txt"])),
    call(
        "log_dict",
        st.dictionaries(WORDS, PARAMS, max_size=3),
        st.sampled_from(["d.json", "d.yaml", "sub/无.json", "dict"]),
    ),
    call("log_artifact", st.sampled_from(["one.txt", "二.txt"]), WORDS, FOLDERS),
    call("log_artifacts", st.dictionaries(st.sampled_from(["x.txt", "深/y.txt", "深/z"]), WORDS, max_size=3), FOLDERS),
)


def play_and_compare(both: Both, calls: Calls) -> None:
    times = {call[-1].get("timestamp") for call in calls} - {None}
    theirs, ours = both.play(calls)
    histories = [(they["history"], we["history"]) for they, we in zip(theirs["seen"], ours["seen"], strict=True)]
    for they, we in histories:
        points_agree(they, we, times)
    agree(theirs, ours)


ANY_SEQUENCE = st.lists(CALL, min_size=1, max_size=14)
_HOW = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.generate),
)


@settings(_HOW, max_examples=15)
@given(calls=ANY_SEQUENCE)
def test_any_sequence_of_calls_gives_what_mlflow_gives(both: Both, calls: Calls) -> None:
    play_and_compare(both, calls)


@pytest.mark.long
@settings(_HOW, max_examples=300)
@given(calls=st.lists(CALL, min_size=5, max_size=40))
def test_any_long_sequence_of_calls_gives_what_mlflow_gives(both: Both, calls: Calls) -> None:
    play_and_compare(both, calls)


# -- misuse

RAISE_IN_BOTH: Calls = [
    ["log_metric", "loss", "text", {}],
    ["log_metric", "loss", None, {}],
    ["log_metric", "loss", [1], {}],
    ["log_metric", "loss", 1.0, {"timestamp": -5}],
    ["log_metric", "a//b", 1.0, {}],
    ["log_metric", None, 1.0, {}],
    ["log_metric", "x" * 251, 1.0, {}],
    ["log_metric", "loss", 1.0, {"step": "one"}],
    ["log_metrics", {"fine": 1.0, "": 1.0}, {}],
    ["log_param", "", 1, {}],
    ["log_param", "../x", 1, {}],
    ["set_tag", "", "x", {}],
    ["delete_tag", "never set", {}],
    ["start_run", {}],
    ["start_run", {"nested": True, "description": "x", "tags": {"mlflow.note.content": "y"}}],
    ["start_run", {"nested": True, "parent_run_id": "f" * 32}],
    ["start_run", {"run_id": "not/a run id", "nested": True}],
    ["set_experiment", {}],
    ["set_experiment", "", {}],
    ["set_experiment", "name", {"experiment_id": "1"}],
    ["set_experiment", {"experiment_id": "987654321"}],
    ["log_text", "x", "../outside.txt", {}],
    ["log_artifact", "one.txt", "x", "../../outside", {}],
]


def test_misuse_raises_where_mlflow_raises(both: Both) -> None:
    theirs, ours = both.play([["start_run", {}], *RAISE_IN_BOTH])
    raised = [
        (call, they, we)
        for call, they, we in zip(RAISE_IN_BOTH, theirs["outcomes"][1:], ours["outcomes"][1:], strict=True)
    ]
    assert not [one for one in raised if not (one[1].startswith("raised") and one[2].startswith("raised"))]
    agree(theirs, ours)
    assert not ours["seen"][0]["history"], "what raised left nothing"


def test_none_as_a_tags_value_is_what_mlflow_makes_of_it_at_each_call(both: Both) -> None:
    calls: Calls = [
        ["start_run", {"tags": {"begun": None, "n": 1}}],
        ["set_tag", "set", None, {}],
        ["set_tags", {"several": None}, {}],
        ["end_run", {}],
        ["start_run", {}],
        ["resume", 0, {"nested": True, "tags": {"resumed": None}}],
    ]
    theirs, ours = both.play(calls)
    told = {"begun": "", "n": "1", "set": "None", "several": "None", "resumed": "None"}
    assert ours["seen"][0]["tags"].items() >= told.items()
    agree(theirs, ours)


def test_the_differences_are_as_listed(both: Both) -> None:
    calls: Calls = [
        ["start_run", {"run_name": "named"}],
        ["log_param", "lr", 0.1, {}],
        ["log_param", "lr", 0.2, {}],
        ["log_metric", "twice", 0.5, {"step": 1, "timestamp": 1_600_000_000_000}],
        ["log_metric", "twice", 0.5, {"step": 1, "timestamp": 1_600_000_000_000}],
        ["set_experiment", "it's", {}],
    ]
    theirs, ours = both.play(calls)
    assert [outcome.split()[0] for outcome in theirs["outcomes"]] == [
        "done",
        "done",
        "raised",
        "done",
        "done",
        "raised",
    ]
    assert [outcome.split()[0] for outcome in ours["outcomes"]] == ["done", "done", "done", "done", "done", "raised"]
    assert theirs["seen"][0]["params"] == ours["seen"][0]["params"] == {"lr": "0.1"}
    assert (len(theirs["seen"][0]["history"]["twice"]), len(ours["seen"][0]["history"]["twice"])) == (2, 1)
