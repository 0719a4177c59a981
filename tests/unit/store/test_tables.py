"""Tables that grow: every row once, in the order of the calls, whatever comes twice, late, or dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from faults import KILLED, FaultyFiles, Killed, under
from handmade import Stream, feed, open_store

from trainspool_agent import files
from trainspool_agent.compact import Dictionary
from trainspool_agent.store import limits, tables
from trainspool_agent.store.errors import Refused, StoreRefused
from trainspool_agent.store.tables import Part

RUN = "a" * 32


async def inline(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


class Box:
    """A store, a staging folder, and one stream into it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.staging = folder / "mlruns", folder / "staging"
        self.staging.mkdir(parents=True)
        self.stream = Stream()
        self.run = self.stream.run(RUN)
        self.stream.start(self.run)
        self.stream.frame()
        self.staged = itertools.count()

    def rows(
        self, data: list[list[Any]], columns: list[str] | None = None, *, path: str = "t.json", **how: Any
    ) -> None:
        """Log *data* in a frame of its own."""
        content = json.dumps({"columns": columns or ["a"], "data": data}).encode()
        self.raw(content, path=path, **how)

    def raw(self, content: bytes, *, path: str = "t.json", **how: Any) -> None:
        name = f"part{next(self.staged)}"
        (self.staging / name).write_bytes(content)
        self.stream.media(self.run, path, name, len(content), form="rows", **how)
        self.stream.frame()

    def carry(self, **how: Any) -> list[str]:
        """Carry all frames into the store; return the problems of the run."""
        store = open_store(self.root)
        feed(store, self.stream, self.staging, dictionary=Dictionary(), **how)
        problems = list(store.account(RUN)["problems"])
        store.close()
        return problems

    @property
    def folder(self) -> Path:
        (folder,) = self.root.glob(f"*/{RUN}")
        return folder

    def table(self, path: str = "t.json") -> tuple[list[str], list[list[Any]]]:
        found = json.loads((self.folder / "artifacts" / path).read_bytes())
        return found["columns"], found["data"]

    def forget(self) -> None:
        """Lose the checkpoints: everything is applied again."""
        for path in self.root.rglob("trainspool.applied"):
            path.unlink()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_rows_are_added_in_the_order_of_the_calls(box: Box) -> None:
    box.rows([[1], [2]])
    box.rows([[3]], path="other/t.json")
    box.rows([[4], ["é"]])
    assert box.carry() == []
    assert box.table() == (["a"], [[1], [2], [4], ["é"]])
    assert box.table("other/t.json") == (["a"], [[3]])
    tag = json.loads((box.folder / "tags/mlflow.loggedArtifacts").read_text())
    assert tag == [{"path": "other/t.json", "type": "table"}, {"path": "t.json", "type": "table"}]


def test_applying_again_adds_nothing(box: Box) -> None:
    for number in range(5):
        box.rows([[number]])
    box.carry()
    before = (box.folder / "artifacts/t.json").read_bytes()
    box.forget()
    assert box.carry(size=2) == []
    assert (box.folder / "artifacts/t.json").read_bytes() == before


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_streams_gives_the_same_table(tmp_path: Path, order: tuple[int, ...]) -> None:
    box = Box(tmp_path)
    streams = [Stream(f"{number:032x}") for number in range(3)]
    for number, stream in enumerate(streams):
        box.stream, box.run = stream, stream.run(RUN)
        stream.now += 1000 * number
        for row in range(3):
            box.rows([[f"{row}{number}"]])
    store = open_store(box.root)
    for number in order:
        feed(store, streams[number], box.staging, dictionary=Dictionary())
    store.close()
    assert box.table()[1] == [[f"{row}{number}"] for row in range(3) for number in range(3)]


def test_columns_that_differ_are_all_there(box: Box) -> None:
    box.rows([[1, 2]], ["a", "b"])
    box.rows([[3, 4]], ["c", "a"])
    box.rows([], ["d"])
    box.carry()
    assert box.table() == (["a", "b", "c", "d"], [[1, 2, None, None], [4, None, 3, None]])


def test_what_mlflow_had_put_there_stays_in_front(box: Box) -> None:
    box.carry()
    theirs = box.folder / "artifacts/t.json"
    theirs.write_text('{"columns":["a"],"data":[["theirs"]]}')
    box.rows([["ours"]])
    box.rows([["more"]])
    box.carry()
    assert box.table()[1] == [["theirs"], ["ours"], ["more"]]
    box.forget()
    box.carry()
    assert box.table()[1] == [["theirs"], ["ours"], ["more"]]


def test_what_stands_there_and_is_no_table_is_left_alone(box: Box) -> None:
    box.carry()
    (box.folder / "artifacts/t.json").write_text("notes")
    box.rows([[1]])
    (problem,) = box.carry()
    assert "its rows are none" in problem
    assert (box.folder / "artifacts/t.json").read_text() == "notes"


def test_tags_that_others_set_for_tables_stay(box: Box) -> None:
    box.carry()
    (box.folder / "tags/mlflow.loggedArtifacts").write_text('[{"path": "a.json", "type": "table"}]')
    box.rows([[1]])
    box.carry()
    tag = json.loads((box.folder / "tags/mlflow.loggedArtifacts").read_text())
    assert [entry["path"] for entry in tag] == ["a.json", "t.json"]
    (box.folder / "tags/mlflow.loggedArtifacts").write_text("no JSON")
    box.rows([[2]])
    box.carry()
    assert json.loads((box.folder / "tags/mlflow.loggedArtifacts").read_text()) == [{"path": "t.json", "type": "table"}]


def test_parquet_is_written_where_pandas_can(box: Box) -> None:
    import pandas as pd

    box.rows([[1, "x"], [2, "y"]], ["a", "b"], path="p.parquet")
    box.rows([[3, "z"]], ["a", "b"], path="p.parquet")
    assert box.carry() == []
    frame = pd.read_parquet(box.folder / "artifacts/p.parquet")
    assert frame.to_dict("list") == {"a": [1, 2, 3], "b": ["x", "y", "z"]}


def test_without_pandas_parquet_is_told_of_and_its_rows_are_kept(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.rows([[1]], path="p.parquet")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pandas", None)
        (problem,) = box.carry()
        assert "pip install pandas pyarrow" in problem
    box.rows([[2]], path="p.parquet")
    box.carry()
    import pandas as pd

    assert pd.read_parquet(box.folder / "artifacts/p.parquet")["a"].tolist() == [1, 2]


def test_killed_at_any_operation_every_row_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "to_thread", inline)
    killed = 0
    for at in itertools.count():
        box = Box(tmp_path / str(at))
        box.rows([[1], [2]])
        box.rows([[3]])
        box.carry()
        box.rows([[4]])
        box.rows([[5]], ["b"])
        disk = FaultyFiles()
        disk.fail_at(at + 1, KILLED, until_healed=True)
        with under(disk), contextlib.suppress(Killed):
            box.carry()
        killed += disk.failed > 0
        assert box.carry() == []
        assert box.table() == (["a", "b"], [[1, None], [2, None], [3, None], [4, None], [None, 5]])
        if not disk.failed:
            break
    assert killed > 15


def test_a_part_is_on_the_device_before_the_table_that_has_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.rows([[1]])
    seen: list[tuple[str, str]] = []

    class Watched(files.StoreFiles):
        def rename(self, source: str, target: str) -> None:
            seen.append(("rename", target))
            super().rename(source, target)

        def sync_path(self, path: str) -> None:
            seen.append(("sync", path))
            super().sync_path(path)

        def rename_into(self, source: str, folder: int, name: str) -> None:
            seen.append(("place", name))
            super().rename_into(source, folder, name)

    monkeypatch.setattr(files, "fs", Watched())
    box.carry()
    at = seen.index(("place", "t.json"))
    (part,) = {target for verb, target in seen[:at] if verb == "rename" and "/tables/" in target}
    synced = [path for verb, path in seen[seen.index(("rename", part)) : at] if verb == "sync"]
    above = [os.path.dirname(part), os.path.dirname(os.path.dirname(part)), part.partition("/tables/")[0]]
    assert set(above) < set(synced)


HOSTILE_ROWS: dict[str, bytes] = {
    "no JSON": b"\xff\x00",
    "nothing": b"",
    "a list": b"[]",
    "no columns": b'{"data": []}',
    "columns of a text": b'{"columns": "abc", "data": [["1", "2", "3"]]}',
    "a column that is a list": b'{"columns": [["a"]], "data": []}',
    "data of a map": b'{"columns": ["a"], "data": {"0": [1]}}',
    "a row that is a text": b'{"columns": ["a"], "data": ["x"]}',
    "a row too long": b'{"columns": ["a"], "data": [[1, 2]]}',
    "NaN": b'{"columns": ["a"], "data": [[NaN]]}',
    "infinity": b'{"columns": ["a"], "data": [[Infinity]]}',
    "too deep": b'{"columns": ["a"], "data": [[' + b"[" * 100_000 + b"]" * 100_000 + b"]]}",
    "many columns": json.dumps({"columns": ["a"] * 20_000, "data": []}).encode(),
    "a number without end": b'{"columns": ["a"], "data": [[' + b"9" * 10_000 + b"]]}",
}


@pytest.mark.parametrize("content", HOSTILE_ROWS.values(), ids=HOSTILE_ROWS.keys())
def test_rows_that_are_none_are_refused_and_the_others_are_there(box: Box, content: bytes) -> None:
    box.rows([[1]])
    box.raw(content)
    box.rows([[2]])
    problems = box.carry()
    assert len(problems) == 1 and "its rows are none" in problems[0]
    assert box.table() == (["a"], [[1], [2]])


def test_more_than_a_table_may_have_is_refused(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "TABLE_BYTES_MAX", 20)
    monkeypatch.setattr(tables, "TABLE_PARTS_MAX", 2)
    box.rows([[1]])
    box.rows([["x" * 30]])
    box.rows([[3]])
    first, second = sorted(box.carry())
    assert "larger than 20 bytes" in first and "more than 2 parts" in second
    assert box.table()[1] == [[1]]


def test_a_part_larger_than_is_taken_is_refused(box: Box) -> None:
    box.stream.media(box.run, "t.json", "part", limits.TABLE_PART_BYTES_MAX + 1, form="rows")
    box.stream.frame()
    (problem,) = box.carry()
    assert "is more than" in problem


@pytest.mark.parametrize("what", ["part", "folder", "artifact"])
def test_a_link_in_the_way_is_not_followed(box: Box, tmp_path: Path, what: str) -> None:
    box.rows([[1]])
    box.carry()
    secret = tmp_path / "secret"
    secret.write_text('["secret"]\n["x"]\n')
    (part,) = box.root.rglob(".trainspool/tables/*/*/*.json")
    if what == "part":
        part.unlink()
        part.symlink_to(secret)
    elif what == "folder":
        moved = part.parent.rename(tmp_path / "moved")
        part.parent.symlink_to(moved)
    else:
        (box.folder / "artifacts/u.json").symlink_to(secret)
    box.rows([[2]], path="u.json" if what == "artifact" else "t.json")
    if what == "folder":
        with pytest.raises(StoreRefused, match="link"):
            box.carry()
    else:
        assert len(box.carry()) == 1
    mine = [path for path in box.folder.rglob("*.json") if not path.is_symlink()]
    assert len(mine) == 1 and b"secret" not in mine[0].read_bytes()


def test_a_path_of_another_kind_is_refused(box: Box) -> None:
    for path in ("a.csv", "../t.json", "/t.json", "a//t.json"):
        box.rows([[1]], path=path)
    assert len(box.carry()) == 4


def test_parts_are_joined_as_text_where_columns_are_equal() -> None:
    parts = [Part('["a"]', "[1],[2]"), Part('["a"]', ""), Part('["a"]', "[3]")]
    assert tables.joined(parts) == Part('["a"]', "[1],[2],[3]")
    assert tables.joined([Part('["a"]', ""), Part('["b"]', "[1]")]) == Part('["a","b"]', "[null,1]")


def test_rows_that_are_no_rows_raise_at_the_part() -> None:
    with pytest.raises(Refused):
        tables.part_of(b"{}", "t.json")


def test_a_table_is_among_what_the_run_holds_with_its_size_and_hash(box: Box) -> None:
    box.rows([[1]])
    box.rows([[2]])
    store = open_store(box.root)
    feed(store, box.stream, box.staging, dictionary=Dictionary())
    held = store._memory.get(RUN).held["t.json"]
    [stored] = box.root.rglob("artifacts/t.json")
    assert held.size == stored.stat().st_size and held.how == "encoded" and held.digest is not None
    store.close()
