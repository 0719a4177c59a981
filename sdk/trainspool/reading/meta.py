"""``meta.yaml`` of experiments, runs and datasets: ours without a library, anybody else's with PyYAML.

Source: mlflow-store.md 1.1-1.3.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from trainspool.spool import plainyaml

META = "meta.yaml"
META_BYTES_MAX = 1 << 20
NESTING_MAX = 16


class UnreadableMeta(ValueError):
    """Not whole, no mapping, or in a form that needs a library which is not there."""


def read(folder: str) -> dict[str, Any]:
    """Return what the ``meta.yaml`` of *folder* says.

    Raises:
        OSError: there is none, or it cannot be read.
        UnreadableMeta: what is there says nothing.
    """
    data = _bytes_of(f"{folder}/{META}")
    if not data.strip():
        raise UnreadableMeta("empty: someone may be writing it")
    try:
        return plainyaml.parse(data)
    except ValueError:  # of MLflow, or of a person
        return _by_library(data)


def _bytes_of(path: str) -> bytes:
    """Read a plain file of bounded size; a pipe in its place must not stop us for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UnreadableMeta("no plain file")
        data = file.read(META_BYTES_MAX + 1)
    if len(data) > META_BYTES_MAX:
        raise UnreadableMeta(f"more than {META_BYTES_MAX} bytes")
    return data


def _by_library(data: bytes) -> dict[str, Any]:
    try:
        import yaml  # not a dependency, and what trainspool wrote needs none
    except ImportError as error:
        raise UnreadableMeta("not written by trainspool, and PyYAML is missing. Next: pip install pyyaml") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_shape(yaml, loader, data)
        values = yaml.load(data, Loader=loader)  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableMeta(str(error)[:200]) from error
    if not isinstance(values, dict):
        raise UnreadableMeta("not a mapping")
    return values


def _check_shape(yaml: Any, loader: Any, data: bytes) -> None:
    """Refuse what nests: the C loader recurses without a limit, and the process dies of it."""
    depth = 0
    for event in yaml.parse(data, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > NESTING_MAX:
            raise ValueError(f"nested deeper than {NESTING_MAX}")
