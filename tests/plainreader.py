"""Is a store as MLflow can read it: the rules of its file store in plain lines, fast enough for thousands of stores.

Real MLflow judges a sample of the same stores. Source: MLflow 3.17's file store, "what readers do with damaged files".
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import yaml

_EXPERIMENT = re.compile(r"[a-zA-Z0-9][\w\-]{0,63}\Z")
_LINE = re.compile(rb"-?\d+ (-?\d[\d.e+-]*|nan|-?inf) -?\d+\Z")
_KEY = re.compile(r"[/\w.\- :]+\Z")
_RESERVED = ("tags", "datasets", "traces", "models")
_OF_EXPERIMENTS = ("experiment_id", "name", "artifact_location", "lifecycle_stage")
_OF_RUNS = ("run_id", "run_uuid", "experiment_id", "user_id", "status", "start_time", "end_time", "lifecycle_stage")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def problems(root: Path) -> list[str]:
    """Return what MLflow would stumble over, torn and doubled lines among it."""
    found = [f"{name} is missing" for name in (".trash", "models") if not (root / name).is_dir()]
    for folder in sorted(root.iterdir()):
        if folder.name in (".trash", "models"):
            continue
        if not _EXPERIMENT.match(folder.name):
            found.append(f"{folder} is no experiment's name")
        elif (folder / "meta.yaml").exists():
            found += _of_experiment(folder)
    return found


def _of_experiment(folder: Path) -> list[str]:
    found = _of_meta(folder, _OF_EXPERIMENTS, "experiment_id") + _of_texts(folder / "tags")
    for run in sorted(folder.iterdir()):
        if run.is_dir() and run.name not in _RESERVED and (run / "meta.yaml").exists():
            found += _of_meta(run, _OF_RUNS, "run_id")
            found += [
                f"{run / name} is missing" for name in ("metrics", "params", "artifacts") if not (run / name).is_dir()
            ]
            found += _of_texts(run / "params") + _of_texts(run / "tags") + _of_metrics(run / "metrics")
    return found


def _of_meta(folder: Path, keys: tuple[str, ...], own: str) -> list[str]:
    path = folder / "meta.yaml"
    try:
        values = yaml.load(path.read_bytes(), Loader=_LOADER)  # a safe loader
    except (yaml.YAMLError, ValueError) as error:
        return [f"{path}: {error}"]
    if not isinstance(values, dict) or any(key not in values for key in keys):
        return [f"{path} is not whole"]
    return [] if str(values[own]) == folder.name else [f"{path} is of {values[own]}"]


def _files(folder: Path) -> list[tuple[str, bytes]]:
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = f"{parent}/{name}"
            with open(path, "rb") as file:
                found.append((path[len(str(folder)) + 1 :], file.read()))
    return found


def _of_texts(folder: Path) -> list[str]:
    found = []
    for key, data in _files(folder):
        if not _KEY.match(key):
            found.append(f"{folder / key} is no legal key")
        if b"\0" in data:
            found.append(f"{folder / key} holds NULs")
        try:
            data.decode()
        except UnicodeDecodeError:
            found.append(f"{folder / key} is not UTF-8")
    return found


def _of_metrics(folder: Path) -> list[str]:
    found = []
    for key, data in _files(folder):
        lines = data.split(b"\n")
        if not _KEY.match(key) or not data or lines.pop():
            found.append(f"{folder / key} is empty, torn or no key: {data[-40:]!r}")
        found += [f"{folder / key} has a line {line[:80]!r}" for line in lines if not _LINE.match(line)]
        found += [f"{folder / key} has {line!r} {count} times" for line, count in Counter(lines).items() if count > 1]
    return found
