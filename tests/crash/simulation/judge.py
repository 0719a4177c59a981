"""The judges: what any reader may meet at any moment, and what has to be there at the end. Plain lines and YAML."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from crash.simulation.model import RunModel, identity

from trainspool_agent import checkpoint
from trainspool_agent.store.layout import escaped_key

LINE = re.compile(rb"(-?\d+) (nan|-?inf|-?\d[-+.e\d]*) (-?\d+)\n")
NAME = re.compile(r"[\w.\- :/]+\Z")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
EXPERIMENT_KEYS = ("experiment_id", "name", "lifecycle_stage", "artifact_location")
RUN_KEYS = ("run_id", "run_uuid", "experiment_id", "status", "lifecycle_stage", "start_time", "artifact_uri")


class Reader:
    """Looks at the store as MLflow does, again and again: one bad file and it could read none (mlflow-store.md 1.9)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._metas: dict[str, tuple[int, int]] = {}
        self._metrics: dict[str, bytes] = {}

    def look(self) -> None:
        if not os.path.isdir(self.root):
            return
        for experiment in os.scandir(self.root):
            if experiment.name in (".trash", "models"):
                continue
            assert experiment.name.isdigit(), experiment
            if os.path.exists(f"{experiment.path}/meta.yaml"):
                self._meta(f"{experiment.path}/meta.yaml", EXPERIMENT_KEYS)
                for run in os.scandir(experiment.path):
                    if run.is_dir() and os.path.exists(f"{run.path}/meta.yaml"):
                        self._run(run.path)

    def _run(self, run: str) -> None:
        self._meta(f"{run}/meta.yaml", RUN_KEYS)
        for kind in ("metrics", "params", "tags"):
            for path in _files_below(f"{run}/{kind}"):
                assert NAME.match(path[len(run) + 1 :]), path
                if kind == "metrics":
                    self._metric(path)

    def _meta(self, path: str, keys: tuple[str, ...]) -> None:
        info = os.stat(path)
        if self._metas.get(path) == (info.st_ino, info.st_mtime_ns):
            return
        values = read_yaml(path)
        assert isinstance(values, dict), (path, "empty or torn")
        missing = [key for key in keys if key not in values]
        assert not missing, (path, missing)
        self._metas[path] = info.st_ino, info.st_mtime_ns

    def _metric(self, path: str) -> None:
        before = self._metrics.get(path, b"")
        if os.stat(path).st_size == len(before) > 0:
            return
        with open(path, "rb") as file:
            data = file.read()
        assert data, (path, "an empty metric file")
        assert data.startswith(before), (path, "points that were there are gone", before[-80:], data[-80:])
        assert not LINE.sub(b"", data), (path, "not whole lines", LINE.sub(b"", data)[:80])
        points = Counter(identity(int(ms), int(step), float(value)) for ms, value, step in LINE.findall(data))
        assert max(points.values()) == 1, (path, "twice", points.most_common(2))
        self._metrics[path] = data


def read_yaml(path: str | Path) -> Any:
    with open(path, "rb") as file:
        return yaml.load(file.read(), Loader=_LOADER)


def _files_below(folder: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.is_dir():
                yield from _files_below(entry.path)
            else:
                yield entry.path


def check_run(folder: Path, run: RunModel, foreign: dict[str, list[str]], boot: str) -> None:
    """The files of one run are what was said, and its account says so."""
    for key, points in run.points.items():
        data = _file(folder / "metrics", key)
        lines = {identity(int(ms), int(step), float(value)) for ms, value, step in LINE.findall(data)}
        strangers = {identity(*_parts(line)) for line in foreign.get(key, ())}
        assert lines == points.keys() | strangers, (folder.name, key, _differing(lines, points.keys() | strangers))
        if len(run.streams) == 1 and not strangers:
            assert data == "".join(points.values()).encode(), (folder.name, key, "other bytes than undisturbed")
    for key, values in run.params.items():
        assert _file(folder / "params", key).decode() == values[0], (folder.name, key, values)
        for number, value in enumerate(values[1:], 2):
            assert _file(folder / "tags", f"param.{key}.v{number}").decode() == value, (folder.name, key, values)
    for key, value in run.tags.items():
        if key != "mlflow.runName":
            found = _file(folder / "tags", key, missing=None)
            assert (found.decode() if found is not None else None) == value, (folder.name, key, found, value)
    for path, content in run.artifacts.items():
        assert (folder / "artifacts" / path).read_bytes() == content, (folder.name, path)
    values = read_yaml(folder / "meta.yaml")
    if run.status is not None:
        assert values["status"] == run.status, (folder.name, values["status"], run.status)
    _check_account(folder, run, boot)


def _check_account(folder: Path, run: RunModel, boot: str) -> None:
    saved = checkpoint.load(str(folder), boot)
    assert saved is not None, (folder.name, "no checkpoint")
    counts = saved["counts"]
    known = {key: counts[key] for key in ("accepted", "stored", "folded", "refused", "damaged")}
    want = {"accepted": run.accepted, "stored": run.distinct, "folded": run.accepted - run.distinct}
    assert known == {**want, "refused": 0, "damaged": 0}, (folder.name, known, want)
    assert bool(counts["unknown_tail"]) == run.unknown_tail, (folder.name, counts)
    dropped = [sum(gap[index] for gap in saved["gaps"].values()) for index in (0, 1)]
    if not run.unknown_tail:
        assert dropped == run.dropped, (folder.name, dropped, run.dropped)


def _file(folder: Path, key: str, missing: Any = b"") -> Any:
    """The content under *key*: under its own name, or the other if it clashed with another key."""
    there = [path for path in (folder / key, folder / escaped_key(key)) if path.is_file()]
    assert len(there) <= 1, (there, "one key in two files")
    return there[0].read_bytes() if there else missing


def _parts(line: str) -> tuple[int, int, float]:
    ms, value, step = line.split()
    return int(ms), int(step), float(value)


def _differing(found: Any, wanted: Any) -> dict[str, Any]:
    return {"lost": sorted(wanted - found, key=str)[:3], "too much": sorted(found - wanted, key=str)[:3]}
