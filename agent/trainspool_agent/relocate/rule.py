"""What an address of a store that was copied or moved should be, and which must stay.

MLflow lets artifacts lie anywhere: an address ``<root>/<experiment>/<run>/artifacts`` may be of a store before it moved
or of a server's ``--default-artifact-root``. What lies in the two places tells them apart.

Source: agent/docs/store-mapping.md 9.
"""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from typing import NamedTuple

from trainspool_agent.relocate.places import Place
from trainspool_agent.store.layout import ARTIFACTS, META, MODELS, TRASH


class Verdict(NamedTuple):
    """What an address should be; None: it stays, and *why*."""

    after: str | None
    why: str = ""


class _Parsed(NamedTuple):
    """An address of this computer, taken apart: the root that its store would have had, and what follows."""

    path: str
    root: str
    tail: str
    here: str
    in_trash: bool
    is_uri: bool


@dataclass
class _Root:
    """What is known of a root that addresses name."""

    is_store: bool = False  # experiments lie there still: the store was copied
    moved: int = 0  # addresses below it whose files lie in the store
    elsewhere: int = 0  # those that have files there, and not in the store


class Judge:
    """The rule, with what the addresses of one store tell together: ``observe`` all before asking for a verdict.

    *before*: roots that the store had, as its owner says.
    """

    def __init__(self, store: str, before: tuple[str, ...] = ()) -> None:
        self.store = store
        self._before = {os.path.abspath(root) for root in before}
        self._roots: dict[str, _Root] = {}

    def observe(self, place: Place, address: str) -> None:
        """Learn of the root that *address* names."""
        parsed = self._parsed(place, address)
        if parsed is None or self._is_right(parsed):
            return
        root = self._roots.setdefault(parsed.root, _Root())
        experiment = parsed.tail.split("/")[0]
        root.is_store = root.is_store or _is_store(parsed.root, experiment)
        if parsed.tail != experiment:
            there, here = _names(parsed.path), _names(parsed.here)
            root.elsewhere += bool(there - here)
            root.moved += bool((here or place.ours) and not there - here)

    def verdict(self, place: Place, address: str) -> Verdict:
        """Say what *address* should be, in the form it has."""
        parsed = self._parsed(place, address)
        if parsed is None:
            return Verdict(None, "it does not lie in the store, so it did not move with it")
        if self._is_right(parsed):
            same = os.path.exists(parsed.path) or not parsed.in_trash
            return Verdict(_readable(address, parsed) if same else self._after(parsed))
        why = self._why_it_stays(parsed)
        return Verdict(None, why) if why else Verdict(self._after(parsed))

    def _why_it_stays(self, parsed: _Parsed) -> str:
        root = self._roots.get(parsed.root, _Root())
        there, here = (_names(parsed.path), _names(parsed.here)) if "/" in parsed.tail else (set(), set())
        if there and not here:
            return "its files lie there, and none of them in the store"
        if there - here and not root.is_store:
            return "files lie there that are not in the store"
        if here or root.is_store or parsed.root in self._before:
            return ""
        if root.elsewhere and root.elsewhere >= root.moved:
            return f"files of other addresses lie below {parsed.root}, and not in the store: a place of their own"
        if root.moved:
            return ""
        return f"no file of it lies here or there: if the store itself lay at {parsed.root}, say --from {parsed.root}"

    def _is_right(self, parsed: _Parsed) -> bool:
        return os.path.isabs(parsed.path) and (_same(parsed.path, parsed.here) or _same(parsed.root, self.store))

    def _after(self, parsed: _Parsed) -> str:
        in_trash = parsed.in_trash and parsed.here.startswith(f"{self.store}/{TRASH}/")
        return _form(parsed.here if in_trash else f"{self.store}/{parsed.tail}", is_uri=parsed.is_uri)

    def _parsed(self, place: Place, address: str) -> _Parsed | None:
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("", "file"):
            return None
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path) if scheme else address
        path = path.rstrip("/")
        tail, here = (place.tail, place.here) if place.tail else self._found(path)
        if not tail or not f"/{path}".endswith(f"/{tail}"):
            return None
        root = path[: -len(tail)].rstrip("/") or ("/" if path.startswith("/") else "")
        in_trash = os.path.basename(root) == TRASH
        return _Parsed(path, os.path.dirname(root) if in_trash else root, tail, here, in_trash, bool(scheme))

    def _found(self, path: str) -> tuple[str, str]:
        """Return the end of *path* that is a folder of artifacts of this store, or below one, and that folder."""
        parts = path.split("/")
        for start in range(len(parts) - 2):
            depth = 3 if parts[start + 1] == MODELS else 2
            owner, rest = parts[start : start + depth], parts[start + depth :]
            for parent in (self.store, f"{self.store}/{TRASH}"):
                folder = "/".join([parent, *owner])
                if owner[0] and rest[:1] == [ARTIFACTS] and os.path.lexists(f"{folder}/{META}"):
                    return "/".join(parts[start:]), "/".join([folder, *rest])
        return "", ""


def _is_store(root: str, experiment: str) -> bool:
    return os.path.isabs(root) and any(
        os.path.exists(f"{parent}/{experiment}/{META}") for parent in (root, f"{root}/{TRASH}")
    )


def _names(folder: str) -> set[str]:
    """Return what lies in a folder; one of a relative address is nowhere: it depends on who reads it."""
    try:
        return set(os.listdir(folder)) if os.path.isabs(folder) else set()
    except OSError:
        return set()


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _readable(address: str, parsed: _Parsed) -> str:
    return address if parsed.is_uri else _form(parsed.path, is_uri=False) if has_escape(address) else address


def has_escape(path: str) -> bool:
    """Whether MLflow, which decodes plain paths as if they were URIs, would look for *path* elsewhere."""
    return urllib.parse.unquote(path) != path


def _form(path: str, *, is_uri: bool) -> str:
    """Return *path* as an address, a URI where a plain path would mislead MLflow.

    >>> _form("/a b/0", is_uri=False), _form("/a b/0", is_uri=True), _form("/a%20b", is_uri=False)
    ('/a b/0', 'file:///a%20b/0', 'file:///a%2520b')
    """
    return f"file://{urllib.parse.quote(path)}" if is_uri or has_escape(path) else path
