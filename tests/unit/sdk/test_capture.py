"""How content is captured: shared, copied, given away, linked, or later; and what happens to the source meanwhile."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filesystems import mounted
from spooled import Seen

import trainspool as mlflow
from trainspool import capture, captures, staging
from trainspool.errors import TrainspoolException
from trainspool.spool import events, files
from trainspool.spool.fingerprint import fingerprint
from trainspool.staging import Staged, StagingFailed

LARGE = bytes(range(256)) * 8192  # 2 MiB: beyond what is copied by hand
Meanwhile = Callable[[Path], object]


class NoClones(files.Files):
    """A file system that shares no blocks, and lets something happen while it copies."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.meanwhile, self.copies = meanwhile, 0

    def clone(self, source: int, target: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def copy_range(self, source: int, target: int, count: int) -> int:
        copied = super().copy_range(source, target, min(count, 1 << 20))
        self.copies += 1
        if copied:
            self.meanwhile()
        return copied


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> NoClones:
    made = NoClones()
    monkeypatch.setattr(files, "fs", made)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "spool" / "streams" / "host" / "stream" / "staging")


@pytest.fixture(scope="module")
def xfs() -> Iterator[Path]:
    with mounted("xfs") as place:
        yield place


def content(staged: Staged) -> bytes:
    return Path(staged.path).read_bytes()


def names(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


# -- the ways -------------------------------------------------------------------------------------------------------


def test_without_shared_blocks_a_file_is_copied(no_clones: NoClones, source: Path, folder: str) -> None:
    staged = capture.capture(str(source), folder)
    source.write_bytes(b"other")
    assert (staged.how, staged.size, staged.changed) == ("copied", len(LARGE), False) and content(staged) == LARGE


def test_where_blocks_can_be_shared_they_are(xfs: Path) -> None:
    source, folder = xfs / "a", str(xfs / "spool/streams/h/s/staging")
    source.write_bytes(LARGE)
    for way in (capture.capture, capture.link, lambda *where: capture.begin(*where)[0]):
        staged = way(str(source), folder)
        assert staged.how == "cloned", way
        with open(source, "r+b") as file:
            file.write(b"changed in place")
        assert content(staged) == LARGE
        source.write_bytes(LARGE)


def test_what_is_given_away_is_moved_and_never_without_a_name(source: Path, folder: str) -> None:
    inode = source.stat().st_ino
    staged, remove = capture.give(str(source), folder)
    assert staged.how == "moved" and os.stat(staged.path).st_ino == inode and source.exists(), (
        "until its event is there"
    )
    remove()
    assert not source.exists() and content(staged) == LARGE


def test_a_move_removes_what_was_captured_and_nothing_that_came_since(source: Path, folder: str) -> None:
    _, remove = capture.give(str(source), folder)
    source.unlink()
    source.write_bytes(b"the next epoch's")
    remove()
    assert source.read_bytes() == b"the next epoch's"


def test_a_file_with_another_name_is_copied_when_it_is_given_away(source: Path, folder: str, tmp_path: Path) -> None:
    os.link(source, tmp_path / "kept")
    staged, remove = capture.give(str(source), folder)
    remove()
    (tmp_path / "kept").write_bytes(b"changed by its other name")
    assert staged.how in ("copied", "cloned") and content(staged) == LARGE and not source.exists()


def test_of_a_link_that_is_given_away_the_link_goes(source: Path, folder: str, tmp_path: Path) -> None:
    (tmp_path / "best.pt").symlink_to(source)
    staged, remove = capture.give(str(tmp_path / "best.pt"), folder)
    remove()
    assert content(staged) == LARGE and source.exists() and not (tmp_path / "best.pt").is_symlink()


def test_a_file_on_another_file_system_is_copied_when_it_is_given_away(xfs: Path, source: Path) -> None:
    staged, remove = capture.give(str(source), str(xfs / "other/streams/h/s/staging"))
    remove()
    assert staged.how == "copied" and content(staged) == LARGE and not source.exists()


def test_a_link_tells_how_the_file_was_at_the_call(no_clones: NoClones, source: Path, folder: str) -> None:
    staged = capture.link(str(source), folder)
    assert staged.how == "linked" and os.stat(staged.path).st_ino == source.stat().st_ino
    assert staged.mtime_ns == source.stat().st_mtime_ns and not no_clones.copies
    with open(source, "r+b") as file:
        assert fingerprint(file.fileno(), staged.size) == staged.fingerprint
        file.seek(len(LARGE) - 1)
        file.write(b"!")
        file.flush()
        assert fingerprint(file.fileno(), staged.size) != staged.fingerprint


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_001])
def test_a_fingerprint_covers_both_ends_at_any_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(size))
    with open(path, "r+b") as file:
        before = fingerprint(file.fileno(), size)
        assert len(before) == 16 and fingerprint(file.fileno(), size) == before
        for at in {0, size - 1} if size else ():
            known = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([known[0] ^ 1]), at)
            assert fingerprint(file.fileno(), size) != before
            os.pwrite(file.fileno(), known, at)


# -- the source changes meanwhile -----------------------------------------------------------------------------------


def overwritten(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(16))


@pytest.mark.parametrize(
    "meanwhile",
    [
        Path.unlink,
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["deleted", "replaced by a link", "replaced by a fifo"],
)
def test_a_source_that_loses_its_name_is_captured_whole(
    no_clones: NoClones, source: Path, folder: str, meanwhile: Meanwhile
) -> None:
    no_clones.meanwhile = lambda: meanwhile(source) if source.is_file() and not source.is_symlink() else None
    staged = capture.capture(str(source), folder)
    assert content(staged) == LARGE and not staged.changed


def test_a_source_overwritten_once_is_read_again(no_clones: NoClones, source: Path, folder: str) -> None:
    no_clones.meanwhile = lambda: overwritten(source) if no_clones.copies == 1 else None
    staged = capture.capture(str(source), folder)
    assert content(staged) == source.read_bytes() != LARGE and not staged.changed


def test_a_source_cut_while_it_is_read_is_read_again(no_clones: NoClones, source: Path, folder: str) -> None:
    no_clones.meanwhile = lambda: os.truncate(source, 1 << 20) if no_clones.copies == 1 else None
    staged = capture.capture(str(source), folder)
    assert staged.size == 1 << 20 and content(staged) == LARGE[: 1 << 20] and not staged.changed


def test_a_source_that_never_stands_still_is_kept_as_it_was_read_and_said(
    no_clones: NoClones, source: Path, folder: str
) -> None:
    no_clones.meanwhile = lambda: overwritten(source)
    staged = capture.capture(str(source), folder)
    assert staged.changed and staged.size == len(LARGE) == len(content(staged))


def test_a_log_that_grows_is_captured_as_it_was_at_the_call(no_clones: NoClones, source: Path, folder: str) -> None:
    def grow() -> None:
        with open(source, "ab") as file:
            file.write(b"another line\n")

    no_clones.meanwhile = grow
    staged = capture.capture(str(source), folder)
    assert content(staged) == LARGE and not staged.changed


@pytest.mark.parametrize("way", [capture.capture, capture.begin, capture.give, capture.link])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, folder: str, way: Callable[..., object]) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        with pytest.raises(TrainspoolException, match="no plain file"):
            way(str(path), folder)
    with pytest.raises(FileNotFoundError):
        way(str(tmp_path / "missing"), folder)
    assert names(folder) == []


def test_files_that_say_they_are_empty_are_read_to_their_end(folder: str) -> None:
    staged = capture.capture("/proc/self/status", folder)
    assert staged.size > 100 and content(staged).startswith(b"Name:")


# -- in the background ----------------------------------------------------------------------------------------------


def test_a_copy_in_the_background_has_another_name_until_it_is_whole(
    no_clones: NoClones, source: Path, folder: str
) -> None:
    staged, copy = capture.begin(str(source), folder)
    assert copy is not None and names(folder) == [f"{staged.name}.part"]
    assert copy() == staged and names(folder) == [staged.name] and content(staged) == LARGE


def test_a_source_cut_before_its_copy_is_a_failure(no_clones: NoClones, source: Path, folder: str) -> None:
    _, copy = capture.begin(str(source), folder)
    os.truncate(source, 10)
    assert copy is not None
    with pytest.raises(StagingFailed, match="2097152 bytes at the call and 10 when"):
        copy()
    assert names(folder) == []


def test_a_small_file_is_captured_at_once_even_so(no_clones: NoClones, tmp_path: Path, folder: str) -> None:
    (tmp_path / "small").write_bytes(b"x")
    staged, copy = capture.begin(str(tmp_path / "small"), folder)
    assert copy is None and content(staged) == b"x"


# -- the calls ------------------------------------------------------------------------------------------------------


def test_each_way_of_the_call_is_said_in_the_event(
    seen: Seen, no_clones: NoClones, source: Path, tmp_path: Path
) -> None:
    assert mlflow.log_artifact(source, "copied").how == ("copied",)
    assert mlflow.log_artifact(source, "linked", link=True).how == ("linked",)
    handle = mlflow.log_artifact(source, "later", background=True)
    assert handle.wait(20) and handle.done()
    assert mlflow.log_artifact(source, "moved", move=True).how == ("copied",), "it has another name: the linked one"
    assert not source.exists()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "last.pt").write_bytes(LARGE)
    assert mlflow.log_artifacts(tmp_path / "folder", "folder", move=True).how == ("moved",)
    held = seen()
    said = {event[3]: event[7] for event in held.of(events.ARTIFACT)}
    assert said == {
        "copied/last.pt": "copied",
        "linked/last.pt": "linked",
        "later/last.pt": "copied",
        "moved/last.pt": "copied",
        "folder/last.pt": "moved",
    }
    assert set(held.artifacts.values()) == {LARGE}


def test_only_one_way_at_a_time(seen: Seen, source: Path) -> None:
    with pytest.raises(TrainspoolException, match="exclude each other"):
        mlflow.log_artifact(source, move=True, link=True)
    assert source.exists()


def test_flush_waits_for_what_is_copied_in_the_background(
    seen: Seen, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(files, "fs", NoClones(lambda: go_on.wait(20)))
    handle = mlflow.log_artifact(source, background=True)
    assert not handle.done() and not mlflow.flush(timeout=0.2) and "1 on their way" in repr(handle)
    go_on.set()
    assert mlflow.flush(durable=True, timeout=20) and handle.done()
    assert seen().artifacts == {"last.pt": LARGE}


def test_a_failure_in_the_background_is_reported_on_the_run(
    seen: Seen, source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(NoClones):
        def copy_range(self, source: int, target: int, count: int) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "fs", Full())
    assert mlflow.log_artifact(source, background=True).wait(20)
    assert "No space left" in caplog.text and "No space left" in (seen().tags["trainspool.problem"] or "")


def test_thousands_of_large_files_in_the_background_need_few_descriptors(
    seen: Seen, no_clones: NoClones, tmp_path: Path
) -> None:
    (tmp_path / "many").mkdir()
    for number in range(120):
        with open(tmp_path / f"many/{number}", "wb") as file:
            file.truncate(staging.LARGE_BYTES + 1)
    mlflow.log_metric("the stream", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    try:
        assert mlflow.log_artifacts(tmp_path / "many", background=True).wait(60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(seen().artifacts) == 120


def test_a_file_that_cannot_be_one_leaves_those_before_it_captured(
    seen: Seen, no_clones: NoClones, tmp_path: Path
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some/a").write_bytes(LARGE)
    os.mkfifo(tmp_path / "some/b")
    with pytest.raises(TrainspoolException, match="no plain file"):
        mlflow.log_artifacts(tmp_path / "some", background=True)
    assert seen().artifacts == {"a": LARGE}


def test_a_full_ring_leaves_nothing_of_a_background_capture(
    seen: Seen, no_clones: NoClones, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.log_metric("the stream", 0)
    assert mlflow.flush(durable=True, timeout=20)  # then nobody else opens or closes anything
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(type(mlflow.active_run()), "_log", lambda *_: False)
        assert mlflow.log_artifact(source, background=True).how == ("failed",)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    held = seen()
    assert held.folder is not None and names(str(held.folder / "staging")) == []


def test_a_source_changed_before_its_copy_begins_is_said(no_clones: NoClones, source: Path, folder: str) -> None:
    _, copy = capture.begin(str(source), folder)
    overwritten(source)
    os.utime(source, ns=(1, 1))
    assert copy is not None and copy().changed


def test_a_signal_handler_may_log_artifacts_while_the_background_is_full(
    seen: Seen, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.log_metric("the stream", 0)
    go_on, here = threading.Event(), threading.current_thread()
    monkeypatch.setattr(files, "fs", NoClones(lambda: threading.current_thread() is here or go_on.wait(20)))
    handled: list[captures.Capture] = []

    def handle(*_: object) -> None:
        if not handled:
            handled.append(mlflow.log_artifact(source, "from the handler"))
            go_on.set()

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        handles = [mlflow.log_artifact(source, f"{n}", background=True) for n in range(captures.WAITING_MAX + 4)]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert handled and all(one.wait(20) for one in handles)
    assert len(seen().artifacts) == captures.WAITING_MAX + 5


def test_a_file_too_large_for_what_is_free_is_refused_before_it_is_copied(
    seen: Seen, source: Path, no_clones: NoClones
) -> None:
    os.truncate(source, 1 << 43)  # a hole
    assert mlflow.log_artifact(source).how == ("failed",)
    assert not no_clones.copies and "do not fit" in (seen().tags["trainspool.problem"] or "")


# -- a path to write to ---------------------------------------------------------------------------------------------


def test_what_is_written_to_the_given_path_is_published_without_a_copy(seen: Seen) -> None:
    with mlflow.artifact_path("ckpt/last.pt") as path:
        assert path.endswith("-last.pt")
        Path(path).write_bytes(LARGE)
        inode = os.stat(path).st_ino
    held = seen()
    [event] = held.of(events.ARTIFACT)
    assert held.folder is not None and held.artifacts == {"ckpt/last.pt": LARGE} and event[7] == "moved"
    assert [one.stat().st_ino for one in (held.folder / "staging").iterdir()] == [inode]


def test_a_folder_written_to_the_given_path_is_published_with_all_it_holds(seen: Seen) -> None:
    with mlflow.artifact_path("model") as path:
        os.makedirs(f"{path}/deep")
        Path(path, "config.json").write_text("{}")
        Path(path, "deep", "weights").write_bytes(LARGE)
    held = seen()
    assert held.artifacts == {"model/config.json": b"{}", "model/deep/weights": LARGE}
    assert held.folder is not None and all(one.is_file() for one in (held.folder / "staging").iterdir())


def test_a_block_that_fails_publishes_nothing(seen: Seen) -> None:
    with pytest.raises(KeyError), mlflow.artifact_path("x") as path:
        Path(path).write_bytes(b"half")
        raise KeyError
    with pytest.raises(FileNotFoundError, match="wrote nothing"), mlflow.artifact_path("x"):
        pass
    held = seen()
    assert held.artifacts == {} and (held.folder is None or list((held.folder / "staging").iterdir()) == [])


def test_a_spool_that_takes_nothing_does_not_fail_the_block(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.log_metric("a", 1)

    def refused(folder: str, size: int) -> None:
        raise OSError(errno.EDQUOT, "over its quota", folder)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "make_room", refused)
        with mlflow.artifact_path("x.pt") as path:
            Path(path).write_bytes(b"content")
    held = seen()
    assert not os.path.exists(path) and held.artifacts == {} and "quota" in (held.tags["trainspool.problem"] or "")
