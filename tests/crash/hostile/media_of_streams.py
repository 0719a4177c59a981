"""Attacks by media: what the agent is asked to make of a staged file, and what that file holds."""

from __future__ import annotations

import io
import os
import zlib

from crash.hostile.attack import Corpus
from crash.hostile.scene import T0, Scene

from trainspool.spool import events as ev

CORPUS = Corpus()
BIG = 200 << 20  # of nothing: a hole in a file costs nobody anything


def _media(scene: Scene, about: dict[str, object], content: bytes = b"abcdef", path: str = "a.png") -> None:
    pen = scene.hostile()
    pen.stage("staged", content)
    pen.data(ev.pack(ev.MEDIA, 0, T0, path, "staged", len(content), about))
    pen.seal()


IMAGE = {"form": "image", "dtype": "|u1", "shape": [2, 3], "mode": None}

CORPUS.each(
    "picture:",
    _media,
    {
        "of objects": {**IMAGE, "dtype": "|O"},
        "of fields": {**IMAGE, "dtype": "|V6"},
        "of a list of types": {**IMAGE, "dtype": [["a", "|O"]]},
        "of a type that is code": {**IMAGE, "dtype": "__import__('os').system('id')"},
        "of pixels without end": {**IMAGE, "shape": [1 << 31, 1 << 31]},
        "of a shape without end": {**IMAGE, "shape": [1] * 100_000},
        "of a negative shape": {**IMAGE, "shape": [-1, -6]},
        "of a mode of nobody": {**IMAGE, "mode": "x" * 100_000},
        "of a palette that lies": {**IMAGE, "mode": "P", "palette": ["RGBA;L", b"x" * 100_000]},
        "of transparency that lies": {**IMAGE, "mode": "L", "transparency": [1, 2]},
        "of a form of nobody": {"form": "exec"},
        "of a form with dots": {"form": "..image"},
    },
)


def _bomb(scene: Scene, about: dict[str, object]) -> None:
    """A staged file that would be large if anyone unpacked it."""
    packed = zlib.compress(bytes(64 << 20))
    _media(scene, {**about, "shape": [1, len(packed)]} if "dtype" in about else about, packed, "a.json")


CORPUS.each("packed:", _bomb, {"rows": {"form": "rows"}, "picture": {"form": "image", "dtype": "|O", "mode": None}})


def _hole(scene: Scene, about: dict[str, object]) -> None:
    pen = scene.hostile()
    os.truncate(pen.stage("staged", b""), BIG)
    pen.data(ev.pack(ev.MEDIA, 0, T0, "a.json", "staged", BIG, about))
    pen.seal()


CORPUS.each(
    "a hole in a file:",
    _hole,
    {
        "as rows": {"form": "rows"},
        "as pixels of another size": {**IMAGE, "shape": [1 << 20, 1 << 20]},
        "as a histogram of objects": {
            "form": "histogram",
            "dtype": "|O",
            "shape": [1],
            "bins": 4,
            "key": "k",
            "step": 1,
        },
    },
)


def _rows(scene: Scene, content: bytes) -> None:
    _media(scene, {"form": "rows"}, content, "t.json")


CORPUS.each(
    "rows:",
    _rows,
    {
        "that are none": b"\x80\x04cos\nsystem\n",
        "too deep": b'{"columns":["a"],"data":[[' + b"[" * 200_000 + b"]" * 200_000 + b"]]}",
        "of lists without end": b'{"columns":["a"],"data":[' + b"[]," * 2_000_000 + b"[]]}",
        "of columns without end": b'{"columns":[' + b'"a",' * 200_000 + b'"a"],"data":[]}',
        "of a number without end": b'{"columns":["a"],"data":[[' + b"7" * 100_000 + b"]]}",
        "that are not finite": b'{"columns":["a"],"data":[[NaN]]}',
    },
)


def _swapped(scene: Scene, how: str) -> None:
    """What is staged is something else than a file."""
    from crash.hostile.scene import replace_by

    pen = scene.hostile()
    path = pen.stage("staged", b"x" * 21)
    replace_by(path, how, scene.canary / "secret")
    image = {"form": "image", "dtype": "|u1", "shape": [1, 21], "mode": None}
    for target, about in (("a.png", image), ("t.json", {"form": "rows"})):
        pen.data(ev.pack(ev.MEDIA, 0, T0, target, "staged", 21, about))
    pen.seal()


CORPUS.each("staged media is:", _swapped, {how: how for how in ("symlink", "fifo", "device", "folder")})


def _picture_file() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG")
    return file.getvalue()


@CORPUS.add("a picture file in the place of pixels")
def _(scene: Scene) -> None:
    """Nothing that is staged is ever opened as a picture's file: decoders are where the bombs are."""
    _media(scene, IMAGE, _picture_file())


@CORPUS.add("many tables and many rows", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    pen.stage("rows", b'{"columns":["a"],"data":[[1]]}')
    pen.data(*(ev.pack(ev.MEDIA, 0, T0 + n, f"t{n % 20}.json", "rows", 30, {"form": "rows"}) for n in range(400)))
    pen.seal()


@CORPUS.add("many datasets", harmless=True)
def _(scene: Scene) -> None:
    pen = scene.hostile()
    about = {"digest": "d", "source_type": "s", "source": "s"}
    pen.data(*(ev.pack(ev.INPUT, 0, T0 + n, {**about, "name": f"{n}"}, []) for n in range(300)))
    pen.seal()
