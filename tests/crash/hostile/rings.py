"""Attacks by a ring file: a header that lies, names that lead elsewhere, a file that shrinks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgpack
from crash.hostile.attack import Corpus
from crash.hostile.scene import Pen, Scene, foreign, replace_by, ring_bytes

from trainspool.spool import events as ev
from trainspool.spool import layout

CORPUS = Corpus()


def _ring(scene: Scene, pen: Pen, data: bytes) -> Path:
    path = scene.rings / f"{pen.name}.ring"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _forged(scene: Scene, fields: dict[str, object]) -> None:
    pen = scene.hostile()
    data = b"".join(pen.point(step) for step in range(100, 110))
    about = {"head": pen.offset, "table": [(0, pen.offset + len(data)), (65536, 0)], **fields}
    _ring(scene, pen, ring_bytes(pen, b"\0" * pen.offset + data, **about))  # type: ignore[arg-type]


CORPUS.each(
    "ring with",
    _forged,
    {
        "two billion chunks": {"chunks": 2**31},
        "no chunk": {"chunks": 0},
        "chunks of 4 GiB": {"chunk_bytes": 2**32 - 1},
        "more chunks than file": {"chunks": 64, "chunk_bytes": 1 << 20},
        "an identity of 4 GiB": {"identity_length": 2**32 - 1},
        "an identity that is a list": {"identity": msgpack.packb([1, 2])},
        "an identity that is nested": {"identity": b"\x91" * 4000},
        "an identity that is no msgpack": {"identity": b"\xc1"},
        "an identity with a list for a key": {"identity": b"\x81\x91\x01\x01"},
        "bytes committed without end": {"table": [(0, 2**63), (65536, 2**63)]},
        "bytes committed beyond 64 bits": {"table": [(2**64 - 1, 2**64 - 1), (0, 2**64 - 1)]},
        "a head without end": {"head": 2**64 - 1},
    },
    harmless=True,
)


def _leads(scene: Scene, identity: dict[str, object]) -> None:
    pen = Pen(scene.folder / "hostile-spool", str(scene.store))
    pen.identity |= identity
    pen.identity = {
        key: str(value).replace("CANARY", str(scene.canary)) if key in identity else value
        for key, value in pen.identity.items()
    }
    data = pen.run() + pen.start() + ev.pack(ev.DEFINE_KEY, 0, "loss") + pen.point()
    _ring(scene, pen, ring_bytes(pen, data))
    pen.folder = scene.spool
    scene.pens.insert(0, pen)


CORPUS.each(
    "ring that leads to",
    _leads,
    {
        "a folder that is no spool": {"spool": "CANARY"},
        "a folder by dots": {"spool": "CANARY/../canary/deep"},
        "a file": {"spool": "CANARY/secret"},
        "proc": {"spool": "/proc/self/cwd/canary"},
        "a path with NUL": {"spool": "/tmp/a\0b"},
        "a path without end": {"spool": "/" + "a/" * 2000},
    },
    harmless=True,
)
CORPUS.each(
    "ring of a host named",
    _leads,
    {
        "by dots": {"host": "../../canary"},
        "absolutely": {"host": "/etc"},
        "dot dot": {"host": ".."},
        "empty": {"host": ""},
    },
    harmless=True,
)


@CORPUS.add("ring that leads to another user's spool")
def _(scene: Scene) -> None:
    _leads(scene, {"spool": "CANARY/deep"})
    foreign(scene.canary / "deep")


@CORPUS.add("ring that is cut behind its header", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    _ring(scene, pen, ring_bytes(pen, b"", head=pen.offset)[:65536])


@CORPUS.add("ring that is cut inside its header", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    _ring(scene, pen, ring_bytes(pen, b"", head=pen.offset)[:9000])


@CORPUS.add("ring that is someone else's", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    foreign(_ring(scene, pen, ring_bytes(pen, pen.point(), head=pen.offset)))


def _instead(scene: Scene, how: str) -> None:
    pen = scene.hostile()
    replace_by(scene.rings / f"{pen.name}.ring", how, scene.canary / "secret")


CORPUS.each("ring that is a", _instead, {how: how for how in ("symlink", "fifo", "folder", "device")}, harmless=True)


@CORPUS.add("identity that names a ring elsewhere", harmless=True)
def _(scene: Scene) -> None:
    name = os.urandom(16).hex()
    target = scene.canary / f"{name}.ring"
    target.write_bytes(b"TSRING1\0 not a ring")
    os.utime(target, (time.time() + 9, time.time()))  # it may be looked at: it is called a ring of this stream
    pen = scene.pen(name=name, ring=str(target))
    pen.data(pen.run(), pen.start(), count=1)


@CORPUS.add("pointer files that lead elsewhere", harmless=True)
def _(scene: Scene) -> None:
    pointers = scene.rings / "spools"
    pointers.mkdir(mode=0o700)
    for number, text in enumerate((f"{scene.canary}", "relative", "/proc/self", "\0", "/" * 5000, "/a\nb", "\udcff")):
        (pointers / f"{number}.spool").write_bytes(text.encode("utf-8", "surrogateescape"))
    os.mkfifo(pointers / "pipe.spool")
    (pointers / "link.spool").symlink_to(scene.canary / "secret")


@CORPUS.add("ring of a dead process for a stream of another user")
def _(scene: Scene) -> None:
    pen = scene.hostile()
    foreign(pen.folder)
    assert layout.is_stream_name(pen.name)
    _ring(scene, pen, ring_bytes(pen, b"\0" * pen.offset + pen.point(), head=pen.offset))
