"""Artifacts of the store, under the names of ``mlflow.artifacts``: ``trainspool.artifacts.load_dict(...)``.

Where MLflow hands out a copy, so do we: who gets a path may do with it what they like.

Source: mlflow/artifacts of MLflow 3.17.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.parse
from typing import Any, NamedTuple

from trainspool.entities import FileInfo
from trainspool.errors import RESOURCE_DOES_NOT_EXIST, TrainspoolException
from trainspool.fluent_reading import not_found
from trainspool.reading import layout
from trainspool.reading.layout import ARTIFACTS
from trainspool.settling import settle
from trainspool.stream import stream

POLL_S = 0.02
RUNS = "runs:/"


class _Found(NamedTuple):
    path: str  # the file or folder
    base: str  # what the paths in a list begin below
    is_lent: bool  # MLflow gives the very path, no copy


def download_artifacts(
    artifact_uri: str | None = None,
    run_id: str | None = None,
    artifact_path: str | None = None,
    dst_path: str | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
) -> str:
    """Return a local path of an artifact, file or folder: below *dst_path* if given, else of the caller's own.

    Args:
        artifact_uri: ``runs:/<run id>/<path>``, a local path, or a ``file:`` address. Or:
        run_id: the run; with *artifact_path*, what of it, else all.

    Raises:
        TrainspoolException: neither or both, another kind of address, or nothing lies there.
    """
    found = _find(artifact_uri, run_id, artifact_path, tracking_uri)
    if dst_path is None and found.is_lent:
        return found.path
    folder = dst_path if dst_path is not None else tempfile.mkdtemp(prefix="trainspool-")
    is_all = run_id is not None and not (artifact_path or "").strip("/")
    target = folder if is_all else os.path.join(folder, os.path.basename(found.path))
    os.makedirs(folder, exist_ok=True)
    if os.path.isdir(found.path):
        shutil.copytree(found.path, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(found.path, target)
    return target


def list_artifacts(
    artifact_uri: str | None = None,
    run_id: str | None = None,
    artifact_path: str | None = None,
    tracking_uri: str | None = None,
) -> list[FileInfo]:
    """Return what lies directly in a folder of artifacts; nothing for a file. Arguments as ``download_artifacts``."""
    try:
        found = _find(artifact_uri, run_id, artifact_path, tracking_uri, waits=False)
    except FileNotFoundError:
        return []
    if not os.path.isdir(found.path):
        return []
    entries = sorted(os.scandir(found.path), key=lambda entry: entry.name)
    return [
        FileInfo(os.path.relpath(entry.path, found.base), entry.is_dir(), None if entry.is_dir() else _size(entry))
        for entry in entries
    ]


def load_text(artifact_uri: str) -> str:
    """Return an artifact's text. Raises TrainspoolException: nothing lies there, or it is no UTF-8."""
    try:
        with open(_find(artifact_uri, None, None, None).path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise TrainspoolException(
            f"Artifact {artifact_uri!r} is not valid UTF-8. To read a file in another encoding, download it with "
            "`artifacts.download_artifacts` and open it with the correct `encoding`.",
            "BAD_REQUEST",
        ) from error


def load_dict(artifact_uri: str) -> Any:
    """Return what an artifact in JSON says. Raises TrainspoolException: as ``load_text``, or it is no JSON."""
    try:
        return json.loads(load_text(artifact_uri))
    except json.JSONDecodeError as error:
        raise TrainspoolException("Unable to form a JSON object from file content", "BAD_REQUEST") from error


def load_image(artifact_uri: str) -> Any:
    """Return an artifact as a ``PIL.Image.Image``; needs Pillow. Raises TrainspoolException: it is no picture."""
    try:
        from PIL import Image, UnidentifiedImageError  # not a dependency
    except ImportError as error:
        raise ImportError("load_image needs Pillow. Next: pip install pillow") from error
    path = _find(artifact_uri, None, None, None).path
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise TrainspoolException("Unable to form a PIL Image object from file content", "BAD_REQUEST") from error


# -- where it lies --------------------------------------------------------------------------------------------------


def _find(
    uri: str | None, run_id: str | None, artifact_path: str | None, tracking_uri: str | None, *, waits: bool = True
) -> _Found:
    if (uri is None) == (run_id is None):
        raise TrainspoolException("Exactly one of `run_id` or `artifact_uri` must be specified")
    if uri is not None and artifact_path is not None:
        raise TrainspoolException("`artifact_path` cannot be specified if `artifact_uri` is specified")
    root = stream.store if tracking_uri is None else _local(tracking_uri)
    if run_id is not None:
        return _of_run(root, run_id, artifact_path or "", waits=waits)
    assert uri is not None
    if uri.startswith(RUNS):
        run_id, _, path = uri[len(RUNS) :].lstrip("/").partition("/")
        if not path:
            raise TrainspoolException(
                f"Not a proper runs:/ URI: {uri}. Runs URIs must be of the form "
                "'runs:/<run_id>/run-relative/path/to/artifact'"
            )
        return _of_run(root, run_id, path, waits=waits)
    path = _local(uri).rstrip("/")
    _await(path, path, waits=waits)
    return _Found(path, os.path.dirname(path), is_lent=True)


def _of_run(root: str, run_id: str, path: str, *, waits: bool) -> _Found:
    parts = [part for part in path.split("/") if part]
    if path.startswith("/") or ".." in parts or "\\" in path:
        raise TrainspoolException(f"Invalid artifact path: {path!r}: it leaves the run's artifacts")
    is_settled = settle()
    place = layout.find_run(root, run_id)
    if place is None:
        raise not_found(f"Run '{run_id}' not found", is_settled)
    base = f"{place.folder}/{ARTIFACTS}"
    found = "/".join((base, *parts))
    _await(found, path, waits=waits)
    if not f"{os.path.realpath(found)}/".startswith(f"{os.path.realpath(base)}/"):
        raise TrainspoolException(f"Invalid artifact path: {path!r}: a link leads out of the run's artifacts")
    return _Found(found, base, is_lent=not parts)


def _await(path: str, asked: str, *, waits: bool) -> None:
    """Raise unless an artifact is there, once all that was logged is: artifacts come with the events that name them."""
    settle()
    if os.path.exists(path):
        return
    if not waits:
        raise FileNotFoundError(path)
    raise TrainspoolException(
        f"Failed to download artifacts from path '{asked}', please ensure that the path is correct.",
        RESOURCE_DOES_NOT_EXIST,
    )


def _local(address: str | os.PathLike[str]) -> str:
    text = os.fspath(address)
    parts = urllib.parse.urlsplit(text)
    if parts.scheme == "file":
        return urllib.parse.unquote(parts.path)
    if len(parts.scheme) > 1:
        raise TrainspoolException(
            f"trainspool reads artifacts from folders; it cannot read {text!r}. Next: MLflow itself"
        )
    return os.path.abspath(text)


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere
        return None
