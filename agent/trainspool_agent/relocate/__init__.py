"""A store that was copied or moved: its absolute artifact addresses are mended, so that MLflow finds the files again.

MLflow writes where a run's artifacts lie as an absolute path. After ``rsync`` or ``mv`` metrics still show, but lists
of artifacts are silently empty.

Source: mlflow-store.md 1.2, 1.8 and 2; the rule: agent/docs/store-mapping.md 9.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trainspool.spool import metalock
from trainspool_agent.relocate.places import Left, Place, Walk, check_is_store
from trainspool_agent.relocate.rewrite import replace
from trainspool_agent.relocate.rule import Judge, Verdict, has_escape
from trainspool_agent.store import meta
from trainspool_agent.store.layout import file_text

UNREADABLE = (OSError, meta.UnreadableMeta, UnicodeDecodeError)
ADDRESS_BYTES_MAX = 1 << 16


class Mended(NamedTuple):
    """One address: in which file it stands, what it was and is."""

    file: str
    before: str
    after: str


@dataclass
class Report:
    """What became of every address of a store; *warning*: what MLflow needs beside."""

    store: str
    right: int = 0
    mended: list[Mended] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    warning: str = ""

    @property
    def unreadable(self) -> list[Left]:
        return [one for one in self.left if not one.address]


def relocate(root: Path, *, before: tuple[str, ...] = (), dry_run: bool = False) -> Report:
    """Mend what is not as it should be; with *dry_run* only say so.

    Each file is replaced whole; dying half-way leaves some mended and some not, and the same call again does the rest.
    What cannot be read or written is named in the report, and the others are mended.

    Args:
        before: folders in which the store lay, where nothing else tells.

    Raises:
        StoreRefused: *root* is no store.
    """
    store = os.path.abspath(root)
    check_is_store(store)
    report, judge, walk = Report(store, warning=_warning(store)), Judge(store, before), Walk(store)
    places = []
    for place in walk.places():
        address = _looked_at(place, report)
        if address:
            judge.observe(place, address)
            places.append(place)
    report.left += walk.troubles
    for place in places:
        try:
            _mend(place, judge, report, dry_run=dry_run)
        except FileNotFoundError:  # removed meanwhile
            continue
        except UNREADABLE as error:
            report.left.append(Left(place.file, "", str(error)))
    return report


def _warning(store: str) -> str:
    if not has_escape(store):
        return ""
    return f"MLflow decodes the escapes in this path; it opens the store as file://{urllib.parse.quote(store)} only"


def _looked_at(place: Place, report: Report) -> str:
    """Return the address that stands there; empty: none, or it cannot be read, which is noted once a file."""
    try:
        return _address(_read(place), place)
    except FileNotFoundError:
        return ""
    except UNREADABLE as error:
        if all(one.file != place.file for one in report.left[-1:]):
            report.left.append(Left(place.file, "", str(error)))
        return ""


def _mend(place: Place, judge: Judge, report: Report, *, dry_run: bool) -> None:
    """Read, judge and rewrite one address, all under the lock: what came meanwhile is in what is written."""
    with contextlib.nullcontext() if dry_run else _lock_of(place):
        values = _read(place)
        address = _address(values, place)
        if not address:
            return
        verdict = judge.verdict(place, address)
        if verdict.after not in (None, address) and not dry_run:
            _write(place, values, str(verdict.after))
    _report(place, address, verdict, report)


def _report(place: Place, address: str, verdict: Verdict, report: Report) -> None:
    if verdict.after is None:
        report.left.append(Left(place.file, address, verdict.why))
    elif verdict.after == address:
        report.right += 1
    else:
        report.mended.append(Mended(place.file, address, verdict.after))


def _lock_of(place: Place) -> AbstractContextManager[None]:
    return metalock.held(place.file) if place.key else contextlib.nullcontext()


def _read(place: Place) -> dict[str, Any]:
    if place.key:
        return meta.read(place.file)
    fd = os.open(place.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return {"": file.read(ADDRESS_BYTES_MAX).decode()}


def _write(place: Place, values: dict[str, Any], address: str) -> None:
    if place.key:
        replace(place.file, meta.render({**values, place.key: address}), os.path.dirname(place.file))
    else:  # a tag: any file beside it would be another
        replace(place.file, file_text(address), os.path.dirname(os.path.dirname(place.file)))


def _address(values: dict[str, Any], place: Place) -> str:
    address = values.get(place.key)
    if not isinstance(address, str):
        return ""
    # The source of a registered model may be a name: of a logged model, or of a run's artifact.
    named = place.key == "source" and urllib.parse.urlsplit(address).scheme not in ("", "file")
    return "" if named else address
