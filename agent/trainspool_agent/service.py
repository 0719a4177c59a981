"""What surrounds the agent's process: the service manager, limits of the system, the file that stderr goes to."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat

OPEN_FILES_WANTED = 65536
LOG_BYTES_MAX = 10 << 20


def notify(message: str) -> None:
    """Tell systemd, if it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        sender.send(message.encode())


def allow_many_files() -> None:
    """A stream keeps up to three descriptors, a store up to 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def log_path() -> str | None:
    """The file that stderr goes to, None if it is a terminal or the journal."""
    try:
        if not stat.S_ISREG(os.fstat(2).st_mode):
            return None
        return os.readlink("/proc/self/fd/2")
    except OSError:
        return None


def limit_log() -> None:
    """An autostarted agent's log is a plain file that nobody rotates: keep this one and the last."""
    try:
        if os.fstat(2).st_size <= LOG_BYTES_MAX or (path := log_path()) is None:
            return
        os.replace(path, f"{path}.1")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    os.dup2(fd, 2)
    os.close(fd)
