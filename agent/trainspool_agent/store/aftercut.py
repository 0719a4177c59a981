"""What a power cut leaves of writes that nobody had synced: mended before anyone works on the store in a new boot.

Points and small texts reach the disk when the kernel likes. Where their events survived in a spool they are applied
again; where not, a torn line or an empty file would stay, and one of those hides a whole experiment from MLflow.
Looked at once per boot: the runs of ours whose last durable checkpoint does not cover all that was applied.

Source: mlflow-store.md 1.9; agent/docs/store-mapping.md, section 6.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from trainspool.spool.experiments import DEFAULT_ID
from trainspool_agent import checkpoint, files
from trainspool_agent.store import lease
from trainspool_agent.store.files import publish
from trainspool_agent.store.fold import MetricFile
from trainspool_agent.store.layout import APPLIED, DURABLE, METRICS, PARAMS, TAGS, TRASH, WORK, file_of_key, is_run_id
from trainspool_agent.store.points import DecodedBlocks

_MARK = "boot"


def mend(root: str, boot_id: str) -> None:
    """Mend the store at *root* unless that was done in this boot.

    Raises:
        OSError: some of it may be as it was; call again.
    """
    work = f"{root}/{DEFAULT_ID}/{WORK}"
    if _content(f"{work}/{_MARK}") == boot_id.encode():
        return
    for folder in _runs(root):
        if lease.is_of_another_host(folder):
            continue  # that machine had no power cut, and what is not synced there is being written
        durable = checkpoint.decode(_content(f"{folder}/{DURABLE}"))
        applied = checkpoint.decode(_content(f"{folder}/{APPLIED}"))
        if durable is None or applied is None or applied["serial"] > durable["serial"]:
            _mend_run(folder, durable or {"metrics": {}, "params": {}, "tags": {}})
    publish(f"{work}/{_MARK}", boot_id.encode(), work)


def _runs(root: str) -> Iterator[str]:
    """Yield the runs that we have carried: those with a checkpoint, whatever is in it."""
    for parent in (root, f"{root}/{TRASH}"):
        for experiment in _folders(parent):
            for folder in _folders(experiment):
                if is_run_id(os.path.basename(folder)) and any(
                    os.path.exists(f"{folder}/{name}") for name in (APPLIED, DURABLE)
                ):
                    yield folder


def _mend_run(folder: str, durable: dict[str, Any]) -> None:
    lengths = {path: length for path, length, *_ in durable["metrics"].values()}
    decoded = DecodedBlocks()
    for path in _files(f"{folder}/{METRICS}"):
        file = MetricFile(path, decoded, lengths.get(path[len(folder) + 1 :], 0))
        if os.path.getsize(path) and file.open():  # cuts a torn last line, drops NULs, removes what is empty then
            file.close()
        elif os.path.exists(path):
            files.fs.unlink(path)
    for kind, known in ((PARAMS, durable["params"]), (TAGS, durable["tags"])):
        kept = {file_of_key(f"{folder}/{kind}", key) for key in known}
        for path in _files(f"{folder}/{kind}"):
            if path not in kept and b"\0" in (_content(path) or b"\0"):
                files.fs.unlink(path)  # named, but never filled; if its event survived, it is written again


def _folders(parent: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _files(folder: str) -> list[str]:
    return [f"{parent}/{name}" for parent, _, names in os.walk(folder) for name in names]


def _content(path: str) -> bytes:
    """Return a plain file's bytes, nothing for another kind: a pipe must not hold us up, nor a link lead us away."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            return b""
        raise
    with open(fd, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else b""
