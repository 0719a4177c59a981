"""Attacks by what lies where a spool's files should: links, pipes, devices, folders, other people's files."""

from __future__ import annotations

import os
import time

from crash.hostile.attack import Corpus
from crash.hostile.scene import Scene, foreign, replace_by

from trainspool.spool import events as ev

CORPUS = Corpus()
HOWS = ("symlink", "fifo", "device", "folder")


def _in_place_of(scene: Scene, case: tuple[str, str]) -> None:
    which, how = case
    pen = scene.hostile()
    path = pen.path if which == "segment" else pen.folder / which
    target = scene.canary if which == "staging" else scene.canary / "secret"
    if which == "staging":
        pen.data(ev.pack(ev.ARTIFACT, 0, 0, "stolen", "secret", 0, 0o644))
    replace_by(path, how, target)


_CASES = [(which, how) for which in ("segment", "lock", "cursor", "staging") for how in HOWS]
CORPUS.each(
    "in its place",
    _in_place_of,
    {f"{which}, a {how}": (which, how) for which, how in _CASES if (which, how) != ("staging", "folder")},
)


def _foreign(scene: Scene, which: str) -> None:
    pen = scene.hostile(ev.pack(ev.ARTIFACT, 0, 0, "x", "staged", 0, 0o644))
    pen.stage("staged", b"x")
    (pen.folder / "cursor").write_bytes(b"TSC1")
    path = {"stream folder": pen.folder, "segment": pen.path}.get(which, pen.folder / which)
    foreign(path)


_PARTS = ("stream folder", "segment", "lock", "cursor", "staging", "staging/staged")
CORPUS.each("someone else's", _foreign, {which: which for which in _PARTS})


@CORPUS.add("stream folder that everyone may write")
def _(scene: Scene) -> None:
    scene.hostile().folder.chmod(0o777)


@CORPUS.add("stream folder that is a link to someone's folder")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    replace_by(pen.folder, "symlink", scene.canary)


@CORPUS.add("stream folder that is a file")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    replace_by(pen.folder, "fifo", scene.canary)


@CORPUS.add("a spool of another user")
def _(scene: Scene) -> None:
    spool = scene.folder / "hostile-spool"
    pen = scene.pen(spool)
    pen.data(pen.run(), ev.pack(ev.DEFINE_KEY, 0, "k"), pen.start(), pen.point(), count=2, points=1)
    for path in (spool, spool / "streams", pen.folder.parent):
        foreign(path)  # the stream itself is ours: someone moved it, and may exchange it under us
    scene.more_spools.append(spool)


@CORPUS.add("streams is a link")
def _(scene: Scene) -> None:
    spool = scene.folder / "hostile-spool"
    spool.mkdir()
    (spool / "streams").symlink_to(scene.canary)
    scene.more_spools.append(spool)


@CORPUS.add("staged file is a link")
def _(scene: Scene) -> None:
    pen = scene.hostile(ev.pack(ev.ARTIFACT, 0, 0, "x", "staged", 0, 0o644))
    (pen.folder / "staging" / "staged").symlink_to(scene.canary / "secret")


@CORPUS.add("staged tag is a link")
def _(scene: Scene) -> None:
    pen = scene.hostile(ev.pack(ev.STAGED_TAG, 0, 0, "x", "staged"))
    (pen.folder / "staging" / "staged").symlink_to(scene.canary / "secret")


@CORPUS.add("staged file is a hard link to someone else's")
def _(scene: Scene) -> None:
    pen = scene.hostile(
        ev.pack(ev.ARTIFACT, 0, 0, "x", "staged", 0, 0o666), ev.pack(ev.STAGED_TAG, 0, 0, "t", "staged")
    )
    foreign(scene.canary / "etc/shadow")
    os.link(scene.canary / "etc/shadow", pen.folder / "staging" / "staged")
    os.utime(scene.canary / "etc/shadow", (500, 1000))


@CORPUS.add("staged file with another name elsewhere keeps its mode", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile(ev.pack(ev.ARTIFACT, 0, 0, "x", "staged", 0, 0o777))
    mine = scene.canary / "mine"  # no secret: what is ours and staged may be stored, but not be opened to others
    mine.write_bytes(b"mine")
    mine.chmod(0o600)
    os.link(mine, pen.folder / "staging" / "staged")
    os.utime(mine, (time.time() + 9, time.time()))


@CORPUS.add("staged device and pipe")
def _(scene: Scene) -> None:
    pen = scene.hostile(
        *(ev.pack(ev.ARTIFACT, 0, 0, name, name, 0, 0) for name in ("pipe", "device", "folder")),
        *(ev.pack(ev.STAGED_TAG, 0, 0, name, name) for name in ("pipe", "device", "folder")),
    )
    for name, how in (("pipe", "fifo"), ("device", "device"), ("folder", "folder")):
        replace_by(pen.folder / "staging" / name, how, scene.canary)


@CORPUS.add("staged sparse file of a tebibyte", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile(ev.pack(ev.ARTIFACT, 0, 0, "huge", "staged", 1 << 40, 0o644))
    os.truncate(pen.stage("staged", b""), 1 << 40)


@CORPUS.add("staged tag of a tebibyte")
def _(scene: Scene) -> None:
    pen = scene.hostile(ev.pack(ev.STAGED_TAG, 0, 0, "huge", "staged"))
    os.truncate(pen.stage("staged", b""), 1 << 40)


@CORPUS.add("sparse segment of a tebibyte", harmless=True)  # nothing is lost, by the counts around it
def _(scene: Scene) -> None:
    os.truncate(scene.hostile().path, 1 << 40)


@CORPUS.add("two hundred sparse segments")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    for number in range(200):
        path = pen.folder / f"{pen.offset + number:016x}.00.seg"
        path.touch(0o600)
        os.truncate(path, 1 << 34)


@CORPUS.add("five thousand empty segments", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    for number in range(5000):
        (pen.folder / f"{pen.offset + number:016x}.00.seg").touch(0o600)


@CORPUS.add("sparse cursor of a tebibyte", harmless=True)
def _(scene: Scene) -> None:
    path = scene.hostile().folder / "cursor"
    path.touch(0o600)
    os.truncate(path, 1 << 40)
