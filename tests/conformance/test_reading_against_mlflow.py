"""What we read from a store is what MLflow reads from it: random runs, random filters, the same runs in the same order.

Where we differ on purpose, it stands here, and nowhere else:

- an AND with nothing on one side of it, two comparisons with nothing between them, and a key of no characters are
  errors; MLflow takes them;
- a comparator that a key does not take (a list after ``=``, too) is an error at once; MLflow tells of it when it
  compares a run, or never;
- a metric line without its line end is left out: it is being written, and its number may be cut;
- the step of a line with a dataset is read; MLflow's file store reads 0;
- within a group of the table (metrics, params, tags) the columns come as the runs bring them; MLflow's come at random.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import trainspool
from trainspool.entities import StoredRun
from trainspool.spool import plainyaml
from trainspool.stream import stream

pytestmark = pytest.mark.filterwarnings("ignore")

EXPERIMENTS = {"0": "Default", "111111111111111111": "images", "222222222222222222": "it goes on", "333": "thrown away"}
TRASHED = "333"
_HOW = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.generate),
)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Ever new places for a store, which both libraries are told of."""
    before = dict(os.environ)
    os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true")
    folder = tmp_path_factory.mktemp("stores")
    yield (folder / str(number) for number in itertools.count())
    stream._store = None
    os.environ.clear()
    os.environ.update(before)


def both(root: Path) -> tuple[Any, Any]:
    """MLflow and trainspool, reading *root*."""
    import mlflow

    for library in (mlflow, trainspool):
        library.set_tracking_uri(str(root))
    return mlflow, trainspool


# -- stores ---------------------------------------------------------------------------------------------------------

METRIC_KEYS, PARAM_KEYS, TAG_KEYS = (
    ["loss", "val/acc", "a b", "精度"],
    ["lr", "opt/name", "层数"],
    ["note", "x.y", "a-b"],
)
NUMBERS = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 1e-3, 1e30, float("nan"), float("inf"), float("-inf")])
TEXTS = st.sampled_from(["0.1", "0.2", "Adam", "adam", "ada%", "a_b", "", "it's", "two\nlines", "损失", "5", "[x]"])
TIMES = st.integers(1_600_000_000_000, 1_600_000_000_004)
POINTS = st.lists(st.tuples(TIMES, NUMBERS, st.integers(-1, 3)), min_size=1, max_size=4)
RUN = st.fixed_dictionaries(
    {
        "status": st.integers(1, 5),
        "start_time": TIMES,
        "end_time": st.one_of(st.none(), TIMES),
        "lifecycle_stage": st.sampled_from(["active", "active", "deleted"]),
        "run_name": st.sampled_from(["first", "First", "second run", "损失", ""]),
        "user_id": st.sampled_from(["anna", "bo"]),
        "metrics": st.dictionaries(st.sampled_from(METRIC_KEYS), POINTS, max_size=3),
        "params": st.dictionaries(st.sampled_from(PARAM_KEYS), TEXTS, max_size=3),
        "tags": st.dictionaries(st.sampled_from([*TAG_KEYS, "mlflow.runName"]), TEXTS, max_size=3),
        "dataset": st.sampled_from([None, None, "mnist", "cifar"]),
        "ours": st.booleans(),
    }
)
EXPERIMENT = st.fixed_dictionaries(
    {
        "runs": st.lists(RUN, max_size=4),
        "tags": st.dictionaries(st.sampled_from(TAG_KEYS), TEXTS, max_size=2),
        "creation_time": TIMES,
        "ours": st.booleans(),
    }
)
STORE = st.lists(EXPERIMENT, min_size=len(EXPERIMENTS), max_size=len(EXPERIMENTS))


def write_store(root: Path, store: list[dict[str, Any]]) -> None:
    numbers = itertools.count()
    (root / "models").mkdir(parents=True)
    (root / ".trash").mkdir()
    for (experiment_id, name), experiment in zip(EXPERIMENTS.items(), store, strict=True):
        folder = root / (".trash" if experiment_id == TRASHED else "") / experiment_id
        values = {
            "experiment_id": experiment_id,
            "name": name,
            "artifact_location": str(root / experiment_id),
            "lifecycle_stage": "deleted" if experiment_id == TRASHED else "active",
            "creation_time": experiment["creation_time"],
            "last_update_time": experiment["creation_time"],
        }
        write_meta(folder, values, ours=experiment["ours"])
        write_texts(folder / "tags", experiment["tags"])
        for run in experiment["runs"]:
            write_run(folder, experiment_id, f"{next(numbers) * 7919 % 97:032x}", run)


def write_run(experiment: Path, experiment_id: str, run_id: str, run: dict[str, Any]) -> None:
    folder = experiment / run_id
    keys = ("status", "start_time", "end_time", "lifecycle_stage", "run_name", "user_id")
    for name in ("metrics", "params", "tags", "artifacts"):
        (folder / name).mkdir(parents=True)
    for key, points in run["metrics"].items():
        path = folder / "metrics" / key
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{ms} {value!r} {step}\n" for ms, value, step in points), "utf-8")
    write_texts(folder / "params", run["params"])
    write_texts(folder / "tags", run["tags"])
    if run["dataset"] is not None:
        about = {"name": run["dataset"], "digest": run["dataset"][:2], "source_type": "local", "source": "{}"}
        write_meta(
            experiment / "datasets" / run["dataset"], {**about, "schema": None, "profile": None}, ours=run["ours"]
        )
        used = {
            "source_type": "DATASET",
            "source_id": run["dataset"],
            "destination_type": "RUN",
            "destination_id": run_id,
        }
        write_meta(folder / "inputs" / "one", {**used, "tags": {"mlflow.data.context": "train"}}, ours=run["ours"])
    about = {
        "run_id": run_id,
        "run_uuid": run_id,
        "experiment_id": experiment_id,
        "artifact_uri": f"{folder}/artifacts",
    }
    write_meta(folder, {**about, **{key: run[key] for key in keys}}, ours=run["ours"])


def write_meta(folder: Path, values: dict[str, Any], *, ours: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = plainyaml.render(values) if ours else yaml.safe_dump(values, allow_unicode=True).encode()
    (folder / "meta.yaml").write_bytes(data)


def write_texts(folder: Path, texts: dict[str, str]) -> None:
    for key, text in texts.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


# -- questions ------------------------------------------------------------------------------------------------------


def spelled(kinds: list[str], keys: list[str]) -> Any:
    """An identifier: any spelling of its kind, its key quoted where it must be."""

    def write(kind: str, key: str, quote: str) -> str:
        plain = key.replace(".", "").replace("_", "").isalnum()
        return f"{kind}.{key}" if plain and quote == "`" and len(key) % 2 else f"{kind}.{quote}{key}{quote}"

    return st.builds(write, st.sampled_from(kinds), st.sampled_from(keys), st.sampled_from(['"', "`"]))


def comparing(left: Any, signs: list[str], right: Any) -> Any:
    return st.builds(lambda *parts: " ".join(parts), left, st.sampled_from(signs), right)


ORDERED, WORDED = ["=", "!=", "<", "<=", ">", ">="], ["=", "!=", "LIKE", "ILIKE", "like"]
WORDS = st.sampled_from(["0.1", "adam", "Adam", "a%", "%a%", "a_b", "_", "", "%", "损%", "two%", "%lines", "[x]", "5"])
QUOTED = st.one_of(WORDS.map(lambda text: f"'{text}'"), WORDS.map(lambda text: f'"{text}"'), st.just('"it\'s"'))
NUMBER = st.sampled_from(["0", "1", "-1", "0.5", ".5", "1e-3", "-1.5", "1e30"])
TIME = st.sampled_from(["1600000000000", "1600000000002", "1600000000003.5", "0"])
PARAMS, TAGS = spelled(["params", "param", "parameters"], PARAM_KEYS), spelled(["tags", "tag"], TAG_KEYS)
METRICS = spelled(["metrics", "metric"], METRIC_KEYS)
TEXT_ATTRIBUTES = st.sampled_from(
    ["run_id", "run_name", "attributes.status", "attr.user_id", "artifact_uri", "run.`run name`"]
)
TIME_ATTRIBUTES = st.sampled_from(["start_time", "attributes.end_time", "created", "attribute.Created"])
IDS = st.lists(st.integers(0, 96), min_size=1, max_size=3).map(
    lambda numbers: "(" + ", ".join(f"'{number:032x}'" for number in numbers) + ")"
)
CLAUSE = st.one_of(
    comparing(METRICS, ORDERED, NUMBER),
    comparing(PARAMS, WORDED, QUOTED),
    comparing(TAGS, WORDED, QUOTED),
    comparing(st.one_of(PARAMS, TAGS), ["IS NULL", "IS NOT NULL", "is  null"], st.just("")),
    comparing(TEXT_ATTRIBUTES, WORDED, QUOTED),
    comparing(st.just("status"), ["=", "!="], st.sampled_from(["'FINISHED'", "'RUNNING'"])),
    comparing(TIME_ATTRIBUTES, ORDERED, TIME),
    comparing(st.just("attributes.run_id"), ["IN", "NOT IN", "in"], IDS),
    comparing(
        st.sampled_from(["dataset.name", "datasets.digest"]), ["=", "!=", "LIKE"], st.sampled_from(["'mnist'", "'c%'"])
    ),
    comparing(st.just("dataset.context"), ["IN", "NOT IN"], st.just("('train', 'test')")),
)
FILTER = st.lists(CLAUSE, max_size=3).map(" AND ".join)
ORDER = st.builds(
    lambda key, way: f"{key}{way}",
    st.one_of(METRICS, PARAMS, TAGS, TIME_ATTRIBUTES, st.sampled_from(["run_id", "run_name", "status", "user_id"])),
    st.sampled_from(["", " ASC", " DESC", " desc"]),
)
QUESTION = st.fixed_dictionaries(
    {
        "filter_string": FILTER,
        "order_by": st.one_of(st.none(), st.lists(ORDER, max_size=3)),
        "run_view_type": st.integers(1, 3),
        "max_results": st.sampled_from([0, 1, 3, 1000]),
    },
    optional={
        "experiment_ids": st.lists(st.sampled_from([*EXPERIMENTS, "999"]), min_size=1, unique=True),
        "search_all_experiments": st.just(True),
    },
)
EXPERIMENT_CLAUSE = st.one_of(
    comparing(st.sampled_from(["name", "attribute.name"]), WORDED, st.sampled_from(["'images'", "'%a%'", "'IT%'"])),
    comparing(st.just("experiment_id"), ["=", "LIKE"], st.sampled_from(["'0'", "'%1'"])),
    comparing(st.just("experiment_id"), ["IN", "NOT IN"], st.just("('0', '333')")),
    comparing(
        st.sampled_from(["creation_time", "last_update_time"]), ORDERED, st.sampled_from(["0", "1600000000003.5"])
    ),
    comparing(TAGS, WORDED, QUOTED),
    comparing(TAGS, ["IS NULL", "IS NOT NULL"], st.just("")),
)
EXPERIMENT_KEYS = st.sampled_from(["name", "experiment_id", "attribute.creation_time", "last_update_time"])
EXPERIMENT_QUESTION = st.fixed_dictionaries(
    {
        "filter_string": st.lists(EXPERIMENT_CLAUSE, max_size=2).map(" AND ".join),
        "order_by": st.one_of(
            st.none(), st.lists(st.builds(str.__add__, EXPERIMENT_KEYS, st.sampled_from(["", " DESC"])), max_size=2)
        ),
        "view_type": st.integers(1, 3),
        "max_results": st.sampled_from([None, 1, 2]),
    }
)


def answer(call: Any, question: dict[str, Any]) -> Any:
    """What a library answers, or that it raises."""
    try:
        return call(**question)
    except Exception as error:  # noqa: BLE001  whatever it raises is compared
        return f"raised: {error}"


def plain(run: Any) -> dict[str, Any]:
    """A run of either library as values that can be compared; NaN is one."""
    keys = StoredRun.__annotations__ and (
        "run_id run_name experiment_id user_id status start_time end_time artifact_uri lifecycle_stage".split()
    )
    used = [
        (one.dataset.name, one.dataset.digest, [(t.key, t.value) for t in one.tags])
        for one in run.inputs.dataset_inputs
    ]
    return {
        **{key: getattr(run.info, key) for key in keys},
        "metrics": {key: repr(value) for key, value in run.data.metrics.items()},
        "params": run.data.params,
        "tags": run.data.tags,
        "datasets": used,
    }


def written(run: Any) -> dict[str, Any]:
    """A run of either library as it turns itself into dictionaries, but for models."""
    found = run.to_dictionary()
    found.pop("outputs", None)
    found["inputs"].pop("model_inputs", None)
    assert dict(run)["info"] == run.info and list(dict(run.data)) == ["metrics", "params", "tags"]
    data = repr({kind: sorted(values.items()) for kind, values in found["data"].items()})  # NaN as text
    return {**found, "info": list(found["info"].items()), "data": data}


def ask(theirs: Any, ours: Any, question: dict[str, Any]) -> None:
    they, we = (answer(one.search_runs, {**question, "output_format": "list"}) for one in (theirs, ours))
    if isinstance(they, str) or isinstance(we, str):
        assert isinstance(they, str) and isinstance(we, str), (question, they, we)
        return
    assert [plain(run) for run in we] == [plain(run) for run in they], question
    assert [written(run) for run in we] == [written(run) for run in they], question
    frames = [library.search_runs(**question) for library in (theirs, ours)]
    assert [name.split(".")[0] for name in frames[0].columns] == [name.split(".")[0] for name in frames[1].columns]
    pd.testing.assert_frame_equal(frames[1], frames[0], check_like=True)


@settings(_HOW, max_examples=12)
@given(store=STORE, questions=st.lists(QUESTION, min_size=6, max_size=6))
def test_any_question_to_any_store_has_mlflows_answer(
    roots: Iterator[Path], store: list[dict[str, Any]], questions: list[dict[str, Any]]
) -> None:
    root = next(roots)
    write_store(root, store)
    libraries = both(root)
    for question in questions:
        ask(*libraries, question if len(question) > 4 else {**question, "search_all_experiments": True})


@pytest.mark.long
@settings(_HOW, max_examples=1000)
@given(store=STORE, questions=st.lists(QUESTION, min_size=6, max_size=6))
def test_very_many_questions_have_mlflows_answer(
    roots: Iterator[Path], store: list[dict[str, Any]], questions: list[dict[str, Any]]
) -> None:
    root = next(roots)
    write_store(root, store)
    libraries = both(root)
    for question in questions:
        ask(*libraries, question if len(question) > 4 else {**question, "search_all_experiments": True})


@settings(_HOW, max_examples=10)
@given(store=STORE, questions=st.lists(EXPERIMENT_QUESTION, min_size=6, max_size=6))
def test_any_question_after_experiments_has_mlflows_answer(
    roots: Iterator[Path], store: list[dict[str, Any]], questions: list[dict[str, Any]]
) -> None:
    root = next(roots)
    write_store(root, store)
    theirs, ours = both(root)
    for question in questions:
        they, we = (answer(library.search_experiments, question) for library in (theirs, ours))
        assert isinstance(they, list) and isinstance(we, list), (question, they, we)
        assert [tuple(dict(one)[key] for key in _OF_EXPERIMENTS) for one in they] == [
            tuple(getattr(one, key) for key in _OF_EXPERIMENTS) for one in we
        ], question
        assert all(dict(one).items() <= dict(other).items() for one, other in zip(we, they, strict=True))


_OF_EXPERIMENTS = "experiment_id name artifact_location lifecycle_stage creation_time last_update_time tags".split()


@settings(_HOW, max_examples=10)
@given(store=STORE)
def test_one_run_one_experiment_and_every_point_are_as_mlflow_reads_them(
    roots: Iterator[Path], store: list[dict[str, Any]]
) -> None:
    root = next(roots)
    write_store(root, store)
    theirs, ours = both(root)
    client = theirs.MlflowClient(str(root))
    for experiment_id, name in EXPERIMENTS.items():
        for they, we in (
            (theirs.get_experiment(experiment_id), ours.get_experiment(experiment_id)),
            (theirs.get_experiment_by_name(name), ours.get_experiment_by_name(name)),
        ):
            assert all(getattr(they, key) == getattr(we, key) for key in _OF_EXPERIMENTS)
    for run in ours.search_runs(list(EXPERIMENTS), run_view_type=3, output_format="list"):
        run_id = run.info.run_id
        assert plain(ours.get_run(run_id)) == plain(theirs.get_run(run_id)) == plain(run)
        for key in METRIC_KEYS:
            points = [
                [(point.key, repr(point.value), point.timestamp, point.step) for point in history]
                for history in (ours.get_metric_history(run_id, key), client.get_metric_history(run_id, key))
            ]
            assert points[0] == points[1]


# -- what is no question --------------------------------------------------------------------------------------------

ONE = {
    "metrics": {"loss": [(1, 0.5, 0)]},
    "params": {"lr": "0.1"},
    "tags": {"note": "x"},
    "dataset": "mnist",
    "ours": True,
}
PLAIN_RUN = {"status": 3, "start_time": 5, "end_time": 6, "lifecycle_stage": "active", "run_name": "r", "user_id": "u"}
ONE_RUN: list[dict[str, Any]] = [
    {"runs": [{**PLAIN_RUN, **ONE}] if number == 0 else [], "tags": {}, "creation_time": 5, "ours": True}
    for number in range(len(EXPERIMENTS))
]
FILTERS = """
metrics.loss > 0.4 | metrics.loss>0.4 and params.lr='0.1' | metrics.'loss' > 0 | `metrics`.`loss` > 0
tags.mlflow.runName = 'r' | params.lr = '0''1' | metrics.loss > 1. | metrics.loss > 1e0 | status = 'FINISHED'
run_id IN ('a',) | run_id IN ("a", 'b') | tags.select IS NULL | params.class IS NULL | metrics.order > 1
run_id IN () | run_id IN (1) | params.lr IN ('a') | status IN ('a') | params.lr = 5 | params.lr = foo | params.lr = `a`
metrics.loss = 'a' |
metrics.loss LIKE 5 | metrics.loss <> 1 | metrics.loss == 1 | metrics.loss > nan | metrics.loss > +1
metrics.loss > - 1 | foo.bar = 1 | foo = 'a' | attributes.foo = 'a' | dataset.foo = 'x' | metrics.a-b > 1 | metrics.loss
metrics.loss > |
> 1 | metrics.loss > 1 OR metrics.loss < 0 | metrics.loss IS NULL | status IS NULL | dataset.name IS NULL
params.lr NOT LIKE 'a' |
params.lr > '0' | start_time = 'a' | start_time LIKE 5 | (metrics.loss > 1) | "metrics".loss > 1
metrics.loss > 1; metrics.loss < 2 | metrics . loss > 1 | run_name > 'a' | ' | params.lr = 'a | x y z | ;
"""
ORDERS = """
metrics.loss | metrics.loss DESC | metrics.`loss` asc | metrics."loss" | created | run name | foo | metrics.loss up |
metrics.loss DESC x | dataset.name | foo.bar | 5
"""


def listed(text: str) -> list[str]:
    return [one.strip() for line in text.strip().splitlines() for one in f"{line} ".split(" | ") if one.strip()]


@pytest.mark.parametrize(
    "question", [{"filter_string": one} for one in listed(FILTERS)] + [{"order_by": [one]} for one in listed(ORDERS)]
)
def test_what_mlflow_takes_is_taken_and_what_it_refuses_refused(
    roots: Iterator[Path], question: dict[str, Any]
) -> None:
    root = next(roots)
    write_store(root, ONE_RUN)
    ask(*both(root), {**question, "search_all_experiments": True})


@pytest.mark.parametrize(
    "text",
    [
        "metrics.loss > 0 AND",
        "AND metrics.loss > 0",
        "metrics.loss > 0 params.lr = '0.1'",
        "metrics.loss > 0 AND AND lr = 'x'",
        "metrics. > 1",
    ],
)
def test_a_filter_that_joins_nothing_is_an_error(roots: Iterator[Path], text: str) -> None:
    root = next(roots)
    write_store(root, ONE_RUN)
    _, ours = both(root)
    with pytest.raises(trainspool.TrainspoolException, match=r"Invalid clause\(s\) in filter string"):
        ours.search_runs(["0"], text, output_format="list")


def test_a_comparator_that_fits_nothing_is_an_error_also_where_no_run_is(roots: Iterator[Path]) -> None:
    root = next(roots)
    write_store(root, [{**one, "runs": []} for one in ONE_RUN])
    theirs, ours = both(root)
    assert theirs.search_runs(["0"], "metrics.loss LIKE 5", output_format="list") == []
    with pytest.raises(trainspool.TrainspoolException, match="Invalid comparator 'LIKE'"):
        ours.search_runs(["0"], "metrics.loss LIKE 5", output_format="list")


def test_points_that_mlflow_misreads_are_read_right(roots: Iterator[Path]) -> None:
    root = next(roots)
    write_store(root, ONE_RUN)
    theirs, ours = both(root)
    run = ours.search_runs(["0"], output_format="list")[0]
    path = root / "0" / run.info.run_id / "metrics" / "loss"
    path.write_text("1 0.5 7 mnist d1\n2 0.25 1")
    point, *others = ours.get_metric_history(run.info.run_id, "loss")
    assert (point.step, point.value, point.dataset_name, point.dataset_digest) == (7, 0.5, "mnist", "d1") and not others
    misread = theirs.MlflowClient(str(root)).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in misread] == [(0, 0.5), (1, 0.25)], "MLflow mended it: so say"
