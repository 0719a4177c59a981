"""Datasets that a run used: ``datasets/<id>/meta.yaml`` of the experiment, ``inputs/<id>/meta.yaml`` of the run.

MLflow cannot list an experiment in which such a folder is empty, so each is built aside and renamed in whole. Of two
inputs of one dataset in one run the first counts, as with MLflow; of two descriptions of one dataset in an experiment
the one that sorts first, since runs have no order among themselves.

Source: mlflow-store.md 1.8; mlflow/store/tracking/file_store.py.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from trainspool_agent import files
from trainspool_agent.store import meta
from trainspool_agent.store.changes import Input
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.files import publish, temporary_in
from trainspool_agent.store.layout import META, refuse_links
from trainspool_agent.store.limits import (
    DATASET_DIGEST_CHARACTERS_MAX,
    DATASET_NAME_CHARACTERS_MAX,
    DATASET_TEXT_CHARACTERS_MAX,
    INPUT_TAGS_MAX,
    INPUTS_MAX,
)
from trainspool_agent.store.state import RunState
from trainspool_agent.store.texts import note_unsynced
from trainspool_agent.store.versions import Order

DATASETS, INPUTS = "datasets", "inputs"
_FIELDS = ("name", "digest", "source_type", "source", "schema", "profile")


def write(state: RunState, one: Input, stream: str) -> None:
    """Note that the run used a dataset; applying it twice, or with others in any order, gives the same files.

    Raises:
        Refused: the dataset is none, or the run has too many.
    """
    _check(one)
    dataset_id = _id(one.name, one.digest)
    input_id = _id(dataset_id, state.run_id)
    known, order = state.inputs.get(input_id), Order(one.time, stream, one.offset)
    if known is None and len(state.inputs) >= INPUTS_MAX:
        raise Refused(f"more than {INPUTS_MAX} datasets in one run: the rest is left out")
    _write_dataset(state, one, dataset_id)
    folder = f"{state.folder}/{INPUTS}/{input_id}"
    if known is None or order < known or not os.path.exists(f"{folder}/{META}"):
        refuse_links(state.folder, (INPUTS, input_id))
        _put(state, folder, meta.render(_input(dataset_id, one)))
        note_unsynced(state, f"{folder}/{META}")
        state.inputs[input_id] = order if known is None else min(order, known)


def _check(one: Input) -> None:
    if not one.name or not one.digest or len(one.name) > DATASET_NAME_CHARACTERS_MAX:
        raise Refused(f"dataset {one.name!r:.100} has no name and digest that MLflow takes")
    if len(one.digest) > DATASET_DIGEST_CHARACTERS_MAX or len(one.source_type) > DATASET_DIGEST_CHARACTERS_MAX:
        raise Refused(f"dataset {one.name!r:.100}: its digest or source type is longer than MLflow takes")
    if any(len(text or "") > DATASET_TEXT_CHARACTERS_MAX for text in (one.source, one.schema, one.profile)):
        raise Refused(f"dataset {one.name!r:.100}: its source, schema or profile is longer than MLflow reads")
    if len(one.tags) > INPUT_TAGS_MAX:
        raise Refused(f"dataset {one.name!r:.100} has more than {INPUT_TAGS_MAX} tags")


def _id(first: str, second: str) -> str:
    """MLflow's ids: no secret is kept by them."""
    digest = hashlib.md5(first.encode("utf-8", "replace"), usedforsecurity=False)
    digest.update(second.encode("utf-8", "replace"))
    return digest.hexdigest()


def _write_dataset(state: RunState, one: Input, dataset_id: str) -> None:
    assert state.experiment is not None
    above = state.experiment.folder
    refuse_links(above, (DATASETS, dataset_id))
    folder = f"{above}/{DATASETS}/{dataset_id}"
    wanted = meta.render({field: getattr(one, field) for field in _FIELDS})
    standing = _standing(f"{folder}/{META}")
    if standing is not None and standing <= wanted:
        return
    _put(state, folder, wanted)
    if state.unsynced is not None:
        state.unsynced.update((f"{folder}/{META}", folder, os.path.dirname(folder), above))


def _standing(path: str) -> bytes | None:
    """Return what is said of the dataset already, in our own words."""
    try:
        values = meta.read(path)
    except FileNotFoundError:
        return None
    except meta.UnreadableMeta:
        return b""  # someone may be writing it just now; never overwritten
    return meta.render({field: values.get(field) for field in _FIELDS})


def _input(dataset_id: str, one: Input) -> dict[str, Any]:
    """MLflow writes the source's id as the destination's, too."""
    return {
        "source_type": "DATASET", "source_id": dataset_id, "destination_type": "RUN", "destination_id": dataset_id,
        "tags": one.tags,
    }  # fmt: skip


def _put(state: RunState, folder: str, data: bytes) -> None:
    """Make *folder* with a ``meta.yaml`` of *data*; a reader finds none, or all of it."""
    if os.path.isdir(folder):
        publish(f"{folder}/{META}", data, state.work, sync=True)
        return
    building = temporary_in(state.work)
    publish(f"{building}/{META}", data, state.work, sync=True)
    files.fs.make_one_folder(os.path.dirname(folder))
    try:
        files.fs.rename(building, folder)
    except OSError:
        files.fs.remove_tree(building)
        if not os.path.exists(f"{folder}/{META}"):  # else another agent was faster
            raise
