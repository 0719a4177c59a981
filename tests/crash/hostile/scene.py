"""A box with one honest stream, a tree of secrets beside it, and the pen that hostile streams are written with.

Everything here is written with the format's own bytes, never with the code that is under attack.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack

from trainspool.spool import events as ev
from trainspool.spool import frame, layout
from trainspool_agent.liveness import boot_id, pid_namespace

T0 = 1_700_000_000_000_000_000
GONE_PID = 2**22 + 1  # beyond the kernel's largest pid
HONEST_POINTS = 200
SECRET = b"canary-7c1f-must-never-be-read"
NOBODY = 65534
_SEEN = ("st_mode", "st_ino", "st_uid", "st_gid", "st_nlink", "st_size", "st_mtime_ns", "st_ctime_ns", "st_atime_ns")


class Pen:
    """Writes one stream, of a process that is gone: whole frames of whatever events it is given."""

    def __init__(self, spool: Path, store: str, name: str | None = None, **identity: Any) -> None:
        self.name = name or os.urandom(16).hex()
        self.raw = bytes.fromhex(self.name)
        self.folder = layout.stream_folder(spool, layout.host_name(), self.name)
        self.store = store
        self.identity: dict[str, Any] = {
            "format": 1, "stream": self.name, "host": layout.host_name(), "boot": boot_id(), "pid": GONE_PID,
            "pidns": pid_namespace(), "started": 1, "uid": os.getuid(), "rank": None, "wall": T0, "mono": 1,
            "spool": str(spool), "ring": None, "sdk": "test", "program": "/x/train.py", **identity,
        }  # fmt: skip
        self.offset = self.events = self.points = 0
        self.path = self.folder / "0000000000000000.00.seg"
        self.run_ids: list[str] = []

    def begin(self) -> Pen:
        """Make the folder and a segment that has an identity."""
        for folder in (*self.folder.parents[:3][::-1], self.folder, self.folder / "staging"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "lock").touch(0o600)
        packed = msgpack.packb(self.identity, unicode_errors="surrogateescape")
        self.bytes(frame.encode(frame.IDENTITY, self.raw, 0, events=packed))
        return self

    def bytes(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def data(self, *events: bytes, count: int | None = None, points: int = 0, definitions: bytes = b"") -> None:
        """Write one data frame of *events*, sound by every checksum."""
        body = b"".join(events)
        count = len(events) if count is None else count
        self.bytes(
            frame.encode(
                frame.DATA, self.raw, self.offset, definitions=definitions, events=body, event_count=count,
                point_count=points, events_before=self.events, points_before=self.points,
            )
        )  # fmt: skip
        self.offset, self.events, self.points = self.offset + len(body), self.events + count, self.points + points

    def run(self, number: int = 0, run_id: Any = None, owner: Any = True, store: Any = None, experiment: Any = "exp",
            experiment_id: Any = None) -> bytes:  # fmt: skip
        run_id = run_id if run_id is not None else os.urandom(16).hex()
        self.run_ids.append(run_id)
        place = self.store if store is None else store
        return ev.pack(ev.DEFINE_RUN, number, run_id, owner, place, experiment_id, experiment)

    def start(self, number: int = 0, name: Any = "hostile", time: Any = T0, tags: Any = None) -> bytes:
        return ev.pack(ev.START, number, time, {"name": name, "user": "u", "tags": tags or {}, "resume": False})

    def point(self, step: Any = 0, key: Any = 0, run: Any = 0, value: Any = 0.5, time: Any = None) -> bytes:
        return ev.pack(ev.POINT, run, key, T0 + 1_000_000 * step if time is None else time, step, value)

    def seal(self) -> None:
        self.bytes(
            frame.encode(frame.SEAL, self.raw, self.offset, events_before=self.events, points_before=self.points)
        )

    def stage(self, name: str, content: bytes) -> Path:
        path = self.folder / "staging" / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def forge_cursor(self, **fields: Any) -> None:
        """Write a cursor with a valid checksum."""
        about = {"offset": 0, "runs": [], "finished": False, "damaged_events": 0, "damaged_points": 0,
                 "unknown_tail": False, "boot": boot_id(), **fields}  # fmt: skip
        body = msgpack.packb(about, unicode_errors="surrogateescape")
        (self.folder / "cursor").write_bytes(b"TSC1" + zlib.crc32(body).to_bytes(4, "little") + body)


class Scene:
    """One test's box: spool, store, rings, secrets, and an honest stream that must come through whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool, self.store, self.canary = folder / "spool", folder / "mlruns", folder / "canary"
        self.rings = Path(tempfile.mkdtemp(prefix="hostile", dir="/dev/shm"))
        self.more_spools: list[Path] = []
        self.pens: list[Pen] = []
        self._plant()
        self.honest = self.pen()
        self.honest_run = os.urandom(16).hex()
        self._log_honestly()

    def pen(self, spool: Path | None = None, **about: Any) -> Pen:
        made = Pen(spool or self.spool, str(self.store), **about)
        self.pens.append(made)
        return made.begin()

    def hostile(self, *events: bytes, key: Any = "loss", run_id: Any = None, **about: Any) -> Pen:
        """Return a stream with a run, key 0, a start, ten points, and *events*."""
        pen = self.pen(**about)
        pen.data(pen.run(run_id=run_id), ev.pack(ev.DEFINE_KEY, 0, key), pen.start(), count=1)
        pen.data(*(pen.point(step) for step in range(10)), points=10)
        for event in events:
            pen.data(event)
        return pen

    def _plant(self) -> None:
        """The secrets: with an access time before the modification, so that any reading moves it (relatime)."""
        for name in ("secret", "etc/shadow", "run/trainspool.applied", "metrics/loss", "deep/er/x"):
            path = self.canary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(SECRET + b"\n")
            path.chmod(0o600)
        for path in self.canary.rglob("*"):
            os.utime(path, (500, 1000))

    def _log_honestly(self) -> None:
        pen = self.honest
        pen.data(pen.run(run_id=self.honest_run, experiment="honest"), ev.pack(ev.DEFINE_KEY, 0, "loss"), pen.start(),
                 ev.pack(ev.PARAMS, 0, T0, ["lr", "0.1"]), count=2)  # fmt: skip
        for begin in range(0, HONEST_POINTS, 50):
            pen.data(*(pen.point(step) for step in range(begin, begin + 50)), points=50)
        pen.stage("honestfile", b"model")
        pen.data(ev.pack(ev.ARTIFACT, 0, T0, "model.bin", "honestfile", 5, 0o644))
        pen.data(ev.pack(ev.END, 0, T0 + 10**9, ev.FINISHED, None))
        pen.seal()

    def clean_up(self) -> None:
        shutil.rmtree(self.rings, ignore_errors=True)

    # -- what is there

    def outside(self, *, names: bool = True) -> dict[str, tuple[Any, ...]]:
        """Everything in the box that is not spool, store or rings, as it stands; its bytes without touching atime.

        *names*: how many names a file has counts, too.
        """
        seen = [name for name in _SEEN if names or name not in ("st_nlink", "st_ctime_ns")]
        found = {}
        for path in sorted(self.folder.rglob("*")):
            top = path.relative_to(self.folder).parts[0]
            if top in ("spool", "mlruns", "state", "replayed") or top.startswith(("hostile-spool", "hostile-store")):
                continue
            info = path.lstat()
            facts = tuple(getattr(info, name) for name in seen)
            if not stat.S_ISREG(info.st_mode):
                facts = (*facts[:-1], 0)  # looking at a folder is no harm
            found[str(path)] = facts
        return found

    def honest_is_stored(self, store: Path | None = None) -> None:
        [folder] = (store or self.store).glob(f"*/{self.honest_run}")
        lines = (folder / "metrics" / "loss").read_text().splitlines()
        assert [int(line.split()[2]) for line in lines] == list(range(HONEST_POINTS))
        assert (folder / "params" / "lr").read_text() == "0.1"
        assert (folder / "artifacts" / "model.bin").read_bytes() == b"model"
        assert "status: 3" in (folder / "meta.yaml").read_text()

    def leaked(self, *stores: Path) -> list[Path]:
        """Files of *stores* that hold a secret."""
        return [path for top in stores for path in _files(top)
                if SECRET in path.read_bytes()]  # fmt: skip


def _files(top: Path) -> Iterable[Path]:
    for path in top.rglob("*"):
        info = path.lstat()
        if stat.S_ISREG(info.st_mode) and info.st_size < 64 << 20 and info.st_nlink < 100:
            yield path


def ring_bytes(
    pen: Pen, data: bytes = b"", *, chunk_bytes: int = 65536, chunks: int = 2, identity: bytes | None = None,
    identity_length: int | None = None, head: int = 0, table: list[tuple[int, int]] | None = None,
) -> bytes:  # fmt: skip
    """Return a ring file for *pen*'s stream that has committed *data*; every field may be forged."""
    packed = msgpack.packb(pen.identity, unicode_errors="surrogateescape") if identity is None else identity
    header = bytearray(65536)
    length = len(packed) if identity_length is None else identity_length
    fixed = struct.pack("<8sII16sIII", b"TSRING1\0", 1, chunk_bytes, pen.raw, chunks, length, zlib.crc32(packed[:4096]))
    header[: len(fixed)] = fixed
    struct.pack_into("<Q", header, 64, head)
    rows = table or [(65536 * index, len(data) if index == 0 else 0) for index in range(2)]
    for index, row in enumerate(rows):
        struct.pack_into("<QQ", header, 128 + 16 * index, *row)
    header[4096 : 4096 + len(packed[:4096])] = packed[:4096]
    return bytes(header) + data.ljust(2 * 65536, b"\0")


def foreign(path: Path) -> None:
    """Give *path* to another user; tests run as root or leave it."""
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def replace_by(path: Path, how: str, target: Path) -> None:
    """Put something else in *path*'s place: a link, a pipe, a device, a folder, a socket-like nothing."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if how == "symlink":
        path.symlink_to(target)
    elif how == "fifo":
        os.mkfifo(path, 0o600)
    elif how == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it never ends
    elif how == "folder":
        path.mkdir()
    elif how == "hard link":
        os.link(target, path)
