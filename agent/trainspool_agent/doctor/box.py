"""Facts about this machine that no library tells: file systems, inotify, logind, the clock."""

from __future__ import annotations

import configparser
import contextlib
import ctypes
import os
import pwd
from pathlib import Path
from typing import NamedTuple

_NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs lustre gpfs beegfs ceph glusterfs afs 9p fuse.sshfs fuse.glusterfs fuse.ceph fuse.beegfs "
    "pvfs2 orangefs panfs wekafs virtiofs fuse.juicefs".split()
)
_INOTIFY = Path("/proc/sys/fs/inotify")
_SYSTEM_UIDS_END = 1000  # logind spares those below
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 1024  # struct timex is 208; room for any


class Mount(NamedTuple):
    kind: str
    is_network: bool


def kind_of(path: Path) -> Mount:
    """Return the type of the file system that holds *path*, by /proc/self/mountinfo; ``unknown`` without it."""
    best, kind = "", "unknown"
    target = os.path.realpath(path)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields = line.split(" ")
            point = fields[4].replace("\\040", " ")
            inside = target == point or target.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, fields[fields.index("-") + 1]
    return Mount(kind, kind in _NETWORK)


def inotify_limit(name: str) -> int | None:
    try:
        return int((_INOTIFY / name).read_text())
    except (OSError, ValueError):
        return None


def inotify_use() -> tuple[int, int]:
    """Return the instances and watches that this user's processes hold, as far as we may look."""
    instances = watches = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                for fd in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if os.readlink(fd) == "anon_inode:inotify":
                            instances += 1
                            watches += (process / "fdinfo" / fd.name).read_text().count("inotify wd:")
    return instances, watches


def logind_removes_ipc() -> bool:
    """Whether logind would remove this user's shared memory with their last session (logind.conf(5), RemoveIPC)."""
    if not Path("/run/systemd/system").is_dir() or os.getuid() < _SYSTEM_UIDS_END:
        return False
    with contextlib.suppress(KeyError):
        if Path("/var/lib/systemd/linger", pwd.getpwuid(os.getuid()).pw_name).exists():
            return False
    removes = True  # the default
    folders = ("/usr/lib/systemd", "/run/systemd", "/etc/systemd")
    files = [Path(folder, "logind.conf") for folder in folders]
    files += [path for folder in folders for path in sorted(Path(folder, "logind.conf.d").glob("*.conf"))]
    for path in files:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        with contextlib.suppress(OSError, configparser.Error, ValueError):
            parser.read(path)
            removes = parser.getboolean("Login", "RemoveIPC", fallback=removes)
    return removes


def clock_is_synchronised() -> bool | None:
    """Return what the kernel says of the clock (adjtimex(2)); None if it says nothing."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        state: int = library.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: asks, sets nothing
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR
