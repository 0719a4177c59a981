"""Names and paths of the MLflow file store: what may be a file name there, and what becomes of what may not.

Source: mlflow-store.md 1.1, 1.2, 1.4; agent/docs/store-mapping.md.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterable

from trainspool_agent.store.errors import Refused, StoreRefused
from trainspool_agent.store.limits import (
    ARTIFACT_PARTS_MAX,
    ARTIFACT_PATH_CHARACTERS_MAX,
    COMPONENT_BYTES_MAX,
    KEY_CHARACTERS_MAX,
)

META = "meta.yaml"
TRASH = ".trash"
MODELS = "models"
WORK = ".trainspool"  # temporary files; a folder of an experiment without meta.yaml is no run
METRICS, PARAMS, TAGS, ARTIFACTS = "metrics", "params", "tags", "artifacts"
RUN_FOLDERS = (METRICS, PARAMS, TAGS, ARTIFACTS)
APPLIED, DURABLE = "trainspool.applied", "trainspool.durable"

_RESERVED = frozenset(("tags", "datasets", "traces", "models", "artifacts"))  # below the last MLflow reads no run
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")
_EXPERIMENT_ID = re.compile(r"(0|[1-9][0-9]{0,17})\Z")
_KEY = re.compile(r"[/\w.\- :]*\Z")
_ILLEGAL = re.compile(r"[^\w.\- :]")


def is_run_id(text: str) -> bool:
    """Whether *text* may name a run's folder: 32 characters at most, as the SQL column says."""
    return _RUN_ID.match(text) is not None and text not in _RESERVED


def is_experiment_id(text: str) -> bool:
    """Whether *text* is an id that every reader of MLflow's accepts: digits, no leading zero, 18 at most."""
    return _EXPERIMENT_ID.match(text) is not None


def is_key(key: str) -> bool:
    """Whether MLflow accepts *key* for a metric, param or tag, and a file system its parts."""
    return (
        0 < len(key) <= KEY_CHARACTERS_MAX
        and _KEY.match(key) is not None
        and posixpath.normpath(key) == key
        and key != "."
        and not key.startswith(("..", "/"))
        and all(len(part.encode("utf-8", "replace")) <= COMPONENT_BYTES_MAX for part in key.split("/"))
    )


def legal_key(key: str) -> str:
    """Return *key*, or what stands for it in the store if MLflow could not read a file of that name."""
    return key if is_key(key) else escaped_key(key)


def escaped_key(key: str) -> str:
    """Return a flat, legal name for *key*: recognisable, and its own, by the first digits of a hash.

    >>> escaped_key("a/b")
    'a_b-82badf67'
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    kept = _ILLEGAL.sub("_", key).strip(". ")[:180].encode()[:200].decode("utf-8", "ignore")
    return f"{kept or 'key'}-{digest}"


def file_of_key(folder: str, key: str) -> str:
    """Return the file below *folder* that holds *key*, itself or escaped.

    MLflow keeps ``a`` as a file and ``a/b`` in a folder ``a``; the one that comes second gets an escaped name.
    """
    name = legal_key(key)
    refuse_links(os.path.dirname(folder), (os.path.basename(folder), *name.split("/")[:-1]))
    path = f"{folder}/{name}"
    escaped = f"{folder}/{escaped_key(key)}"
    # Once escaped it stays so, though the tag that stood in its way may be deleted by now.
    if os.path.isdir(path) or ("/" in name and (_a_parent_is_a_file(folder, name) or os.path.isfile(escaped))):
        return escaped
    return path


def refuse_links(folder: str, below: Iterable[str] = ()) -> None:
    """Refuse a symbolic link at *folder* or on the way down from it: what lies behind it is not the store's.

    Raises:
        StoreRefused: one stands there. The root itself may be one, and whatever is above it.
    """
    for name in ("", *below):
        folder = f"{folder}/{name}" if name else folder
        if os.path.islink(folder):
            raise StoreRefused(
                "a symbolic link stands where a folder of the store should be", folder, f"ls -l {folder}"
            )


def _a_parent_is_a_file(folder: str, name: str) -> bool:
    parts = name.split("/")[:-1]
    parents = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(os.path.isfile(f"{folder}/{parent}") for parent in parents)


def artifact_parts(path: str) -> list[str]:
    """Return the components of an artifact's path.

    Raises:
        Refused: it is not plain and relative; nothing like it may be opened.
    """
    parts = path.split("/")
    if len(parts) > ARTIFACT_PARTS_MAX or len(path) > ARTIFACT_PATH_CHARACTERS_MAX:
        raise Refused(f"artifact path {path!r:.200} is longer or deeper than any tool reads")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise Refused(f"artifact path {path!r:.200} is not a plain relative path")
    if any(len(part.encode("utf-8", "surrogateescape")) > COMPONENT_BYTES_MAX for part in parts):
        raise Refused(f"artifact path {path!r:.200} has a part of more than {COMPONENT_BYTES_MAX} bytes")
    return [part if part.isascii() or _is_utf8(part) else escaped_key(part) for part in parts]


def _is_utf8(text: str) -> bool:
    """Whether a name is text: MLflow cannot list a folder in which one is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_text(text: str) -> bytes:
    """Return *text* as MLflow reads it back: UTF-8, ``\\n`` line ends; what UTF-8 cannot hold becomes ``?``."""
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace")
