"""Artifacts on their way into a store: what stops one stops no other, and what others may do meanwhile harms none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.hostile.forged_state import forge_checkpoint
from handmade import BOOT, T0, Stream, feed_async, open_store

from trainspool.spool import events as ev
from trainspool.spool.fingerprint import fingerprint
from trainspool.spool.layout import PART_SUFFIX
from trainspool_agent import checkpoint, files
from trainspool_agent.compact import Dictionary, RunRef, compact
from trainspool_agent.files import StoreFiles
from trainspool_agent.store import content, handover, memory, runs, transfer
from trainspool_agent.store.writer import FileStore

RUN, OTHER = "a" * 32, "b" * 32
CONTENT = os.urandom(300_000)


class Scene:
    """A store, and streams that log artifacts into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(folder / "mlruns")
        self.streams: list[Stream] = []

    def stream(self) -> Stream:
        self.streams.append(Stream())
        self.staging(self.streams[-1]).mkdir(parents=True)
        return self.streams[-1]

    def staging(self, stream: Stream) -> Path:
        return self.folder / "spool/streams/host" / stream.id / "staging"

    def run(self, stream: Stream, run_id: str = RUN) -> int:
        number = stream.run(run_id)
        stream.start(number)
        return number

    def log(self, stream: Stream, run: int, path: str, content: bytes = CONTENT, how: str = "copied") -> Path:
        """Log *content*; as *linked* it is copied, whatever the file system can."""
        staged = self.staging(stream) / os.urandom(8).hex()
        staged.write_bytes(content)
        said: tuple[object, ...] = ()
        if how == "linked":
            with open(staged, "rb") as file:
                said = staged.stat().st_mtime_ns, fingerprint(file.fileno(), len(content))
        stream.event(ev.ARTIFACT, run, stream.tick(), path, staged.name, len(content), 0o644, how, *said)
        return staged

    async def carry(self, stream: Stream) -> None:
        """Apply everything of *stream*; what is to be handed over is begun, not waited for."""
        stream.frame()
        batch = compact(stream.frames, Dictionary(), stream.id, lambda run: self.store.position(run, stream.id))
        for run, changes in batch.runs.items():
            await self.store.apply(run, changes, stream.id, batch.end, self.staging(stream))

    def feed(self, stream: Stream) -> None:
        stream.frame()
        asyncio.run(feed_async(self.store, stream, self.staging(stream)))

    def stored(self, path: str, run_id: str = RUN) -> Path:
        return next(self.folder.glob(f"mlruns/*/{run_id}")) / "artifacts" / path

    def work(self) -> list[str]:
        return [path.name for path in self.folder.glob("mlruns/*/.trainspool/*") if path.name != "content"]

    def problem(self, run_id: str = RUN) -> str:
        [path] = self.folder.glob(f"mlruns/*/{run_id}/tags/trainspool.problem")
        return path.read_text()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(handover, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(handover, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(transfer, "COPY_BYTES", 1 << 12)
    monkeypatch.setattr(transfer, "STEP_BYTES", 1 << 14)
    made = Scene(tmp_path)
    yield made
    made.store.close()


async def until(condition: object) -> None:
    async def wait() -> None:
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), 20)


class Failing(StoreFiles):
    """Fails an operation on paths that hold a word, so often; what it wrote to parts is counted."""

    def __init__(self, operation: str, word: str, times: int = 1 << 30, *, after: int = 0) -> None:
        self.operation, self.word, self.times, self.written, self.after = operation, word, times, 0, after

    def _meet(self, operation: str, path: str) -> None:
        if operation == self.operation and self.word in path and self.times:
            self.times -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        if transfer.PART in (path := os.readlink(f"/proc/self/fd/{fd}")):
            if self.written >= self.after:
                self._meet("write", path)
            self.written += len(data)
        super().write(fd, data)

    def sync_path(self, path: str) -> None:
        self._meet("sync_path", path)
        super().sync_path(path)

    def rename_into(self, source: str, folder: int, name: str) -> None:
        self._meet("rename_into", f"{os.readlink(f'/proc/self/fd/{folder}')}/{name}")
        super().rename_into(source, folder, name)


# -- what stops one stops no other ----------------------------------------------------------------------------------


def test_a_run_that_the_disk_refuses_stops_no_other_runs_artifacts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "fs", Failing("rename_into", RUN))
    stream = scene.stream()
    refused, fine = scene.run(stream), scene.run(stream, OTHER)
    scene.log(stream, refused, "small", b"x")
    scene.log(stream, fine, "small", b"y")
    scene.log(stream, fine, "long", how="linked")

    async def go() -> None:
        await scene.carry(stream)
        await until(lambda: scene.stored("long", OTHER).exists())
        assert scene.store.handover.error is not None and not scene.store.handover.is_done
        await scene.store.handover.stop()

    asyncio.run(go())
    assert scene.stored("small", OTHER).read_bytes() == b"y" and scene.stored("long", OTHER).read_bytes() == CONTENT
    assert not scene.stored("small").exists()


def test_who_waits_is_told_of_what_came_before_the_one_that_failed(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: set[str] = set()
    scene.store.close()
    scene.store = FileStore(tmp_path / "mlruns", boot_id=BOOT, handed_over=told.update)
    monkeypatch.setattr(files, "fs", Failing("rename_into", "second"))
    one, two = scene.stream(), scene.stream()
    for stream, path in ((one, "first"), (two, "second")):
        scene.log(stream, scene.run(stream), path, b"x")

    async def go() -> None:
        scene.store.handover.wake = lambda: None  # type: ignore[method-assign]  until both are there
        await scene.carry(one)
        await scene.carry(two)
        del scene.store.handover.wake  # type: ignore[attr-defined]
        scene.store.handover.wake()
        await until(lambda: scene.store.handover.error is not None)
        await scene.store.handover.stop()

    asyncio.run(go())
    assert scene.stored("first").exists() and told == {one.id}


def test_a_part_whose_sync_failed_is_copied_anew(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Failing("sync_path", transfer.PART, times=1)
    monkeypatch.setattr(files, "fs", disk)
    stream = scene.stream()
    scene.log(stream, scene.run(stream), "long", how="linked")

    async def go() -> None:
        await scene.carry(stream)
        await until(lambda: scene.stored("long").exists())
        await scene.store.handover.stop()

    asyncio.run(go())
    assert scene.stored("long").read_bytes() == CONTENT and not disk.times
    assert disk.written == 2 * len(CONTENT), "a second sync of the same pages proves nothing"


def test_who_stops_waits_for_the_step_that_a_thread_is_at(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its files are closed under it, and what it writes next goes to whatever is opened then."""
    begun, go_on = threading.Event(), threading.Event()
    step = transfer.Transfer.step

    def slow(self: transfer.Transfer) -> None:
        begun.set()
        go_on.wait(20)
        step(self)

    stream = scene.stream()
    scene.log(stream, scene.run(stream), "long", how="linked")

    async def go() -> None:
        monkeypatch.setattr(transfer.Transfer, "step", slow)
        await scene.carry(stream)
        await until(begun.is_set)
        stopping = asyncio.create_task(scene.store.handover.stop())
        done, _ = await asyncio.wait([stopping], timeout=0.2)
        assert not done
        go_on.set()
        await stopping

    asyncio.run(go())
    [part] = [name for name in scene.work() if name.startswith(transfer.PART)]
    [path] = scene.folder.glob(f"mlruns/*/.trainspool/{part}")
    assert 0 < path.stat().st_size < len(CONTENT) and CONTENT.startswith(path.read_bytes())


# -- what others may do ---------------------------------------------------------------------------------------------


def test_what_was_given_away_and_still_has_its_old_name_is_never_linked(scene: Scene) -> None:
    """Its process died before it removed the name, and the next one writes to it in place."""
    stream = scene.stream()
    staged = scene.log(stream, scene.run(stream), "last.pt", how="moved")
    old = scene.folder / "last.pt"
    os.link(staged, old)
    scene.feed(stream)
    old.write_bytes(b"the next process's")
    assert scene.stored("last.pt").read_bytes() == CONTENT


def test_what_was_given_away_is_linked_where_nobody_has_it(scene: Scene) -> None:
    stream = scene.stream()
    staged = scene.log(stream, scene.run(stream), "last.pt", how="moved")
    scene.feed(stream)
    assert os.path.samefile(scene.stored("last.pt"), staged)


def _part(scene: Scene, stream: Stream, boot: str = BOOT) -> Path:
    work = scene.folder / "mlruns" / next(scene.folder.glob(f"mlruns/*/{RUN}")).parent.name / ".trainspool"
    work.mkdir(exist_ok=True)
    return work / f"{transfer.PART}{boot[:8]}-{stream.id[:16]}-{0:x}"


def test_two_agents_never_write_to_one_part(scene: Scene) -> None:
    """One that was stopped for long has lost its lease, and wakes up in the middle of a step."""
    stream = scene.stream()
    scene.log(stream, scene.run(stream), "long", how="linked")

    async def go() -> None:
        await scene.carry(stream)
        [expected] = scene.store._memory.get(RUN).expected.values()
        await scene.store.handover.stop()
        state = scene.store._memory.get(RUN)
        about = expected.artifact, expected.stream, expected.staging, state.work, BOOT
        one, other = transfer.Transfer(*about), transfer.Transfer(*about)
        one.begin()
        one.step()
        with pytest.raises(transfer.NotYet):
            other.begin()
        other.close()
        while not one.ready:
            one.step()
        one.publish(state.folder)
        one.close()

    asyncio.run(go())
    assert scene.stored("long").read_bytes() == CONTENT


def test_a_part_that_another_host_writes_to_is_no_leftover(scene: Scene) -> None:
    stream = scene.stream()
    scene.run(stream)
    scene.feed(stream)
    ours, theirs, left = (_part(scene, stream, boot) for boot in (BOOT, "22222222", "33333333"))
    for path in (ours, theirs, left):
        path.write_bytes(b"half")
    with open(theirs, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        runs.remove_leftovers(scene.store._memory.get(RUN).experiment, BOOT)  # type: ignore[arg-type]
        assert (ours.exists(), theirs.exists(), left.exists()) == (True, True, False)


FORGED_FIELDS = {
    "a folder that is no stream's": lambda secret, stream: (stream, str(secret.parent)),
    "a stream that leads elsewhere": lambda secret, stream: ("../../../../../x", str(secret.parent)),
    "dots": lambda secret, stream: (stream, f"{secret.parent}/{stream}/staging/../../"),
}


@pytest.mark.parametrize("name", FORGED_FIELDS)
def test_a_forged_checkpoint_publishes_no_file_of_ours(scene: Scene, name: str) -> None:
    secret = scene.folder / "home/secret"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    stream = scene.stream()
    run = scene.run(stream)
    scene.feed(stream)
    [folder] = scene.folder.glob(f"mlruns/*/{RUN}")
    scene.store.close()
    said = "stolen", "secret", 6, 0o644, T0, 7, "copied", 0, b""
    saved = checkpoint.load(str(folder), BOOT)
    assert saved is not None
    saved["expected"] = [[*said, *FORGED_FIELDS[name](secret, stream.id), True]]
    forge_checkpoint(folder / "trainspool.applied", **saved)
    scene.store = open_store(scene.folder / "mlruns")
    scene.log(stream, run, "honest", b"x")
    scene.feed(stream)
    assert scene.stored("honest").read_bytes() == b"x"
    assert not scene.stored("stolen").exists()


def test_a_forged_path_among_what_is_held_stops_no_other_artifact(scene: Scene) -> None:
    stream = scene.stream()
    run = scene.run(stream)
    scene.log(stream, run, "first", b"x")
    scene.feed(stream)
    [folder] = scene.folder.glob(f"mlruns/*/{RUN}")
    scene.store.close()
    saved = checkpoint.load(str(folder), BOOT)
    assert saved is not None
    saved["held"] = {"../../../etc/passwd": [1, "copied", None, False], "/etc/passwd": [1, "copied", None, False]}
    forge_checkpoint(folder / "trainspool.applied", **saved)
    scene.store = open_store(scene.folder / "mlruns")
    scene.log(stream, run, "second", b"y")
    scene.feed(stream)
    assert scene.stored("second").read_bytes() == b"y" and scene.store.handover.error is None


def test_a_staging_folder_reached_by_a_link_is_not_opened(scene: Scene) -> None:
    stream = scene.stream()
    staged = scene.log(stream, scene.run(stream), "stolen", b"secret")
    real = scene.staging(stream).parent
    os.rename(real, scene.folder / "elsewhere")
    real.symlink_to(scene.folder / "elsewhere")
    assert staged.exists()
    scene.feed(stream)
    assert not scene.stored("stolen").exists() and "missing" in scene.problem()


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_killed_agents_part_is_gone_on_with_in_its_boot_and_begun_anew_in_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, same_boot: bool
) -> None:
    disk = Failing("write", transfer.PART, after=len(CONTENT) // 2)
    monkeypatch.setattr(files, "fs", disk)
    monkeypatch.setattr(handover, "RETRY_FIRST_S", 20)
    stream = scene.stream()
    scene.log(stream, scene.run(stream), "long", how="linked")

    async def begin() -> None:
        await scene.carry(stream)
        await until(lambda: scene.store.handover.error is not None)
        await scene.store.handover.stop()

    asyncio.run(begin())
    before, disk.times = disk.written, 0
    assert before < len(CONTENT) and not scene.stored("long").exists()
    scene.store.close()
    scene.store = open_store(scene.folder / "mlruns", BOOT if same_boot else "99999999-0000")

    async def go_on() -> None:
        if same_boot:
            await scene.store.handover.finish()
        else:
            await scene.carry(stream)  # an applied checkpoint of another boot does not count
            await scene.store.handover.finish()

    scene.store.position(RunRef(RUN, "/store", None, "exp", True), stream.id)
    asyncio.run(go_on())
    assert scene.stored("long").read_bytes() == CONTENT
    assert disk.written == (len(CONTENT) if same_boot else len(CONTENT) + before)
    assert not [name for name in scene.work() if name.startswith(transfer.PART)]


def test_what_is_expected_survives_a_restart(scene: Scene) -> None:
    """The next store goes on with it, without a single event."""
    stream = scene.stream()
    scene.log(stream, scene.run(stream), "long", how="linked")

    async def begin() -> None:
        await scene.carry(stream)
        await scene.store.handover.stop()

    asyncio.run(begin())
    assert not scene.stored("long").exists()
    scene.store.close()
    scene.store = open_store(scene.folder / "mlruns")
    assert scene.store.position(RunRef(RUN, "/store", None, "exp", True), stream.id) == stream.frames[-1].end
    asyncio.run(scene.store.handover.finish())
    assert scene.stored("long").read_bytes() == CONTENT


def test_nobody_waits_for_the_hash_of_holes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A staged file of a tebibyte costs nobody anything, and would be read for minutes."""
    hashed: list[str] = []
    step = content.Hashing.step

    def noted(self: content.Hashing) -> None:
        hashed.append(self.path)
        step(self)

    monkeypatch.setattr(content.Hashing, "step", noted)
    stream = scene.stream()
    run = scene.run(stream)
    os.truncate(scene.log(stream, run, "hollow"), 1 << 30)
    scene.log(stream, run, "full")
    scene.feed(stream)
    assert scene.stored("hollow").stat().st_size == 1 << 30
    assert set(hashed) == {"full"} and scene.store.handover.is_done
    held = scene.store._memory.get(RUN).held
    assert (held["hollow"].digest is None, held["full"].digest is None) == (True, False)


def test_what_is_still_being_captured_hides_nothing_behind_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "ARTIFACTS_AT_ONCE", 2)
    stream = scene.stream()
    run = scene.run(stream)
    parts = []
    for number in range(5):
        staged = scene.log(stream, run, f"captured {number}", b"x")
        parts.append(staged.with_name(f"{staged.name}{PART_SUFFIX}"))
        staged.rename(parts[-1])
    scene.log(stream, run, "behind", b"y")

    async def go() -> None:
        with contextlib.ExitStack() as capturing:
            for part in parts:
                fcntl.flock(capturing.enter_context(part.open()), fcntl.LOCK_EX)
            await scene.carry(stream)
            await until(lambda: scene.stored("behind").exists())
            assert scene.store.handover.busy and len(scene.store._memory.get(RUN).expected) >= len(parts)
            for part in parts:
                part.rename(part.with_suffix(""))
        await scene.store.handover.finish()

    asyncio.run(go())
    assert all(scene.stored(f"captured {number}").read_bytes() == b"x" for number in range(5))
    assert scene.store.handover.is_done


def test_what_comes_while_the_others_were_looked_at_is_looked_at_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = scene.stream(), scene.stream()
    scene.log(first, scene.run(first), "first")
    scene.log(second, scene.run(second, OTHER), "second")
    rounds, real = [0], handover.Handover._round

    async def round_(self: handover.Handover) -> tuple[bool, bool, Exception | None]:
        rounds[0] += 1
        if rounds[0] == 1:  # all was looked at, in vain; now comes what this round saw nothing of
            await scene.carry(second)
            return False, False, None
        return await real(self)

    monkeypatch.setattr(handover.Handover, "_round", round_)

    async def go() -> None:
        await scene.carry(first)
        await asyncio.sleep(0)  # the round begins
        await scene.store.handover.finish()

    asyncio.run(go())
    assert scene.stored("first").read_bytes() == scene.stored("second", OTHER).read_bytes() == CONTENT


def test_runs_with_artifacts_on_their_way_put_no_others_out_and_are_not_too_many(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RUNS_IN_MEMORY_MAX", 4)
    monkeypatch.setattr(handover, "RUNS_EXPECTING_MAX", 16)
    monkeypatch.setattr(handover, "MAKE_ROOM_S", 60.0)
    loads, real, most = [], checkpoint.load, [0]
    monkeypatch.setattr(checkpoint, "load", lambda *of: loads.append(of) or real(*of))
    stream = scene.stream()
    for number in range(40):
        scene.log(stream, scene.run(stream, f"{number:032x}"), "small", b"x")
        stream.frame()
    apply = scene.store._write_points

    def look(*arguments: object) -> None:
        most[0] = max(most[0], len(scene.store._memory.expecting))
        apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scene.store, "_write_points", look)
    scene.feed(stream)
    assert most[0] <= 17, "the one under way comes on top"
    assert all(scene.stored("small", f"{number:032x}").read_bytes() == b"x" for number in range(40))
    assert len(loads) < 8 * 40, "each is looked up a few times, not at every look at another"
