"""Where a database comes to be: in a folder of its own beside its place, and under its name when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainspool_agent.export.errors import ExportFailed
from trainspool_agent.store.files import NO_LINK
from trainspool_agent.store.layout import META

SCHEME = "sqlite:///"
LOCK = "trainspool.lock"


def database_of(target: str, store: str) -> Path:
    """Return the file that *target* names.

    Raises:
        ExportFailed: it is no such address, is there already, or would lie in a store; nothing was made.
    """
    name = target[len(SCHEME) :]
    if not target.startswith(SCHEME) or not name:
        raise ExportFailed(
            f"MLflow's migration writes SQLite only, not {target!r}. Next: {SCHEME}mlflow.db (from there, MLflow's or "
            "your database's own tools go on)"
        )
    if "?" in name or "%" in name:
        raise ExportFailed(
            f"MLflow would take the ? or % in {target!r} for something else than a file's name. Next: cd there, and "
            f"give the name alone, without such characters: {SCHEME}mlflow.db"
        )
    database = Path(os.path.abspath(name))
    if database.exists():
        raise ExportFailed(f"{database} is there already, and is not overwritten. Next: another name, or move it away")
    for left in (f"{database}-{kind}" for kind in ("journal", "wal", "shm")):
        if os.path.lexists(left):  # SQLite would take it for the new database's, and undo that
            raise ExportFailed(f"{left} is what a database of that name left. Next: move it away, too, or another name")
    if not database.parent.is_dir():
        raise ExportFailed(f"there is no folder {database.parent}. Next: mkdir -p {database.parent}")
    _refuse_inside(database, os.path.realpath(store))
    return database


def _refuse_inside(database: Path, store: str) -> None:
    """Refuse to make folders in a store: MLflow could not read it meanwhile, and never again if we were killed."""
    folder = os.path.realpath(database.parent)
    holds_experiments = any(
        entry.name.isdigit() and os.path.exists(f"{entry.path}/{META}") for entry in os.scandir(folder)
    )
    if folder == store or folder.startswith(f"{store}/") or holds_experiments:
        raise ExportFailed(
            f"{database} would lie inside a store, which MLflow could then not read. "
            f"Next: a place outside, e.g. {SCHEME}{os.path.dirname(store)}/{database.name}"
        )


@contextlib.contextmanager
def unfinished(database: Path) -> Iterator[tuple[Path, int]]:
    """Give a folder to build *database* in, and the lock that says it is in use; both are gone afterwards.

    What killed calls left beside it is removed: nobody holds their lock.
    """
    _remove_dead(database.parent)
    with tempfile.TemporaryDirectory(prefix=f".{database.name}.unfinished-", dir=database.parent) as folder:
        fd = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: nobody removes it, then
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(f"{folder}/{LOCK}", f"{folder}/{LOCK}ed")
            yield Path(folder), fd
        finally:
            os.close(fd)


def _remove_dead(parent: Path) -> None:
    for folder in parent.glob(".*.unfinished-*"):
        try:
            fd = os.open(folder / f"{LOCK}ed", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # not of ours, or not locked yet
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(fd)


def publish(built: Path, database: Path) -> None:
    """Give *built* its name, on the device; what stands there by now stays.

    Raises:
        FileExistsError: something does.
    """
    _sync(built)
    try:
        os.link(built, database)  # unlike a rename, it never replaces what came meanwhile
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        _rename(built, database)
    _sync(database.parent)


def _rename(built: Path, database: Path) -> None:
    """Take the name with an empty file, then rename over that: for file systems without hard links."""
    os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    try:
        os.rename(built, database)
    except BaseException:
        os.unlink(database)
        raise


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
