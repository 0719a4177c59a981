"""The same content stored once: by hash, where in this store an artifact already holds it.

A note per content lies in its experiment's dot-folder and says which file held it, of which size, time and inode. It
is believed only if that file still is as it says, so removing runs, or writing to their artifacts, makes notes void.

Source: agent/docs/artifacts.md, "The same content".
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from trainspool.errors import TrainspoolError
from trainspool.spool import copying
from trainspool_agent import files
from trainspool_agent.store.files import publish, temporary_in
from trainspool_agent.store.layout import ARTIFACTS, TRASH, WORK, artifact_parts, is_run_id, refuse_links
from trainspool_agent.store.limits import COPY_BYTES, HOLLOW_FROM_BYTES, HOLLOW_RATIO, SHARED_FROM_BYTES, STEP_BYTES
from trainspool_agent.store.transfer import new_hash, open_folder

NOTES = "content"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Hashing:
    """Reads one stored artifact for its hash, a part at a time. For one thread at a time; close it.

    Args:
        digest: where it is known already, as the content was copied by us: then nothing is read.

    Raises:
        OSError: it is gone, or no plain file.
    """

    def __init__(self, run_folder: str, path: str, digest: str | None = None) -> None:
        self.run_folder, self.path, self.digest = run_folder, path, digest
        self.fd = open_stored(run_folder, path)
        self.info = os.fstat(self.fd)
        self.done_bytes, self._hash = 0, new_hash()

    def step(self) -> None:
        """Read some more; ``digest`` is there once all is read."""
        left = STEP_BYTES
        while left > 0 and (block := os.pread(self.fd, COPY_BYTES, self.done_bytes)):
            self._hash.update(block)
            self.done_bytes += len(block)
            left -= len(block)
        if left > 0:
            self.digest = self._hash.hexdigest()

    @property
    def is_in_vain(self) -> bool:
        """Whether nearly all of it is holes: sharing would save next to nothing, and a tebibyte of zeros be read."""
        occupied = self.info.st_blocks * 512
        return self.digest is None and self.info.st_size > max(HOLLOW_FROM_BYTES, HOLLOW_RATIO * occupied)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def is_as_hashed(run_folder: str, path: str, info: os.stat_result) -> bool:
    """Whether the stored artifact still is the file that was looked at, unchanged."""
    try:
        fd = open_stored(run_folder, path)
    except OSError:
        return False
    try:
        return _seen(os.fstat(fd)) == _seen(info)
    finally:
        os.close(fd)


def share(experiment: str, run_id: str, path: str, digest: str) -> bool:
    """Have a stored artifact share its content with an equal one, if there is one; else note it for those to come.

    By shared blocks where the file system can, else by hard link. Returns whether it shares.

    Raises:
        OSError, StoreRefused: it is stored as it was.
    """
    run_folder = f"{experiment}/{run_id}"
    fd = open_stored(run_folder, path)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    if info.st_size < SHARED_FROM_BYTES:
        return False
    other = _find(experiment, digest, info)
    if other < 0:
        _note(experiment, run_id, path, digest, info)
        return False
    try:
        if os.fstat(other).st_ino != info.st_ino:
            _put_in_place(other, run_folder, path, f"{experiment}/{WORK}", stat.S_IMODE(info.st_mode))
        return True
    finally:
        os.close(other)


def restage(run_folder: str, path: str, staging: str, staged: str) -> None:
    """Have a staged file that nobody else has be the stored one: the spool costs nothing for it then.

    Raises:
        OSError: it stays as it was.
    """
    folder = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mine, fd = os.stat(staged, dir_fd=folder, follow_symlinks=False), open_stored(run_folder, path)
        try:
            info = os.fstat(fd)
            if mine.st_nlink == 1 and stat.S_ISREG(mine.st_mode) and mine.st_dev == info.st_dev:
                temporary = temporary_in(f"{os.path.dirname(run_folder)}/{WORK}")
                files.fs.link_open(fd, temporary)
                try:
                    files.fs.rename_into(temporary, folder, staged)
                except OSError:
                    files.fs.remove_tree(temporary)
                    raise
        finally:
            os.close(fd)
    finally:
        os.close(folder)


def _put_in_place(other: int, run_folder: str, path: str, work: str, mode: int) -> None:
    temporary = temporary_in(work)
    *folders, name = artifact_parts(path)
    try:
        if not _cloned(other, temporary, mode):
            files.fs.link_open(other, temporary)
            # One file, several runs: whoever writes to it in place is told no rather than changing the others.
            files.fs.change_mode(temporary, stat.S_IMODE(os.fstat(other).st_mode) & ~0o222)
        folder = open_folder(run_folder, (ARTIFACTS, *folders))
        try:
            files.fs.rename_into(temporary, folder, name)
        finally:
            os.close(folder)
    except OSError:
        files.fs.remove_tree(temporary)
        raise


def _cloned(source: int, temporary: str, mode: int) -> bool:
    target = files.fs.create_to_fill(temporary)
    try:
        done = copying.clone(source, target)
        if done:
            files.fs.sync(target)  # it replaces what a power cut would have left whole
    finally:
        os.close(target)
    if done:
        files.fs.change_mode(temporary, mode)
    else:
        files.fs.unlink(temporary)
    return done


def _find(experiment: str, digest: str, info: os.stat_result) -> int:
    """Return a descriptor of a stored file that holds this content, -1 if none is known."""
    for folder in (experiment, *_other_experiments(experiment)):
        try:
            refuse_links(f"{folder}/{WORK}", (NOTES,))
            with open(os.open(f"{folder}/{WORK}/{NOTES}/{digest}", _READ), "rb") as file:
                run_id, path, *seen = json.loads(file.read(8192))
            if not is_run_id(run_id):
                continue
            fd = open_stored(f"{folder}/{run_id}", path)
        except (OSError, ValueError, TypeError, AttributeError, TrainspoolError):
            continue
        found = os.fstat(fd)
        if list(_seen(found)) == seen and found.st_size == info.st_size and found.st_dev == info.st_dev:
            return fd
        os.close(fd)
    return -1


def _other_experiments(experiment: str) -> list[str]:
    parent = os.path.dirname(experiment)
    roots = [parent, os.path.dirname(parent)] if os.path.basename(parent) == TRASH else [parent]
    return [
        entry.path
        for root in roots
        for entry in os.scandir(root)
        if entry.name.isdigit() and entry.is_dir(follow_symlinks=False) and entry.path != experiment
    ]


def _note(experiment: str, run_id: str, path: str, digest: str, info: os.stat_result) -> None:
    work = f"{experiment}/{WORK}"
    refuse_links(work, (NOTES,))
    files.fs.make_one_folder(work)
    files.fs.make_one_folder(f"{work}/{NOTES}")
    publish(f"{work}/{NOTES}/{digest}", json.dumps([run_id, path, *_seen(info)]).encode(), work)


def _seen(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ino


def open_stored(run_folder: str, path: str) -> int:
    """Open a stored artifact to read, no link followed on the way.

    Raises:
        OSError: it is not there, or no plain file.
    """
    *folders, name = artifact_parts(path)
    folder = open_stored_folder(run_folder, folders)
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(2, "no plain file", str(Path(run_folder, ARTIFACTS, path)))
    return fd


def open_stored_folder(run_folder: str, folders: list[str]) -> int:
    """Open a folder of a run's artifacts as it is; nothing is made, no link is followed."""
    fd = os.open(run_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    for folder in (ARTIFACTS, *folders):
        try:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd
