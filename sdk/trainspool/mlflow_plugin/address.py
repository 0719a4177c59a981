"""Addresses: ``trainspool:`` of a store, and the artifacts of a run as this process calls them.

``meta.yaml`` keeps the plain path, which every MLflow resolves. Only what this process hands out has our scheme, so
that artifact calls come to us.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from typing import NamedTuple

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from trainspool.stream import stream

SCHEME = "trainspool"
# No store lies below a folder called artifacts, so the first one ends the run's own path.
_ARTIFACTS = re.compile(r"(?P<root>/.*?)/(?P<experiment>[^/]+)/(?P<run>[^/]+)/artifacts(?:/(?P<below>.*))?\Z", re.S)


class Place(NamedTuple):
    """The artifacts of a run, or a folder *below* them."""

    root: str
    experiment_id: str
    run_id: str
    below: str

    @property
    def folder(self) -> str:
        return f"{self.root}/{self.experiment_id}/{self.run_id}/artifacts"


def root_of(uri: str) -> str:
    """Return the folder that a store's address names: absolute; ``trainspool:`` is where all of trainspool writes.

    Raises:
        MlflowException: it names a host, or has a query.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.netloc or parts.query or parts.fragment:
        raise MlflowException(
            f"{uri!r} is no place for runs: trainspool writes to folders. Next: trainspool: for TRAINSPOOL_STORE or "
            "./mlruns, or trainspool:///absolute/path",
            INVALID_PARAMETER_VALUE,
        )
    path = urllib.parse.unquote(parts.path)
    return os.path.abspath(path) if path else stream.store_for_mlflow()


def artifact_uri(root: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's artifacts in this process."""
    return f"{SCHEME}:{urllib.parse.quote(root)}/{experiment_id}/{run_id}/artifacts"


def place_of(uri: str) -> Place:
    """Return what an address of ``artifact_uri``, or one below it, names.

    Raises:
        MlflowException: it is none.
    """
    path = urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
    found = _ARTIFACTS.match(path)
    if found is None:
        raise MlflowException(f"{uri!r} names no run's artifacts", INVALID_PARAMETER_VALUE)
    root, experiment_id, run_id, below = found.groups()
    return Place(root, experiment_id, run_id, below or "")
