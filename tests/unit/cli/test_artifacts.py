"""`artifacts ls` and `get`: every artifact, wherever it is on its way, and its content out of store or spool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import files
from trainspool_agent.look import artifacts as look
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.findrun import RunAt
from trainspool_agent.store import transfer

from .conftest import Box

LOG = """
import os, pathlib
for name, size in (("a", 10), ("b/c", 70_000), ("b/d", 10)):
    path = pathlib.Path("source", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name[-1].encode() * size)
with ts.start_run(run_name="one") as run:
    ts.log_artifacts("source", "folder")
    ts.log_artifact("source/a", link=True)
    ts.log_text("words", "note.txt")
print(run.run_id)
"""
# One that is captured in the background by a copy that stops half-way until it is told to go on.
CAPTURING = """
import sys
from trainspool import capture
from trainspool.spool import copying, files
class Slow(files.Files):
    def clone(self, source, target): raise OSError(95, "no")
    def copy_range(self, source, target, count):
        copied = super().copy_range(source, target, 1 << 20)
        if copied: print("half-way", flush=True); sys.stdin.readline()
        return copied
files.fs = Slow()
open("large", "wb").write(bytes(3 << 20))
with ts.start_run(run_name="slow"): ts.log_artifact("large", background=True)
"""


def listed(box: Box, *arguments: str) -> dict[str, dict[str, Any]]:
    found = box.json("artifacts", "ls", *arguments, "--json")["artifacts"]
    return {one["path"]: one for one in found}


def get(box: Box, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = box.json("artifacts", "get", *arguments, "--json")
    return found


def artifacts_folder(box: Box) -> Path:
    [folder] = box.store.glob("*/*/artifacts")
    return folder


@pytest.fixture
def carried(box: Box) -> Iterator[Box]:
    box.log(LOG)
    box.sync()
    yield box


# -- where they are -------------------------------------------------------------------------------------------------


def test_before_any_agent_they_are_staged_and_as_captured(box: Box) -> None:
    box.log(LOG)
    found = listed(box, "one")
    assert list(found) == ["a", "folder/a", "folder/b/c", "folder/b/d", "note.txt"]
    assert {one["where"] for one in found.values()} == {"staged"}
    assert (found["a"]["captured"], found["note.txt"]["captured"]) == ("linked", "written")
    assert (found["folder/b/c"]["bytes"], found["folder/b/c"]["blake3"]) == (70_000, None)


def test_stored_ones_have_size_hash_and_how_they_were_captured(carried: Box) -> None:
    import blake3

    found = listed(carried, "one", "folder/b")
    assert list(found) == ["folder/b/c", "folder/b/d"]
    one = found["folder/b/c"]
    assert (one["where"], one["bytes"], one["done_bytes"], one["why"]) == ("stored", 70_000, 70_000, None)
    assert one["blake3"] == blake3.blake3(b"c" * 70_000).hexdigest()


def test_the_same_content_in_two_places_is_shared(box: Box) -> None:
    box.log(
        "open('x', 'wb').write(bytes(100_000))\nwith ts.start_run(run_name='two'):\n"
        "  ts.log_artifact('x')\n  ts.log_artifact('x', 'again')"
    )
    box.sync()
    assert sorted(one["shared"] for one in listed(box, "two").values()) == [False, True]


def test_one_that_is_being_captured_says_how_far_it_is(box: Box) -> None:
    with box.start(sys.executable, "-c", f"import trainspool as ts\n{CAPTURING}") as training:
        assert training.stdout is not None and training.stdin is not None
        assert training.stdout.readline() == "half-way\n"
        one = listed(box, "slow")["large"]
        got = box.call("artifacts", "get", "slow", "--to", str(box.folder / "got"))
        training.communicate("go\ngo\ngo\n")
    assert (one["where"], one["bytes"], one["done_bytes"]) == ("being captured", 3 << 20, 1 << 20)
    assert got.exit_code == 1 and "wait until it is captured" in got.stderr
    assert listed(box, "slow")["large"]["where"] == "staged"


def test_a_long_copy_into_the_store_says_how_far_it_is(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is stopped after its first step, as a kill would; the part is there and its run's checkpoint."""
    run_id = box.log(LOG.replace("70_000", "3_000_000"))

    class NoLinks(transfer.files.StoreFiles):
        def link_open(self, source: int, target: str) -> None:
            raise OSError(18, os.strerror(18))

        def clone(self, source: int, target: int) -> None:
            raise OSError(18, os.strerror(18))

    def stop(_: object) -> None:
        raise OSError(28, os.strerror(28))

    no_links = NoLinks()
    monkeypatch.setattr(transfer.files, "fs", no_links)
    monkeypatch.setattr(files, "fs", no_links)
    monkeypatch.setattr(transfer, "STEP_BYTES", 1 << 20)
    step = transfer.Transfer.step
    steps = iter((step,))
    monkeypatch.setattr(transfer.Transfer, "step", lambda one: (next(steps, stop) if one.size > 1 << 20 else step)(one))
    monkeypatch.setattr(transfer, "COPY_BYTES", 1 << 20)
    report = box.json("sync", "--json")
    one = listed(box, run_id)["folder/b/c"]
    assert (one["where"], one["bytes"], one["done_bytes"]) == ("on its way", 3_000_000, 1 << 20)
    [problem] = report["problems"]
    assert problem["what"].startswith("1 artifacts wait: ") and "No space" in problem["what"]
    assert box.json("status", run_id, "--json")["artifacts"]["waiting"] == 1


def test_a_refused_one_says_why_and_the_status_is_1(box: Box) -> None:
    box.log(LOG)
    Path(box.folder, "source", "a").write_bytes(b"changed since it was linked")
    box.process(*box.trainspool("sync"))
    found = box.call("artifacts", "ls", "one", "--json")
    one = listed(box, "one")["a"]
    assert found.exit_code == 1 and one["where"] == "refused" and "link=True" in one["why"]
    counts = box.json("status", "one", "--json")["artifacts"]
    assert (counts["stored"], counts["waiting"], counts["refused"]) == (4, 0, 1)
    got = box.call("artifacts", "get", "one", "a", "--to", str(box.folder / "got"))
    assert got.exit_code == 1 and "link=True" in got.stderr and not Path(box.folder, "got", "a").exists()


def test_one_whose_staged_file_is_gone_is_refused_by_its_path(box: Box) -> None:
    box.log(LOG)
    [staged] = [path for path in box.spool.glob("streams/*/*/staging/*") if path.read_bytes() == b"words"]
    staged.unlink()
    assert listed(box, "one")["note.txt"]["why"] == "its staged file is missing"
    box.process(*box.trainspool("sync"))
    one = listed(box, "one")["note.txt"]
    assert one["where"] == "refused" and one["why"].startswith("artifact 'note.txt': staged file ")


def test_what_someone_put_there_is_foreign_and_what_someone_removed_is_said(carried: Box) -> None:
    folder = artifacts_folder(carried)
    (folder / "theirs.txt").write_text("theirs")
    (folder / "note.txt").unlink()
    found = listed(carried, "one")
    assert (found["theirs.txt"]["where"], found["note.txt"]["where"]) == ("foreign", "removed")
    assert found["note.txt"]["bytes"] == 5


# -- as text --------------------------------------------------------------------------------------------------------


def test_without_a_terminal_it_prints_a_line_each(carried: Box) -> None:
    lines = carried.call("artifacts", "ls", "one", "note.txt").stdout.splitlines()
    assert len(lines) == 1
    path, size, digest, how, where, *_ = lines[0].split("\t")
    assert (path, size, how, where) == ("note.txt", "5", "written", "stored") and len(digest) == 64


def test_an_unknown_path_is_an_error_with_a_next_step(carried: Box) -> None:
    for command in ("ls", "get"):
        found = carried.call("artifacts", command, "one", "nothing/like/it")
        assert found.exit_code == 1 and "Next: trainspool artifacts ls" in found.stderr


@pytest.mark.parametrize("command", ["ls", "get"])
def test_each_command_has_an_example(box: Box, command: str) -> None:
    found = box.call("artifacts", command, "--help")
    assert found.exit_code == 0 and f"Example: trainspool artifacts {command}" in found.stdout
    assert box.call("artifacts", command).exit_code == 2


def test_status_of_a_run_counts_them_by_the_way_they_were_captured(carried: Box) -> None:
    counts = carried.json("status", "one", "--json")["artifacts"]
    assert (counts["stored"], counts["bytes"]) == (5, 70_000 + 10 + 10 + 10 + 5)
    assert counts["captured"]["linked"] == 1 and counts["captured"]["written"] == 1
    assert (counts["waiting"], counts["refused"]) == (0, 0)
    assert "artifacts_stored\t5" in carried.call("status", "one").stdout


# -- copied out -----------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ALL = {
    "a": b"a" * 10,
    "folder/a": b"a" * 10,
    "folder/b/c": b"c" * 70_000,
    "folder/b/d": b"d" * 10,
    "note.txt": b"words",
}


def test_run_says_what_became_of_them_at_its_end(box: Box) -> None:
    inner = "import trainspool as ts\nwith ts.start_run(): ts.log_text('words', 'note.txt')"
    done = box.process(*box.trainspool("run", "-n", "w", "--", sys.executable, "-c", inner))
    assert "artifacts: 0 stored, 1 on their way" in done.stderr


def test_tail_shows_path_size_and_how_to_a_person() -> None:
    from trainspool_agent.look import facts

    event = {"kind": "artifact", "time": 0, "path": "a/b", "bytes": 70_000, "captured": "cloned", "staged": "0f3a"}
    assert facts.readable(event, "one").split()[-5:] == ["artifact", "a/b", "70,000", "bytes", "cloned"]


@pytest.mark.parametrize("stored", [False, True])
def test_get_has_all_of_them_from_the_spool_or_the_store(box: Box, stored: bool) -> None:
    box.log(LOG)
    if stored:
        box.sync()
    got = get(box, "one", "--to", str(box.folder / "got"))
    assert contents(box.folder / "got") == ALL
    assert (len(got["fetched"]), got["failed"]) == (5, [])


def test_a_folder_or_file_keeps_the_last_part_of_its_path(carried: Box) -> None:
    get(carried, "one", "folder/b", "--to", str(carried.folder / "got"))
    assert sorted(contents(carried.folder / "got")) == ["b/c", "b/d"]
    get(carried, "one", "folder/b/d", "--to", str(carried.folder / "got"))
    assert (carried.folder / "got" / "d").read_bytes() == b"d" * 10


def test_content_that_is_not_as_stored_is_refused_and_nothing_is_left(carried: Box) -> None:
    path = artifacts_folder(carried) / "note.txt"
    path.chmod(0o644)
    path.write_bytes(b"sword")
    (carried.folder / "got").mkdir()
    (carried.folder / "got" / "note.txt").write_bytes(b"before")
    got = carried.call("artifacts", "get", "one", "note.txt", "--to", str(carried.folder / "got"))
    assert got.exit_code == 1 and "BLAKE3" in got.stderr
    assert contents(carried.folder / "got") == {"note.txt": b"before"}


def test_links_in_a_run_are_listed_and_never_followed(carried: Box) -> None:
    folder, outside = artifacts_folder(carried), carried.folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (folder / "file").symlink_to(outside / "secret")
    (folder / "dir").symlink_to(outside)
    found = listed(carried, "one")
    assert found["file"]["why"] == found["dir"]["why"] == "a link, which is not followed"
    assert "dir/secret" not in found
    for name in ("file", "dir"):
        got = carried.call("artifacts", "get", "one", name, "--to", str(carried.folder / "got"))
        assert got.exit_code == 1 and "cannot be read" in got.stderr
    assert not (carried.folder / "got").exists()


def test_an_event_whose_path_leads_out_of_the_run_writes_nothing_outside(box: Box) -> None:
    from trainspool_agent.look import fetching
    from trainspool_agent.store.changes import Artifact

    box.log(LOG)
    [seen] = inspect_spool.seen_streams(box.spool)
    staging = seen.place.folder / "staging"
    event = Artifact("../out", os.listdir(staging)[0], 1, 0, 0, 0)
    found = look.Found("../out", 1, look.STAGED, event=event, staging=str(staging))
    with pytest.raises(fetching.NotFetched):
        fetching.fetch(found, None, box.folder / "got" / found.path, lambda _: None)
    assert not (box.folder / "out").exists()


def test_a_checkpoint_cannot_name_a_staging_folder_beyond_the_spools(box: Box) -> None:
    from trainspool_agent.store.changes import Artifact
    from trainspool_agent.store.state import Expected

    (box.folder / "private").write_text("private")
    one = Expected(Artifact("a", "private", 1, 0, 0, 0), "s" * 32, str(box.folder), counts=True)
    found = look._on_its_way(one, str(box.folder), set())
    assert (found.event, found.where) == (None, "on its way") and "in no spool" in found.why
    assert look.below([found], "") and RunAt("r").folder is None


def test_a_large_one_is_fetched_with_a_bar_on_a_terminal(carried: Box) -> None:
    import pty

    parent, child = pty.openpty()
    code = (
        "from trainspool_agent.cli import artifacts, main\nartifacts.BAR_BYTES = 1\n"
        "main(['artifacts', 'get', 'one', 'folder/b/c', '--to', 'got'])"
    )
    with os.fdopen(parent, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", code], env=carried.all, cwd=carried.folder, stderr=child, check=True
        )
        os.close(child)
        said = terminal.read(65536)
    assert done.returncode == 0 and b"70.0/70.0 kB" in said
    assert (carried.folder / "got" / "c").stat().st_size == 70_000
