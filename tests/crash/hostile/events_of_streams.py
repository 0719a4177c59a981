"""Attacks by events that are sound msgpack and mean harm: types, sizes, numbers, times."""

from __future__ import annotations

import struct

from crash.hostile.attack import Corpus
from crash.hostile.scene import T0, Scene

from trainspool.spool import events as ev

CORPUS = Corpus()
FRAME = 400_000


def _one(scene: Scene, event: bytes) -> None:
    scene.hostile(event)


def _pack(*elements: object) -> bytes:
    return ev.pack(*elements)


CORPUS.each(
    "event:",
    _one,
    {
        "a float for a time": _pack(ev.POINT, 0, 0, 1.5, 1, 0.5),
        "a float for a step": _pack(ev.POINT, 0, 0, T0, 1.5, 0.5),
        "true for a step": _pack(ev.POINT, 0, 0, T0, True, 0.5),
        "a step beyond 64 bits": _pack(ev.POINT, 0, 0, T0, 2**63, 0.5),
        "a text for a value": _pack(ev.POINT, 0, 0, T0, 1, "0.5"),
        "a key nobody defined": _pack(ev.POINT, 0, 77, T0, 1, 0.5),
        "a run nobody defined": _pack(ev.POINT, 77, 0, T0, 1, 0.5),
        "a list for a run": _pack(ev.POINT, [0], 0, T0, 1, 0.5),
        "a map for a key": _pack(ev.POINT, 0, {}, T0, 1, 0.5),
        "too few elements": _pack(ev.POINT, 0),
        "values of nine bytes": _pack(ev.POINTS, 0, [0], T0, 1, b"\0" * 9),
        "values for no key": _pack(ev.POINTS, 0, [], T0, 1, b"\0" * 8),
        "a text for values": _pack(ev.POINTS, 0, [0], T0, 1, "abcdefgh"),
        "a list for values": _pack(ev.POINTS, 0, [0], T0, 1, [1] * 8),
        "a keyset of nobody": _pack(ev.POINTS, 0, 5, T0, 1, b"\0" * 8),
        "a list in a keyset": _pack(ev.POINTS, 0, [[0]], T0, 1, b"\0" * 8),
        "a definition of a negative id": _pack(ev.DEFINE_KEY, -1, "k"),
        "a definition of an endless id": _pack(ev.DEFINE_KEY, 2**40, "k"),
        "a definition of a list": _pack(ev.DEFINE_KEY, [1], "k"),
        "a definition of bytes": _pack(ev.DEFINE_KEY, 1, b"k"),
        "a keyset of keys nobody defined": _pack(ev.DEFINE_KEYSET, 1, [5, 6]),
        "a run without a store": _pack(ev.DEFINE_RUN, 1, "abc", True, None, None, None),
        "a list for an experiment": _pack(ev.DEFINE_RUN, 1, "abc", True, "/s", [1], [2]),
        "a start without a map": _pack(ev.START, 0, T0, [1]),
        "tags that are a list": _pack(ev.START, 0, T0, {"tags": [1]}),
        "tags that are numbers": _pack(ev.START, 0, T0, {"tags": {"a": 1}}),
        "a name that is a list": _pack(ev.START, 0, T0, {"name": [1]}),
        "a status of its own": _pack(ev.END, 0, T0, 77, None),
        "a status of text": _pack(ev.END, 0, T0, "FINISHED", None),
        "params without a value": _pack(ev.PARAMS, 0, T0, ["a"]),
        "params that are a map": _pack(ev.PARAMS, 0, T0, {"a": "b"}),
        "params that are one text": _pack(ev.PARAMS, 0, T0, "ab" * 100),
        "a size of text": _pack(ev.ARTIFACT, 0, T0, "a", "b", "c", 0),
        "a size that is infinite": _pack(ev.ARTIFACT, 0, T0, "a", "b", float("inf"), 0),
        "a mode without end": _pack(ev.ARTIFACT, 0, T0, "a", "b", 1, 2**63),
        "media of nothing": _pack(ev.MEDIA, 0, T0, "a.png", "b", 1),
        "media without a form": _pack(ev.MEDIA, 0, T0, "a.png", "b", 1, {}),
        "media of a text": _pack(ev.MEDIA, 0, T0, "a.png", "b", 1, "image"),
        "media of an endless size": _pack(ev.MEDIA, 0, T0, "a.png", "b", 2**63, {"form": "image"}),
        "media of a negative size": _pack(ev.MEDIA, 0, T0, "a.png", "b", -1, {"form": "image"}),
        "media of a size of text": _pack(ev.MEDIA, 0, T0, "a.png", "b", "c", {"form": "image"}),
        "a dataset without a name": _pack(ev.INPUT, 0, T0, {"digest": "a"}, []),
        "a dataset of lists": _pack(
            ev.INPUT, 0, T0, {"name": ["a"], "digest": "d", "source_type": "s", "source": "s"}, []
        ),
        "a dataset with one tag and a half": _pack(
            ev.INPUT, 0, T0, {"name": "a", "digest": "d", "source_type": "s", "source": "s"}, ["a", "b", "c"]
        ),
        "a gap of text": _pack(ev.GAP, 0, T0, "a", "b"),
        "an epitaph of a list": _pack(ev.EPITAPH, [1], 3, None),
        "an experiment without a store": _pack(ev.EXPERIMENT, T0, None, None, None, []),
        "an unknown kind": _pack(77, 0),
        "a negative kind": _pack(-1, 0),
        "a float for a kind": _pack(1.0, 0),
    },
)

CORPUS.each(
    "number:",
    _one,
    {
        "time of year 292278994": _pack(ev.POINT, 0, 0, 2**64 - 1, 1, 0.5),
        "time long before": _pack(ev.POINT, 0, 0, -(2**63), 1, 0.5),
        "smallest step": _pack(ev.POINT, 0, 0, T0, -(2**63), 0.5),
        "largest step": _pack(ev.POINT, 0, 0, T0, 2**63 - 1, 0.5),
        "a value beyond floats": _pack(ev.POINT, 0, 0, T0, 1, 2**64 - 1),
        "nan with a payload": b"\x96\x00\x00\x00\xcf"
        + T0.to_bytes(8, "big")
        + b"\x01\xcb\xff\xf8\xde\xad\xbe\xef\x00\x01",
        "starts at both ends of time": _pack(ev.START, 0, -(2**63), {"name": "a"})
        + _pack(ev.START, 0, 2**64 - 1, {"name": "b"}),
        "ends at both ends of time": _pack(ev.END, 0, 2**64 - 1, 3, None) + _pack(ev.END, 0, -(2**63), 4, "why"),
        "params before all time": _pack(ev.PARAMS, 0, -(2**63), ["a", "b"]),
        "gaps without end": _pack(ev.GAP, 0, T0, 2**64 - 1, 2**64 - 1),
        "negative gaps": _pack(ev.GAP, 0, T0, -5, -(2**63)),
        "an epitaph at the end of time": _pack(ev.EPITAPH, 2**64 - 1, 5, "over"),
    },
    harmless=True,
)


def _many(scene: Scene, make: object) -> None:
    pen = scene.hostile()
    batch: list[bytes] = []
    size = 0
    for event in make(pen):  # type: ignore[operator]
        batch.append(event)
        size += len(event)
        if size > FRAME:
            pen.data(*batch)
            batch, size = [], 0
    pen.data(*batch)
    pen.seal()


CORPUS.each(
    "many:",
    _many,
    {
        "keys of 60 kB": lambda pen: (_pack(ev.DEFINE_KEY, n, f"{n}" + "k" * 60_000) for n in range(3000)),
        "keysets of a hundred thousand": lambda pen: (_pack(ev.DEFINE_KEYSET, n, [0] * 100_000) for n in range(300)),
        "runs by one number each": lambda pen: (pen.run(n) for n in range(100_000)),
        "kinds nobody knows": lambda pen: (_pack(1000 + n) for n in range(200_000)),
        "malformed events": lambda pen: (_pack(ev.POINT, 0) for _ in range(200_000)),
    },
)
CORPUS.each(
    "much:",
    _many,
    {
        "inline keysets": lambda pen: (
            _pack(ev.POINTS, 0, [0] * 20_000, T0 + n, 1, b"\0" * 160_000) for n in range(40)
        ),
        "metric keys": lambda pen: (
            one for n in range(3000) for one in (_pack(ev.DEFINE_KEY, 1, f"k{n}"), pen.point(1, key=1))
        ),
        "tags of 400 kB": lambda pen: (_pack(ev.TAGS, 0, T0 + n, [f"t{n}", "x" * 400_000]) for n in range(60)),
        "values of one tag": lambda pen: (_pack(ev.TAGS, 0, T0 + n, ["t", f"{n}"]) for n in range(20_000)),
        "sessions": lambda pen: (pen.start(time=T0 + n) for n in range(6000)),
        "ends": lambda pen: (_pack(ev.END, 0, T0 + n, 3, None) for n in range(6000)),
        "experiments": lambda pen: (_pack(ev.EXPERIMENT, T0, pen.store, None, f"e{n}", []) for n in range(100)),
        "runs": lambda pen: (one for n in range(300) for one in (pen.run(1), pen.start(1))),
        "runs without an event": lambda pen: (pen.run(1) for _ in range(50_000)),
    },
    harmless=True,
)


@CORPUS.add("values of one param")
def _(scene: Scene) -> None:
    _many(scene, lambda pen: (_pack(ev.PARAMS, 0, T0 - n, ["p", f"{n}"]) for n in range(2000)))


@CORPUS.add("a stream that goes on in another one's name", harmless=True)
def _(scene: Scene) -> None:
    """Its events are of the honest run, which it says to own, with the honest stream's frames copied in front."""
    pen = scene.hostile()
    pen.data(pen.run(1, scene.honest_run, experiment="honest"), _pack(ev.PARAMS, 1, T0 + 5, ["other", "1"]))
    pen.data(struct.pack("B", 0xC0))
