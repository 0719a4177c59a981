"""Attacks by names: of runs, experiments, keys, artifacts, staged files, stores."""

from __future__ import annotations

from crash.hostile.attack import Corpus
from crash.hostile.scene import T0, Scene

from trainspool.spool import events as ev

CORPUS = Corpus()
BAD = {
    "dot dot": "..",
    "dot": ".",
    "up": "../../canary/secret",
    "up inside": "a/../../../canary/secret",
    "absolute": "/etc/passwd",
    "empty": "",
    "NUL": "a\0b",
    "newline": "a\nb",
    "trailing newline": "loss\n",
    "backslash": "..\\..\\x",
    "carriage": "a\rb",
    "escape": "\x1b[2J",
    "slash at the end": "a/",
    "double slash": "a//b",
    "tilde": "~/x",
    "percent": "%2e%2e%2fx",
    "homoglyph slash": "..∕..∕x",
    "fullwidth": "．．／x",
    "right to left": "a\u202eb",
    "zero width": "a\u200bb",
    "surrogate": "\udcff\udc80",
    "emoji": "🦀",
    "long": "k" * 300,
    "long in bytes": "é" * 200,
    "very long": "x" * 100_000,
    "deep": "/".join("a" * 125),
    "space": " ",
    "dots at the end": "a..",
    "url": "file:///etc/passwd",
    "quote": 'it\'s "so"',
    "hash": "a#b?c",
    "comma": "a,b",
    "at": "a@b",
    "colon": "c:d",
}
LEGAL_BUT_ODD = {
    "nfs left-over": ".nfs000001",
    "hidden": ".hidden",
    "meta": "meta.yaml",
    "tags": "tags",
    "models": "models",
    "applied": "trainspool.applied",
    "artifacts": "artifacts",
    "trash": ".trash",
    "nfc": "é",
    "nfd": "e\u0301",
    "upper": "LOSS",
    "digits": "0",
    "dash": "-rf",
    "spaces": " a ",
    "inner dots": "a/..b",
}
ALL = {**BAD, **LEGAL_BUT_ODD}


def _everywhere(scene: Scene, name: str) -> None:
    """*name* as a key of a metric, param and tag, and as an artifact's path, together with a child of it."""
    pen = scene.hostile(key=name)
    pen.stage("staged", b"content")
    child = f"{name}/child"
    pen.data(
        ev.pack(ev.PARAMS, 0, T0, [name, "1", child, "2"]),
        ev.pack(ev.TAGS, 0, T0, [name, "1", child, "2"]),
        ev.pack(ev.ARTIFACT, 0, T0, name, "staged", 7, 0o644),
        ev.pack(ev.ARTIFACT, 0, T0, child, "staged", 7, 0o644),
        ev.pack(ev.DEFINE_KEY, 1, child),
        pen.point(1, key=1),
        ev.pack(ev.TAGS, 0, T0 + 9, [child, None]),
    )
    pen.seal()


CORPUS.each("name", _everywhere, ALL, harmless=True)


def _as_media(scene: Scene, name: str) -> None:
    """*name* as the path of a picture and a table, and of everything that a dataset says."""
    pen = scene.hostile()
    pen.stage("pixel", b"\0")
    pen.stage("rows", b'{"columns":["a"],"data":[[1]]}')
    image = {"form": "image", "dtype": "|u1", "shape": [1, 1], "mode": None}
    dataset = {
        "name": name,
        "digest": name[:30] or "d",
        "source_type": "s",
        "source": name,
        "schema": name,
        "profile": name,
    }
    pen.data(
        *(ev.pack(ev.MEDIA, 0, T0, f"{path}.png", "pixel", 1, image) for path in (name, f"{name}/child")),
        *(ev.pack(ev.MEDIA, 0, T0, f"{path}.json", "rows", 30, {"form": "rows"}) for path in (name, f"{name}/child")),
        ev.pack(ev.INPUT, 0, T0, dataset, [name, name]),
    )
    pen.seal()


CORPUS.each("name in media", _as_media, ALL, harmless=True)


def _run_id(scene: Scene, name: str) -> None:
    scene.hostile(run_id=name)


CORPUS.each(
    "run id", _run_id, BAD | {name: name for name in ("tags", "models", "datasets", "traces", "artifacts", ".trash")}
)
CORPUS.each(
    "run id, legal,", _run_id, {"zero": "0", "meta": "metrics", "dashes": "a--", "number": "0" * 32}, harmless=True
)


def _experiment(scene: Scene, name: str) -> None:
    pen = scene.pen()
    pen.data(
        pen.run(0, experiment=name),
        pen.run(1, experiment=None, experiment_id=name),
        pen.run(2, experiment=name, experiment_id=name),
        ev.pack(ev.DEFINE_KEY, 0, "k"),
        *(one for run in range(3) for one in (pen.start(run), pen.point(run=run))),
        ev.pack(ev.EXPERIMENT, T0, str(scene.store), name, name, [name, "x", f"{name}/y", name]),
    )
    pen.seal()


CORPUS.each(
    "experiment", _experiment, {**ALL, "default id": "0", "trash id": ".trash", "long id": "1" * 40}, harmless=True
)


def _text(scene: Scene, text: str) -> None:
    """*text* as a run's name, user, tag, param, reason and note."""
    pen = scene.pen()
    about = {"name": text, "user": text, "tags": {"mlflow.runName": text, "mlflow.note.content": text}, "resume": False}
    pen.data(
        pen.run(),
        ev.pack(ev.START, 0, T0, about),
        ev.pack(ev.PARAMS, 0, T0, ["p", text]),
        ev.pack(ev.END, 0, T0, ev.FAILED, text),
    )
    pen.seal()


CORPUS.each(
    "text",
    _text,
    {
        **BAD,
        "yaml": "!!python/object/apply:os.system ['x']",
        "alias": "*a",
        "anchor": "&a [*a]",
        "document": "---\n...\nstatus: 9",
    },
    harmless=True,
)


def _staged(scene: Scene, name: str) -> None:
    image = {"form": "image", "dtype": "|u1", "shape": [1, 21], "mode": None}
    scene.hostile(
        ev.pack(ev.ARTIFACT, 0, T0, "stolen", name, 0, 0o644),
        ev.pack(ev.STAGED_TAG, 0, T0, "stolen", name),
        ev.pack(ev.MEDIA, 0, T0, "stolen.png", name, 21, image),
        ev.pack(ev.MEDIA, 0, T0, "stolen.json", name, 21, {"form": "rows"}),
    )


CORPUS.each("staged name", _staged, {**BAD, "the lock": "../lock", "the segment": "../0000000000000000.00.seg"})


def _store(scene: Scene, store: str) -> None:
    pen = scene.pen()
    pen.data(
        pen.run(store=store.replace("CANARY", str(scene.canary))),
        ev.pack(ev.DEFINE_KEY, 0, "k"),
        pen.start(),
        pen.point(),
        ev.pack(ev.EXPERIMENT, T0, store.replace("CANARY", str(scene.canary)), None, "x", []),
    )


CORPUS.each(
    "store",
    _store,
    {
        "root": "/",
        "root by dots": "/tmp/../",
        "etc": "/etc",
        "below etc": "/etc/trainspool-x",
        "proc": "/proc/self/cwd/canary",
        "dev": "/dev",
        "home": "~/x",
        "relative": "a/b",
        "empty": "",
        "http": "http://example.org/x",
        "s3": "s3://b/x",
        "file with host": "file://host/x",
        "NUL": "/tmp/a\0b",
        "a file": "CANARY/secret",
        "below a file": "CANARY/secret/x",
        "long": "/tmp/" + "a" * 5000,
        "below artifacts": "CANARY/artifacts/x",
    },
)
