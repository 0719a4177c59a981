"""Attacks by artifacts: staged names and what lies there, sizes, ways of capture, notes, links in the store."""

from __future__ import annotations

import json
import os
from typing import Any

import blake3
from crash.hostile.attack import Corpus
from crash.hostile.forged_state import _run_folder, forge_checkpoint
from crash.hostile.scene import SECRET, T0, Scene, replace_by

from trainspool.spool import events as ev

CORPUS = Corpus()
LARGE = b"the same bytes" * 10_000


def _artifact(scene: Scene, said: tuple[Any, ...]) -> None:
    """*said*: an event's elements from the path on; the staged file is sound."""
    pen = scene.hostile()
    pen.stage("staged", b"content")
    pen.stage("half.part", b"half")
    pen.data(ev.pack(ev.ARTIFACT, 0, T0, *said))
    pen.seal()


CORPUS.each(
    "artifact with",
    _artifact,
    {
        "a dead process's part": ("a", "half", 4, 0o644, "copied"),
        "a fingerprint that is not its": ("a", "staged", 7, 0o644, "linked", 5, b"x" * 16),
        "a fingerprint of a megabyte": ("a", "staged", 7, 0o644, "linked", 5, b"x" * (900 << 10)),
        "a fingerprint of text": ("a", "staged", 7, 0o644, "linked", 5, "x" * 16),
        "a time without end": ("a", "staged", 7, 0o644, "linked", 2**64 - 1, b"x" * 16),
        "a size without end": ("a", "staged", 2**63, 0o644, "copied"),
        "a size beyond all files": ("a", "staged", 2**64 - 1, 0o644, "moved"),
    },
)
CORPUS.each(
    "artifact, odd but legal, with",
    _artifact,
    {
        "a part for its file": ("a", "half.part", 4, 0o644, "copied"),  # a user's file may be called so
        "a way that nobody knows": ("a", "staged", 7, 0o644, "by magic"),
        "a way of a kilobyte": ("a", "staged", 7, 0o644, "m" * 1000),
        "a way that is a path": ("a", "staged", 7, 0o644, "../../canary"),
        "all bits of a mode": ("a", "staged", 7, 0o7777, "moved"),
        "a negative mode": ("a", "staged", 7, -1, "copied"),
        "a negative size": ("a", "staged", -7, 0o644, "copied"),
        "nothing but what it must say": ("a", "staged", 7, 0o644),
        "the name of a part in its path": ("part-11111111-0-0", "staged", 7, 0o644, "copied"),
        "our folder's name in its path": (".trainspool/content/x", "staged", 7, 0o644, "copied"),
    },
    harmless=True,
)


def _staged_as(scene: Scene, how: str) -> None:
    pen = scene.hostile()
    replace_by(pen.folder / "staging" / "x", how, scene.canary / "secret")
    replace_by(pen.folder / "staging" / "y.part", how, scene.canary / "secret")
    for name in ("x", "y"):
        pen.data(ev.pack(ev.ARTIFACT, 0, T0, name, name, 0, 0o644, "linked", 0, b"x" * 16))
        pen.data(ev.pack(ev.ARTIFACT, 0, T0 + 1, f"{name}2", name, 0, 0o644, "moved"))
    pen.seal()


CORPUS.each("staged file that is a", _staged_as, {how: how for how in ("symlink", "fifo", "device", "folder")})


def _in_artifacts(scene: Scene, how: str) -> None:
    """Something else stands in the run's artifacts: where a folder is needed, and where the file goes."""
    folder = _run_folder(scene)
    pen = scene.pens[-1]
    pen.stage("staged", LARGE)
    replace_by(folder / "artifacts" / "way", how, scene.canary)
    replace_by(folder / "artifacts" / "file", how, scene.canary / "secret")
    for path in ("way/secret", "way/new", "file", "beside"):
        pen.data(ev.pack(ev.ARTIFACT, 0, T0, path, "staged", len(LARGE), 0o644, "copied"))
    pen.seal()


CORPUS.each("artifacts with a", _in_artifacts, {how: how for how in ("symlink", "fifo", "device")})


def _note(scene: Scene, note: Any) -> None:
    """A note says where content lies that is logged just now."""
    folder = _run_folder(scene)
    pen = scene.pens[-1]
    pen.stage("staged", LARGE)
    notes = folder.parent / ".trainspool" / "content"
    notes.mkdir(parents=True)
    info = os.stat(scene.canary / "secret")
    seen = [len(LARGE), info.st_mtime_ns, info.st_ino]
    text = json.dumps(note).replace('"RUN"', json.dumps(folder.name)).replace('"SEEN"', json.dumps(seen)[1:-1])
    (notes / blake3.blake3(LARGE).hexdigest()).write_text(text)
    pen.data(ev.pack(ev.ARTIFACT, 0, T0, "model.bin", "staged", len(LARGE), 0o644, "copied"))
    pen.seal()


CORPUS.each(
    "note on content that",
    _note,
    {
        "leads out of the run": ["RUN", "../../../../canary/secret", "SEEN"],
        "leads out of the store": ["../../canary", "secret", "SEEN"],
        "names an absolute path": ["RUN", "/etc/passwd", "SEEN"],
        "names a file that is not there": ["RUN", "nothing", "SEEN"],
        "is a number": 5,
        "is a text": "RUN",
        "is nested": [[[[["RUN"]]]]],
        "says numbers for names": [1, 2, 3, 4, 5],
        "says nothing": [],
    },
    harmless=True,
)


@CORPUS.add("notes on content that are a link to elsewhere", harmless=True)
def _(scene: Scene) -> None:
    folder = _run_folder(scene)
    pen = scene.pens[-1]
    pen.stage("staged", LARGE)
    (folder.parent / ".trainspool").mkdir()
    (folder.parent / ".trainspool/content").symlink_to(scene.canary)
    pen.data(ev.pack(ev.ARTIFACT, 0, T0, "model.bin", "staged", len(LARGE), 0o644, "copied"))
    pen.seal()


def _expected(scene: Scene, fields: list[Any]) -> None:
    """A checkpoint says what is still to be handed over."""
    folder = _run_folder(scene)
    canary, stream = str(scene.canary), scene.pens[-1].name
    filled = [{"CANARY": canary, "STREAM": stream, "ETC": f"{canary}/etc"}.get(one, one)
              if isinstance(one, str) else one for one in fields]  # fmt: skip
    size = len(SECRET) + 1
    forge_checkpoint(folder / "trainspool.applied", expected=[[size if one == "SIZE" else one for one in filled]])


CORPUS.each(
    "checkpoint that expects",
    _expected,
    {
        "a file that is not staged": ["a", "secret", "SIZE", 0o644, T0, 1, "copied", 0, b"", "STREAM", "CANARY", True],
        "a file by a name of its own": ["a", "shadow", "SIZE", 0, T0, 1, "moved", 0, b"", "STREAM", "ETC", True],
        "a file by a path": ["a", "../secret", "SIZE", 0, T0, 1, "copied", 0, b"", "STREAM", "CANARY", True],
        "something beyond the run": ["../../x", "secret", 1, 0, T0, 1, "copied", 0, b"", "STREAM", "CANARY", True],
        "of a stream that is a path": ["a", "b", 1, 0, T0, 1, "copied", 0, b"", "../../../canary/x", "CANARY", True],
        "of a folder by a link": ["a", "b", 1, 0, T0, 1, "copied", 0, b"", "STREAM", "/proc/self/cwd", True],
        "too little": ["a", "b"],
        "texts for numbers": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "/k", "l"],
        "numbers without end": ["a", "b", 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1, "x", 0, b"", "STREAM", "/a", 1],
    },
    harmless=True,
)


def _held(scene: Scene, held: Any) -> None:
    folder = _run_folder(scene)
    pen = scene.pens[-1]
    pen.stage("staged", LARGE)
    forge_checkpoint(folder / "trainspool.applied", held=held)
    pen.data(ev.pack(ev.ARTIFACT, 0, T0, "model.bin", "staged", len(LARGE), 0o644, "copied"))
    pen.seal()


CORPUS.each(
    "checkpoint that holds",
    _held,
    {
        "a file elsewhere": {"../../../../canary/secret": [1, "copied", None, False]},
        "an absolute file": {"/etc/passwd": [1, "copied", None, False]},
        "a hash that is a path": {"a": [1, "copied", "../../../canary/secret", False]},
        "a list": [1, 2],
        "a size of text": {"a": ["x", "copied", None, False]},
        "too much": {"a": [1, "copied", None, False, 5]},
    },
    harmless=True,
)
