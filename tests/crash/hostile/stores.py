"""Attacks by what lies in the store already: links, pipes, YAML that expands, folders where files should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from crash.hostile.attack import Corpus
from crash.hostile.forged_state import _run_folder
from crash.hostile.scene import Scene, replace_by

from trainspool.spool import events as ev

CORPUS = Corpus()
BOMB = b"".join(b"k%d: &k%d [%s]\n" % (n, n, b",".join([b"*k%d" % (n - 1)] * 10) if n else b"x") for n in range(12))
YAMLS = {
    "a bomb for a name": BOMB + b"experiment_id: '5'\nname: *k11\n",
    "a bomb for an id": BOMB + b"experiment_id: *k11\nname: x\n",
    "a bomb beside": BOMB + b"experiment_id: '5'\nname: x\n",
    "nested lists": b"[" * 200_000,
    "nested maps": b"{a: " * 50_000,
    "nested dashes": b"- " * 100_000,
    "an alias of itself": b"experiment_id: '5'\nname: &a [*a]\n",
    "an object": b"experiment_id: !!python/object/apply:os.system ['touch /tmp/owned']\nname: x\n",
    "a list for a time": b"experiment_id: '5'\nname: x\ncreation_time: [1]\n",
    "a text for a time": b"experiment_id: '5'\nname: x\ncreation_time: soon\n",
    "an infinite time": b"experiment_id: '5'\nname: x\ncreation_time: .inf\n",
    "a million digits": b"experiment_id: '5'\nname: x\ncreation_time: " + b"1" * 900_000,
    "nothing": b"",
    "NULs": b"\0" * 1000,
    "no UTF-8": b"name: \xff\xfe\xfd",
    "a merge of itself": b"<<: &a {<<: *a}\nexperiment_id: '5'\nname: x\n",
    "a list for a key": b"? [1, 2]\n: 3\nexperiment_id: '5'\nname: x\n",
    "bytes without end": b"a" * (8 << 20),
}


def _base(scene: Scene) -> None:
    """A store as we make it."""
    _run_folder(scene)


def _experiment(scene: Scene, data: bytes) -> None:
    _base(scene)
    (scene.store / "5").mkdir()
    (scene.store / "5/meta.yaml").write_bytes(data)


for _name, _data in YAMLS.items():
    CORPUS.add(f"experiment's meta.yaml with {_name}", harmless=True, mlflow_cannot=True)(
        lambda scene, data=_data: _experiment(scene, data)  # type: ignore[misc]
    )


def _run(scene: Scene, data: bytes) -> None:
    path = _run_folder(scene) / "meta.yaml"
    path.write_bytes(data)


for _name, _data in YAMLS.items():
    CORPUS.add(f"run's meta.yaml with {_name}", harmless=True, mlflow_cannot=True)(
        lambda scene, data=_data: _run(scene, data)  # type: ignore[misc]
    )


def _meta_instead(scene: Scene, how: str) -> None:
    _base(scene)
    (scene.store / "5").mkdir()
    replace_by(scene.store / "5/meta.yaml", how, scene.canary / "secret")


def _run_meta_instead(scene: Scene, how: str) -> None:
    replace_by(_run_folder(scene) / "meta.yaml", how, scene.canary / "secret")


for _how in ("symlink", "fifo", "device", "folder"):
    CORPUS.add(f"experiment's meta.yaml is a {_how}", harmless=True, mlflow_cannot=True)(
        lambda scene, how=_how: _meta_instead(scene, how)  # type: ignore[misc]
    )
    CORPUS.add(f"run's meta.yaml is a {_how}", harmless=True, mlflow_cannot=True)(
        lambda scene, how=_how: _run_meta_instead(scene, how)  # type: ignore[misc]
    )


def _linked(scene: Scene, what: str) -> None:
    """*what*, below the run's folder, is a link to a folder of secrets."""
    folder = _run_folder(scene)
    pen = scene.pens[-1]
    pen.stage("staged", b"x")
    pen.data(
        ev.pack(ev.DEFINE_KEY, 1, "d/loss"),
        pen.point(1, key=1),
        ev.pack(ev.PARAMS, 0, 0, ["p", "1", "d/p", "2"]),
        ev.pack(ev.TAGS, 0, 0, ["t", "1", "d/t", "2"]),
        ev.pack(ev.ARTIFACT, 0, 0, "d/secret", "staged", 1, 0o644),
        ev.pack(ev.ARTIFACT, 0, 0, "secret", "staged", 1, 0o644),
        ev.pack(ev.TAGS, 0, 9, ["secret", None, "d/x", None]),
    )
    path = folder / what if what else folder
    if path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(scene.canary / "metrics" if what.startswith("metrics") else scene.canary / "deep/er")


for _what in ("", "metrics", "params", "tags", "artifacts", "metrics/d", "params/d", "tags/d", "artifacts/d"):
    CORPUS.add(f"link in place of the run's {_what or 'folder'}", mlflow_cannot=True)(
        lambda scene, what=_what: _linked(scene, what)  # type: ignore[misc]
    )


def _file(scene: Scene, case: tuple[str, str]) -> None:
    name, how = case
    path = _run_folder(scene) / name
    pen = scene.pens[-1]
    pen.data(ev.pack(ev.PARAMS, 0, 0, ["p", "1"]), ev.pack(ev.TAGS, 0, 0, ["t", "1"]))
    replace_by(path, how, scene.canary / "metrics/loss")
    os.utime(scene.canary / "metrics/loss", (500, 1000))


for _case in [
    (name, how)
    for name in ("metrics/loss", "params/p", "tags/t")
    for how in ("symlink", "fifo", "device", "hard link")
    if (name, how) != ("metrics/loss", "hard link")  # ours by its owner, and appended to in place
]:
    CORPUS.add(
        f"{_case[1]} in place of {_case[0]}", harmless=True, mlflow_cannot=True, loses_name=_case[1] == "hard link"
    )(
        lambda scene, case=_case: _file(scene, case)  # type: ignore[misc]
    )


def _above(scene: Scene, what: str) -> None:
    _base(scene)
    path = scene.store / what
    if path.is_dir():
        shutil.rmtree(path)
    target: Path = scene.canary / "deep"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


for _what in (".trash", "5", "0/.trainspool"):
    _holds = _what != "5"
    CORPUS.add(f"link in place of the store's {_what}", harmless=not _holds, mlflow_cannot=True, holds_store=_holds)(
        lambda scene, what=_what: _above(scene, what)  # type: ignore[misc]
    )
