"""kill -9 of the process that captures a file, and of the agent that hands it over: the whole artifact or none.

First at every operation of a capture, in one process and simulated time; then real processes at random moments. What a
call said is captured is in the store whole; what was under way is whole, absent and said, or still at its place.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from box import SHARED_MEMORY, Box, Witness, until
from faults import KILLED, FaultyFiles, Killed, under
from filesystems import mounted
from storyfiles import text
from wholeway import World

from trainspool import artifacts, complaints
from trainspool.run import Run
from trainspool.spool import layout
from trainspool_agent import retention
from trainspool_agent.settings import Retention

EVERYTHING = Retention(days=0.0, bytes=0)
CONTENT = text("weights")
Way = Callable[[Run, Path], None]


# -- at every operation ---------------------------------------------------------------------------------------------


def _written(run: Run, source: Path) -> None:
    with run.artifact_path("d/a.pt") as path:
        shutil.copyfile(source, path)


def _written_folder(run: Run, source: Path) -> None:
    with run.artifact_path("d") as path:
        os.makedirs(f"{path}/deep")
        Path(path, "deep/other").write_text("beside it")
        shutil.copyfile(source, f"{path}/a.pt")


WAYS: dict[str, Way] = {
    "copied": lambda run, source: run.log_artifact(source, "d") and None,
    "given away": lambda run, source: run.log_artifact(source, "d", move=True) and None,
    "linked": lambda run, source: run.log_artifact(source, "d", link=True) and None,
    "in the background": lambda run, source: run.log_artifact(source, "d", background=True) and None,
    "written to a path": _written,
    "a folder written to a path": _written_folder,
    "text": lambda run, source: run.log_text(CONTENT, "d/a.pt"),
}


class Death:
    """A process that dies at the *number*-th operation of its own, and does nothing on a disk from then on."""

    def __init__(self, world: World, disk: FaultyFiles, number: int) -> None:
        self.world, self.disk = world, disk
        self.steps = 0
        self._number = number
        self.died_within = ""
        self.returned: set[str] = set()
        disk.error, disk.fails = KILLED, self._fails

    def _fails(self, _: int) -> bool:
        self.steps += not self.world.in_agent
        return self.steps >= self._number and not self.world.in_agent and self.world.alive

    def do(self, name: str, act: Callable[[], None]) -> None:
        """Do *act* unless the process is dead; note how far it came."""
        if self.died_within:
            return
        try:
            act()
            self.returned.add(name)
        except Killed:
            self.died_within = name
            self.world.die()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(complaints, "warn", lambda *_, **__: None)
    monkeypatch.setattr(artifacts, "warn", lambda *_, **__: None)
    folder = Path(f"/dev/shm/trainspool-artifacts-{time.time_ns():x}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def die_at(home: Path, way: str, number: int) -> bool:
    """Whether the process came to its *number*-th operation, and so died there."""
    with World(home) as world, under(FaultyFiles()):
        run = world.start_run(1)
        world.turn()
        source = home / "a.pt"
        source.write_text(CONTENT)
        disk = FaultyFiles()
        death = Death(world, disk, number)
        with under(disk):
            death.do("capture", lambda: WAYS[way](run, source))
            death.do("pump", world.turn)
            world.run_agent(0.6)
            death.do("background", world.background.copy)
            death.do("pump again", world.turn)
        if not death.died_within:
            world.die()
        world.carry_to_the_end()
        check_death(world, death, way, source)
        check_nothing_is_left(world)
        return bool(death.died_within)


def check_death(world: World, death: Death, way: str, source: Path) -> None:
    found = {path: data for path, data in world.contents().items() if "/artifacts/" in path}
    stored = [data.decode() for path, data in found.items() if path.endswith("/artifacts/d/a.pt")]
    assert stored in ([], [CONTENT]), "half of an artifact"
    done = "background" if way == "in the background" else "capture"
    if done in death.returned:
        assert stored == [CONTENT], "what a call had captured is lost"
    if way == "given away":
        assert stored or source.read_text() == CONTENT, "what was given away is lost"
    elif source.exists():
        assert source.read_text() == CONTENT
    if way == "in the background" and "capture" in death.returned and not stored:
        [tag] = world.store.glob(f"*/{'1' * 32}/tags/trainspool.problem")
        assert "its process ended while" in tag.read_text(), "lost without a word"


def check_nothing_is_left(world: World) -> None:
    """Neither in the stream's staging folder, whatever the dead had begun there, nor among the store's temporaries."""
    report = retention.sweep(world.spool, layout.host_name(), EVERYTHING)
    assert report is not None and not report.problems, report
    assert not [path for path in world.spool.rglob("*") if "staging" in path.parts], report.kept
    assert not list(world.store.glob("*/.trainspool/part-*"))


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_dies_at_any_operation_of_a_capture_leaves_the_whole_file_or_none(home: Path, way: str) -> None:
    number = 1
    while die_at(home, way, number):
        number += 1
    print(f"{way}: {number - 1} deaths")
    assert number > 5


# -- real processes, at random moments ------------------------------------------------------------------------------

TRAINER = (
    Witness.HEAD
    + """
import random, shutil
name, size, count = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def content(number):
    return random.Random(f"{name} {number}").randbytes(size + 1000 * number)
os.makedirs(name)
mlflow.set_experiment("artifacts")
with mlflow.start_run(run_name=name) as run:
    os.pwrite(fd, run.info.run_id.encode(), 2048)
    for number in range(count):
        way, path = ("copy", "move", "link", "path", "later")[number % 5], f"{name}/{number}.pt"
        words[1] = number + 1
        if way == "path":
            with mlflow.artifact_path(path) as given, open(given, "wb") as file:
                file.write(content(number))
        else:
            source = f"{name}/{number}.pt" if way in ("move", "link") else f"{name}/last.pt"
            with open(source, "wb") as file:
                file.write(content(number))
            if way in ("copy", "later"):  # its name in the store is that of the source
                os.makedirs(f"{name}/{way}", exist_ok=True)
                os.replace(source, source := f"{name}/{way}/{number}.pt")
            options = {"copy": {}, "move": {"move": True}, "link": {"link": True}, "later": {"background": True}}[way]
            mlflow.log_artifact(source, name, **options).wait()
            if way in ("copy", "later"):
                with open(source, "r+b") as file:
                    file.write(b"overwritten at once")
        words[0] = number + 1
    words[2] = 1
    while not words[7]:
        time.sleep(0.01)
"""
)


def content(name: str, number: int, size: int) -> bytes:
    return random.Random(f"{name} {number}").randbytes(size + 1000 * number)


class Looker:
    """Walks the artifacts of a store without a pause; whatever it sees under a final name has to be whole."""

    def __init__(self, store: Path, size: int) -> None:
        self.store, self.size, self.seen = store, size, 0
        self.faults: list[str] = []
        self._known: dict[tuple[str, int, int], bool] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def looking(self) -> Iterator[Looker]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.005):
            for path in self.store.glob("[0-9]*/*/artifacts/**/*"):
                self._look(path)

    def _look(self, path: Path) -> None:
        info = path.lstat()
        key = str(path), info.st_ino, info.st_mtime_ns
        if path.is_dir() or self._known.get(key):
            return
        name, number = path.parent.name, int(path.stem)
        self._known[key] = True
        self.seen += 1
        if path.is_symlink() or path.read_bytes() != content(name, number, self.size):
            self.faults.append(f"{path}: {path.lstat().st_size} bytes")


class Count:
    trainers = agents = captured = unfinished = seen = 0


def torment(folder: Path, spool: Path, store: Path, rnd: random.Random, count: Count, kills: int) -> None:
    """Kill *kills* trainers and as many agents while files are on their way, then look at every one."""
    size, files = rnd.choice((300_000, 1_500_000, 4_000_000)), rnd.randint(3, 9)
    with Box(folder) as box:
        box.spool, box.store = spool, store
        box.environment.update(TRAINSPOOL_DIR=str(spool), TRAINSPOOL_STORE=str(store))
        witnesses: dict[str, Witness] = {}
        looker = Looker(store, size)
        with looker.looking():
            for number in range(kills):
                name, witness = f"t{number}", box.witness()
                witnesses[name] = witness
                trainer = box.start(TRAINER, witness.path, name, size, files)
                agent = box.start_agent(wait=rnd.random() < 0.7)
                until(lambda witness=witness: witness[1], "a first file")  # type: ignore[misc]
                time.sleep(rnd.choice((rnd.uniform(0, 0.05), rnd.uniform(0, 0.6))))  # the moments of the kills
                first, second = (trainer, agent) if rnd.random() < 0.5 else (agent, trainer)
                first.kill()
                time.sleep(rnd.uniform(0, 0.1))
                second.kill()
                trainer.wait(), agent.wait()
            agent = box.start_agent()
            until(box.is_quiet, "everything is carried and durable")
            box.stop(agent)
        assert not looker.faults, looker.faults[:5]
        for name, witness in witnesses.items():
            check_trainer(box, name, witness, size, count)
            witness.close()
        left = [path for path in store.glob("*/.trainspool/*") if path.name.startswith("part-")]
        assert not left, left
        count.trainers, count.agents, count.seen = (
            count.trainers + kills,
            count.agents + kills,
            count.seen + looker.seen,
        )


def check_trainer(box: Box, name: str, witness: Witness, size: int, count: Count) -> None:
    run = box.stored_run(witness.text)
    assert run is not None, (name, witness[0])
    found = {path: hashlib.sha256(data).hexdigest() for path, data in run.artifacts().items()}
    owed = {f"{name}/{n}.pt": hashlib.sha256(content(name, n, size)).hexdigest() for n in range(witness[1])}
    captured = {f"{name}/{n}.pt" for n in range(witness[0])}
    wrong = [path for path, digest in found.items() if owed.get(path) != digest]
    assert not wrong, ("not what was logged", wrong)
    assert captured <= found.keys(), ("captured, and lost", captured - found.keys(), run.texts("tags"))
    count.captured, count.unfinished = count.captured + len(captured), count.unfinished + witness[1] - witness[0]
    last = witness[1] - 1
    if last >= witness[0] and last % 5 == 1 and f"{name}/{last}.pt" not in found:
        kept = box.folder / name / f"{last}.pt"
        whole = kept.exists() and kept.read_bytes() == content(name, last, size)
        assert whole or not kept.exists() or kept.stat().st_size < size, "given away, and lost"


@contextmanager
def places(kinds: str, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give folders for a spool and a store on file systems of these kinds; ``here`` is where tests are."""
    with ExitStack() as stack:
        made: list[Path] = []
        spool, store = kinds.split(">")
        for kind in (spool, store):
            if kind == "memory":
                path = Path(tempfile.mkdtemp(prefix="trainspool-artifacts-", dir=SHARED_MEMORY))
                stack.callback(shutil.rmtree, path, ignore_errors=True)
            elif kind == "here":
                path = folder
            elif kind == spool and made:
                path = made[0]
            else:
                path = stack.enter_context(mounted(kind, 1 << 30))
            made.append(path)
        yield made[0] / "spool", made[1] / "mlruns"


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here")
def test_killed_while_files_are_on_their_way_every_one_is_whole_or_absent(tmp_path: Path, seed: int) -> None:
    count = Count()
    with places("memory>here", tmp_path) as (spool, store):
        torment(tmp_path, spool, store, random.Random(seed), count, 2)
    assert count.captured and count.seen


@pytest.mark.long
@pytest.mark.parametrize("kinds", ["memory>here", "here>here", "xfs>xfs", "ext4>xfs", "btrfs>ext4"])
def test_two_hundred_trainers_and_agents_killed(tmp_path: Path, seed: int, kinds: str) -> None:
    count, rnd = Count(), random.Random(seed)
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        with places(kinds, folder) as (spool, store):
            torment(folder, spool, store, rnd, count, 5)
        shutil.rmtree(folder)
    print(f"{kinds}, seed {seed}: {count.trainers} trainers and {count.agents} agents killed, {count.captured} files "
          f"captured, {count.unfinished} under way, {count.seen} seen by the reader: 0 lost, 0 torn")  # fmt: skip
