"""A store that was copied or moved: its absolute artifact addresses are mended, so that MLflow finds the files again.

MLflow writes where a run's artifacts lie as an absolute path. After ``rsync`` or ``mv`` metrics still show, but lists
of artifacts are silently empty. An address is mended if it ends as the store's own layout says and the folder is here.

Source: mlflow-store.md 1.2, 1.8 and 2.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trainspool_agent.store import meta
from trainspool_agent.store.errors import StoreRefused
from trainspool_agent.store.files import publish
from trainspool_agent.store.layout import ARTIFACTS, META, MODELS, TAGS, TRASH, WORK, file_text, refuse_links

TRACES = "traces"
TRACE_TAG = "mlflow.artifactLocation"


class Mended(NamedTuple):
    """One address: in which file it stands, what it was and is."""

    file: str
    before: str
    after: str


class Left(NamedTuple):
    """One address that is none of this store's layout, or cannot be read; and why it stays."""

    file: str
    address: str
    why: str


@dataclass
class Report:
    """What became of every address of a store."""

    store: str
    right: int = 0
    mended: list[Mended] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


class _Place(NamedTuple):
    """Where an address stands, and the end that it must have."""

    file: str
    key: str  # of meta.yaml; empty: the file is the address
    tail: str
    work: str


def relocate(root: Path, *, dry_run: bool = False) -> Report:
    """Mend what is not as it should be; with *dry_run* only say so.

    Each file is replaced whole; dying half-way leaves some mended and some not, and the same call again does the rest.

    Raises:
        StoreRefused: *root* is no store.
        OSError: it cannot be written; what was mended stays mended.
    """
    store = os.path.abspath(root)
    report = Report(store)
    places = list(_places(store))
    if not places:
        raise StoreRefused("no experiment lies there", store, "name the folder that holds the experiments, e.g. mlruns")
    for place in places:
        _mend(store, place, report, dry_run=dry_run)
    return report


def _mend(store: str, place: _Place, report: Report, *, dry_run: bool) -> None:
    try:
        values = {"": _text(place.file)} if not place.key else meta.read(place.file)
    except FileNotFoundError:
        return
    except (meta.UnreadableMeta, UnicodeDecodeError) as error:
        report.left.append(Left(place.file, "", str(error)))
        return
    address = values.get(place.key)
    if not isinstance(address, str) or not address:
        return
    after = _mended(address, store, place.tail)
    if after is None:
        report.left.append(Left(place.file, address, "it does not lie in the store, so it did not move with it"))
    elif after == address:
        report.right += 1
    else:
        if not dry_run:
            values[place.key] = after
            data = meta.render(values) if place.key else file_text(after)
            publish(place.file, data, place.work, sync=True)
        report.mended.append(Mended(place.file, address, after))


def _mended(address: str, store: str, tail: str) -> str | None:
    """Return what *address* should be, in the form it has; None if it is none of this layout's.

    >>> _mended("/old/mlruns/0/ab/artifacts", "/new/runs", "0/ab/artifacts")
    '/new/runs/0/ab/artifacts'
    >>> _mended("file:///old/my%20runs/0", "/new/my runs", "0")
    'file:///new/my%20runs/0'
    >>> _mended("s3://bucket/0", "/new", "0")
    """
    scheme = urllib.parse.urlsplit(address).scheme
    if scheme not in ("", "file"):
        return None
    path = urllib.parse.unquote(urllib.parse.urlsplit(address).path) if scheme else address
    if path != tail and not path.rstrip("/").endswith(f"/{tail}"):
        return None
    wanted = f"{store}/{tail}"
    return f"file://{urllib.parse.quote(wanted)}" if scheme else wanted


def _places(store: str) -> Iterator[_Place]:
    """Yield every address of a store: of experiments, runs, logged models and traces; deleted ones' too."""
    for parent in (store, f"{store}/{TRASH}"):
        for experiment in _folders(parent):
            folder, work = f"{parent}/{experiment}", f"{parent}/{experiment}/{WORK}"
            if not os.path.isfile(f"{folder}/{META}") or experiment == MODELS:
                continue
            refuse_links(folder)
            yield _Place(f"{folder}/{META}", "artifact_location", experiment, work)
            for name in _folders(folder):
                if name == MODELS:
                    for model in _folders(f"{folder}/{MODELS}"):
                        tail = f"{experiment}/{MODELS}/{model}/{ARTIFACTS}"
                        yield _Place(f"{folder}/{MODELS}/{model}/{META}", "artifact_location", tail, work)
                elif name == TRACES:
                    for trace in _folders(f"{folder}/{TRACES}"):
                        tail = f"{experiment}/{TRACES}/{trace}/{ARTIFACTS}"
                        yield _Place(f"{folder}/{TRACES}/{trace}/{TAGS}/{TRACE_TAG}", "", tail, work)
                elif name != WORK:
                    yield _Place(f"{folder}/{name}/{META}", "artifact_uri", f"{experiment}/{name}/{ARTIFACTS}", work)


def _folders(parent: str) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _text(path: str) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(1 << 16).decode()
