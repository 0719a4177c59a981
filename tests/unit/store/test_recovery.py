"""A kill at any instruction leaves no trace: files ahead of the checkpoint, torn lines, lost checkpoints."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest
from handmade import BOOT, Stream, contents, feed, feed_async, open_store

from trainspool.spool import events as ev
from trainspool_agent.compact import Dictionary, EventFrame
from trainspool_agent.store import lease
from trainspool_agent.store.errors import StoreRefused
from trainspool_agent.store.writer import FileStore

RUN = "a" * 32


def a_stream(seed: int, frames: int = 12) -> Stream:
    """Points that repeat, run backwards and share a time; params, tags, an end."""
    rnd, stream = random.Random(seed), Stream(f"{seed:032x}")
    run = stream.run(RUN)
    stream.start(run, "name")
    for step in range(frames):
        for _ in range(rnd.randint(1, 6)):
            time = stream.now - rnd.choice((0, 0, 0, 50_000_000, 7_000_000))
            value = rnd.choice((0.0, -0.0, 1.5, float("nan"), float("inf"), 1.7976931348623157e308, rnd.random()))
            if rnd.random() < 0.5:
                stream.points(run, {"a": value, "b/c": rnd.choice((1.0, 2.0))}, rnd.choice((step, 0)), time)
            else:
                stream.point(run, "a", value, rnd.choice((step, 0)), time)
            if rnd.random() < 0.7:
                stream.tick()
        if rnd.random() < 0.3:
            stream.params(run, lr=str(rnd.randint(0, 2)))
        if rnd.random() < 0.3:
            stream.tags(run, {"t": rnd.choice((None, "x", "y"))})
        stream.frame()
    stream.end(run, ev.FAILED, "why")
    stream.frame()
    return stream


def undisturbed(stream: Stream, root: Path) -> tuple[dict[str, bytes], dict[str, object]]:
    store = open_store(root)
    feed(store, stream)
    account = store.account(RUN)
    store.close()
    return without_place(contents(root), root), account


def without_place(files: dict[str, bytes], root: Path) -> dict[str, bytes]:
    """Absolute paths and the times experiments were made differ between two roots."""
    return {name: data.replace(str(root).encode(), b"ROOT") for name, data in files.items() if name.count("/") > 1}


def crash(store: FileStore) -> None:
    """The agent is gone: nothing more is written, descriptors close."""
    for file in store._memory._open_files:
        file.close()


@pytest.mark.parametrize("seed", range(25))
def test_killed_anywhere_and_started_again_the_files_are_as_if_undisturbed(seed: int, tmp_path: Path) -> None:
    rnd, stream, root = random.Random(seed * 7 + 1), a_stream(seed), tmp_path / "killed"
    expected, account = undisturbed(stream, tmp_path / "calm")
    for _ in range(4):
        store = open_store(root)
        upto, saved = rnd.randint(1, len(stream.frames)), rnd.randint(0, len(stream.frames))
        feed(store, _Part(stream, stream.frames[: min(saved, upto)]))
        store.checkpoint(force=True)
        feed(store, _Part(stream, stream.frames[:upto]))
        crash(store)
        if rnd.random() < 0.5:
            tear_a_last_line(root, rnd)
        if rnd.random() < 0.2:
            for path in root.rglob("trainspool.applied"):
                path.write_bytes(path.read_bytes()[:-3])
    store = open_store(root)
    feed(store, stream)
    assert without_place(contents(root), root) == expected
    mine = store.account(RUN)
    assert (mine["accepted"], mine["stored"], mine["folded"]) == (
        account["accepted"], account["stored"], account["folded"],
    )  # fmt: skip
    store.close()


class _Part(Stream):
    """The same stream, as far as it had come."""

    def __init__(self, whole: Stream, frames: list[EventFrame]) -> None:
        super().__init__(whole.id)
        self.frames = frames


def tear_a_last_line(root: Path, rnd: random.Random) -> None:
    """Cut into what was written after the checkpoint: the last line of a metric file that grew since."""
    import trainspool_agent.checkpoint as checkpoint

    for path in root.rglob("metrics/a"):
        saved = checkpoint.load(str(path.parents[1]), BOOT)
        length = saved["metrics"]["a"][1] if saved and "a" in saved["metrics"] else 0
        data = path.read_bytes()
        last = data[:-1].rfind(b"\n") + 1
        if last >= length and last < len(data):
            path.write_bytes(data[: rnd.randint(last, len(data) - 1)])


@pytest.mark.parametrize("seed", range(8))
def test_two_streams_of_one_run_in_any_order_make_the_same_run(seed: int, tmp_path: Path) -> None:
    one, two = a_stream(seed), a_stream(seed + 1000)
    seen = []
    for number, order in enumerate(([one, two], [two, one])):
        root = tmp_path / str(number)
        store = open_store(root)
        for stream in order:
            feed(store, stream)
        store.close()
        files = without_place(contents(root), root)
        seen.append({name: sorted(data.splitlines()) if "/metrics/" in name else data for name, data in files.items()})
    metas = [{name: data for name, data in files.items() if "metrics" not in name} for files in seen]
    assert metas[0] == metas[1]
    assert {name: {_identity(line) for line in lines} for name, lines in seen[0].items() if "metrics" in name} == {
        name: {_identity(line) for line in lines} for name, lines in seen[1].items() if "metrics" in name
    }


def _identity(line: bytes) -> tuple[object, ...]:
    from trainspool_agent.store.points import identity

    ms, value, step = line.split()
    return identity(int(ms), int(step), float(value))


def test_a_stream_copied_under_another_id_is_folded_whole(tmp_path: Path) -> None:
    stream, root = a_stream(3), tmp_path / "runs"
    store = open_store(root)
    feed(store, stream)
    before = {name: data for name, data in contents(root).items() if "/metrics/" in name}
    stored = store.account(RUN)["stored"]
    stream.id = "f" * 32
    feed(store, stream)
    account = store.account(RUN)
    assert {name: data for name, data in contents(root).items() if "/metrics/" in name} == before
    assert account["stored"] == stored
    assert account["folded"] == account["accepted"] - stored
    store.close()


def test_lines_of_another_writer_stay_and_are_folded_against(tmp_path: Path) -> None:
    stream, root = Stream(), tmp_path / "runs"
    run = stream.run(RUN)
    stream.start(run)
    stream.point(run, "a", 1.0, 1, 10_000_000_000)
    first = stream.frame()
    stream.point(run, "a", 2.0, 2, 20_000_000_000)
    stream.point(run, "a", 3.0, 3, 5_000_000_000)
    second = stream.frame()
    store, dictionary = open_store(root), Dictionary()
    feed(store, stream, frames=[first], dictionary=dictionary)
    (path,) = root.rglob("metrics/a")
    with path.open("ab") as file:
        file.write(b"20000 2 2\n7000 7.0 7\n")
    feed(store, stream, frames=[second], dictionary=dictionary)
    assert path.read_bytes() == b"10000 1.0 1\n20000 2 2\n7000 7.0 7\n5000 3.0 3\n"
    assert store.account(RUN)["folded"] == 1
    store.close()


def test_after_a_reboot_only_the_durable_checkpoint_counts(tmp_path: Path) -> None:
    stream, root = a_stream(5), tmp_path / "runs"
    half = len(stream.frames) // 2
    store = open_store(root)
    feed(store, _Part(stream, stream.frames[:half]))
    asyncio.run(store.make_durable(all=True))
    feed(store, _Part(stream, stream.frames))
    store.close()
    from trainspool_agent.compact import RunRef

    ref = RunRef(RUN, "", None, None, True)
    assert open_store(root).position(ref, stream.id) == stream.frames[-1].end
    assert open_store(root, boot="another").position(ref, stream.id) == stream.frames[half - 1].end


def test_nuls_left_by_a_power_cut_are_mended(tmp_path: Path) -> None:
    stream, root = a_stream(6), tmp_path / "runs"
    expected, _ = undisturbed(stream, tmp_path / "calm")
    store = open_store(root)
    feed(store, _Part(stream, stream.frames[:6]))
    asyncio.run(store.make_durable(all=True))
    feed(store, stream)
    store.close()
    for path in root.rglob("metrics/a"):
        data = path.read_bytes()
        path.write_bytes(data[:-40] + b"\0" * 40)
    store = open_store(root, boot="another")
    feed(store, stream)
    store.close()
    assert without_place(contents(root), root) == expected


def test_a_failed_write_leaves_the_position_and_the_same_events_complete_it(tmp_path: Path) -> None:
    import trainspool_agent.store.fold as fold

    stream, root = a_stream(8), tmp_path / "runs"
    expected, account = undisturbed(stream, tmp_path / "calm")
    store, dictionary, rnd = open_store(root), Dictionary(), random.Random(1)
    whole, fails = fold._write_whole, [False]

    def write(fd: int, data: bytes, length: int) -> None:
        if fails[0] and rnd.random() < 0.5:
            raise OSError(28, "No space left on device")
        whole(fd, data, length)

    fold._write_whole = write
    try:
        for frame in stream.frames:
            fails[0] = True
            for _ in range(50):
                try:
                    feed(store, stream, frames=[frame], dictionary=dictionary)
                    break
                except OSError:
                    continue
            else:
                raise AssertionError("never got through")
    finally:
        fold._write_whole = whole
    assert without_place(contents(root), root) == expected
    mine = store.account(RUN)
    assert (mine["stored"], mine["folded"]) == (account["stored"], account["folded"])
    store.close()


def test_a_removed_run_is_skipped_and_a_moved_experiment_followed(tmp_path: Path) -> None:
    stream, root = a_stream(9), tmp_path / "runs"
    store, dictionary = open_store(root), Dictionary()
    feed(store, stream, frames=stream.frames[:4], dictionary=dictionary)
    (folder,) = root.glob(f"*/{RUN}")
    experiment = folder.parent
    experiment.rename(root / ".trash" / experiment.name)
    feed(store, stream, frames=stream.frames[4:8], dictionary=dictionary)
    assert not experiment.exists()
    store.checkpoint(force=True)
    shutil.rmtree(root / ".trash" / experiment.name / RUN)
    feed(store, stream, frames=stream.frames[8:], dictionary=dictionary)
    assert not list(root.rglob(RUN))
    store.close()


def test_a_removed_run_stays_removed_when_its_lease_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, root = a_stream(9), tmp_path / "runs"
    store, dictionary = open_store(root), Dictionary()
    feed(store, stream, frames=stream.frames[:4], dictionary=dictionary)
    (folder,) = root.glob(f"*/{RUN}")
    shutil.rmtree(folder)
    monkeypatch.setattr(lease, "TRUST_S", 0.0)
    monkeypatch.setattr(lease, "REFRESH_S", 0.0)
    store.checkpoint(force=True)
    feed(store, stream, frames=stream.frames[4:], dictionary=dictionary)
    assert not store.fallen and not list(root.rglob(RUN))
    store.close()


@pytest.mark.parametrize("left", ["nothing", "the root", "the trash"])
def test_a_removed_store_is_made_anew_for_the_next_run(tmp_path: Path, left: str) -> None:
    root, first, second = tmp_path / "runs", Stream("1" * 32), Stream("2" * 32)
    store, dictionary = open_store(root), Dictionary()
    for stream, run_id in ((first, RUN), (second, "b" * 32)):
        run = stream.run(run_id)
        stream.start(run, "name")
        stream.frame()
        stream.point(run, "a", 0.5, 1)
        stream.end(run, ev.FINISHED)
        stream.frame()
    feed(store, first, frames=first.frames[:1], dictionary=dictionary)
    shutil.rmtree(root)
    if left != "nothing":
        (root / (".trash" if left == "the trash" else "")).mkdir(parents=True)
    feed(store, first, frames=first.frames[1:], dictionary=dictionary)
    feed(store, second)
    (found,) = root.glob("*/*/metrics/a")
    assert found.parents[1].name == "b" * 32, "the removed run stays removed"
    assert (root / "0/meta.yaml").exists() == (left != "the trash"), "there was a store, if an empty one"
    store.close()


def test_a_store_whose_device_went_is_not_made_on_the_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, stream = tmp_path / "mounted" / "runs", a_stream(5)
    store, dictionary = open_store(root), Dictionary()
    feed(store, stream, frames=stream.frames[:1], dictionary=dictionary)
    shutil.rmtree(root)
    monkeypatch.setattr(store._experiments, "_device", -1)
    other = Stream("2" * 32)
    other.start(other.run("b" * 32))
    other.frame()
    with pytest.raises(StoreRefused, match="so is the device it lay on"):
        feed(store, other)
    assert not root.exists()


def test_applies_of_one_run_at_the_same_time_take_turns(tmp_path: Path) -> None:
    streams, root = [a_stream(seed) for seed in (20, 21, 22)], tmp_path / "runs"
    store = open_store(root)

    async def all_of_them() -> None:
        await asyncio.gather(*(feed_async(store, stream, tmp_path) for stream in streams))

    asyncio.run(all_of_them())
    account = store.account(RUN)
    assert account["accepted"] == account["stored"] + account["folded"]
    lines = [line for path in root.rglob("metrics/a") for line in path.read_bytes().splitlines()]
    assert len({_identity(line) for line in lines}) == len(lines)
    store.close()
