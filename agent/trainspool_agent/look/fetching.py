"""Artifacts copied out of a store, or out of the spool while they are not there yet; checked, never in part."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from trainspool.errors import TrainspoolError
from trainspool.spool import copying
from trainspool.spool.fingerprint import fingerprint
from trainspool_agent.look.artifacts import CAPTURING, FOREIGN, ON_ITS_WAY, STAGED, STORED, Found
from trainspool_agent.store.content import open_stored
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.layout import artifact_parts
from trainspool_agent.store.transfer import LINKED, NotYet, new_hash, open_staged


class NotFetched(TrainspoolError):
    """An artifact cannot be had, or is not what was stored; nothing of it is left at the destination."""


def fetch(found: Found, run_folder: Path | None, target: Path, advance: Callable[[int], None]) -> None:
    """Copy one artifact to the file *target*, folders made; what stood there is replaced once all is here.

    Args:
        advance: called with how many bytes more there are.

    Raises:
        NotFetched: it is not to be had, and why.
        OSError: *target* cannot be written.
    """
    with _opened(found, run_folder) as source:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}")
        try:
            with open(temporary, "xb", buffering=0) as file:
                digest = _copy(source, file.fileno(), advance)
            _check(found, source, digest)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _copy(source: int, target: int, advance: Callable[[int], None]) -> str:
    known = new_hash()
    while block := os.read(source, copying.COPY_BYTES):
        known.update(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(target, rest) :]
        advance(len(block))
    digest: str = known.hexdigest()
    return digest


def _check(found: Found, source: int, digest: str) -> None:
    if found.digest is not None and digest != found.digest:
        what = f"{found.path} in the store is not what was stored there: BLAKE3 {digest}, not {found.digest}"
        raise NotFetched(
            f"{what}. Next: whoever changed it knows more; trainspool replay brings it back from the spool"
        )
    event = found.event
    if event is not None and event.how == LINKED and fingerprint(source, event.size) != event.fingerprint:
        raise NotFetched(f"{found.path} was logged with link=True and changed since: it will not be stored either")


@contextlib.contextmanager
def _opened(found: Found, run_folder: Path | None) -> Iterator[int]:
    """Open the artifact where it is now: it may have come to its place since it was looked at."""
    if found.where not in (STORED, FOREIGN, STAGED, ON_ITS_WAY):
        step = "wait until it is captured" if found.where == CAPTURING else "trainspool status says what else is lost"
        raise NotFetched(f"{found.path} is {found.where}{f' ({found.why})' if found.why else ''}. Next: {step}")
    try:
        artifact_parts(found.path)  # a path that leads elsewhere must not, at the destination either
        fd = _open_staged(found) if found.event is not None else -1
        if fd < 0:
            fd = open_stored(str(run_folder), found.path)
    except (OSError, Refused, NotYet) as error:
        why = found.why or str(error) or "it is still being captured"
        raise NotFetched(f"{found.path} cannot be read: {why}. Next: trainspool artifacts ls") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _open_staged(found: Found) -> int:
    assert found.event is not None
    try:
        return open_staged(found.event.staged, found.staging)
    except Refused:
        return -1
