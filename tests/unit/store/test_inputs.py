"""Datasets of runs: as MLflow reads them, the same from any order, never half there."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from conformance.recipe import snapshot
from handmade import T0, Stream, contents, feed, open_store

from trainspool_agent.compact import Dictionary
from trainspool_agent.store import limits

RUN = "a" * 32


def a_stream(stream: str | None = None, run_id: str = RUN) -> tuple[Stream, int]:
    made = Stream(stream)
    run = made.run(run_id)
    made.start(run)
    made.frame()
    return made, run


def carried(root: Path, *streams: Stream) -> list[str]:
    store = open_store(root)
    for stream in streams:
        feed(store, stream, dictionary=Dictionary())
    problems = list(store.account(RUN)["problems"])
    store.close()
    return problems


def metas(root: Path, what: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted(root.rglob(f"{what}/*/meta.yaml"))]


def test_a_dataset_lies_where_mlflow_looks(tmp_path: Path) -> None:
    stream, run = a_stream()
    stream.dataset(run, name="with spaces: 'é'", schema='{"a": 1}', tags={"mlflow.data.context": "train"})
    stream.frame()
    assert carried(tmp_path, stream) == []
    (dataset,), (use,) = metas(tmp_path, "datasets"), metas(tmp_path, "inputs")
    assert dataset == {"name": "with spaces: 'é'", "digest": "5e1f", "source_type": "local", "source": "{}",
                       "schema": '{"a": 1}', "profile": None}  # fmt: skip
    assert use["tags"] == {"mlflow.data.context": "train"} and use["source_type"] == "DATASET"
    assert snapshot(tmp_path)[RUN]["inputs"] == ["5e1f"]


def test_of_two_uses_the_first_counts_whichever_comes_first(tmp_path: Path) -> None:
    seen = []
    for number, order in enumerate(itertools.permutations(range(3))):
        streams = []
        for index in range(3):
            stream, run = a_stream(f"{index:032x}")
            stream.dataset(run, time=T0 + 100 - index, tags={"mlflow.data.context": f"{index}"}, source=f"{index}")
            stream.frame()
            streams.append(stream)
        root = tmp_path / str(number)
        carried(root, *(streams[index] for index in order))
        seen.append((metas(root, "datasets"), metas(root, "inputs")))
    assert all(one == seen[0] for one in seen)
    assert seen[0][1][0]["tags"] == {"mlflow.data.context": "2"} and seen[0][0][0]["source"] == "0"


def test_applying_again_changes_nothing(tmp_path: Path) -> None:
    stream, run = a_stream()
    stream.dataset(run)
    stream.dataset(run, name="other", tags={"a": "b"})
    stream.frame()
    carried(tmp_path, stream)
    before = contents(tmp_path)
    assert sum("/inputs/" in name for name in before) == 2
    for path in tmp_path.rglob("trainspool.applied"):
        path.unlink()
    carried(tmp_path, stream)
    assert contents(tmp_path) == before


def test_what_someone_is_writing_just_now_is_left_alone(tmp_path: Path) -> None:
    stream, run = a_stream()
    stream.dataset(run)
    stream.frame()
    carried(tmp_path, stream)
    (path,) = tmp_path.rglob("datasets/*/meta.yaml")
    path.write_text("")
    other, run = a_stream(run_id="b" * 32)
    other.dataset(run)
    other.frame()
    carried(tmp_path, other)
    assert path.read_text() == ""


@pytest.mark.parametrize(
    "about",
    [
        {"name": ""}, {"digest": ""}, {"name": "n" * 501}, {"digest": "d" * 37}, {"source_type": "s" * 37},
        {"profile": "p" * (limits.DATASET_TEXT_CHARACTERS_MAX + 1)},
        {"tags": {f"t{number}": "" for number in range(limits.INPUT_TAGS_MAX + 1)}},
    ],
    ids=lambda about: next(iter(about)),
)  # fmt: skip
def test_what_mlflow_would_not_take_is_refused(tmp_path: Path, about: dict[str, Any]) -> None:
    stream, run = a_stream()
    stream.dataset(run, **about)
    stream.dataset(run, name="good")
    stream.frame()
    (problem,) = carried(tmp_path, stream)
    assert "dataset" in problem
    assert [one["name"] for one in metas(tmp_path, "datasets")] == ["good"]
    assert len(snapshot(tmp_path)[RUN]["inputs"]) == 1


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    stream, run = a_stream()
    carried(tmp_path / "mlruns", stream)
    (folder,) = (tmp_path / "mlruns").glob(f"*/{RUN}")
    (tmp_path / "elsewhere").mkdir()
    (folder.parent / "datasets").symlink_to(tmp_path / "elsewhere")
    stream.dataset(run)
    stream.frame()
    with pytest.raises(Exception, match="link"):
        carried(tmp_path / "mlruns", stream)
    assert list((tmp_path / "elsewhere").iterdir()) == []
