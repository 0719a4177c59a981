"""The experiments of a store: found by name or id, made when needed, and where in them a run lies.

Source: mlflow-store.md 1.1, 1.10; design.md 2.5.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, NamedTuple

from trainspool.spool.experiments import DEFAULT_ID, DEFAULT_NAME, experiment_ids_for
from trainspool_agent import checkpoint, files
from trainspool_agent.store import meta
from trainspool_agent.store.changes import ExperimentChange
from trainspool_agent.store.errors import StoreRefused
from trainspool_agent.store.files import publish, remove, temporary_in
from trainspool_agent.store.layout import (
    META,
    MODELS,
    TAGS,
    TRASH,
    WORK,
    file_of_key,
    file_text,
    is_experiment_id,
    refuse_links,
)
from trainspool_agent.store.limits import EXPERIMENT_NAME_CHARACTERS_MAX, EXPERIMENT_TAGS_MAX

_KIND_TAG = "mlflow.experimentKind"
_KIND = "custom_model_development"


class Experiment(NamedTuple):
    """An experiment's folder; *deleted* ones lie in the trash, where their runs still get their data."""

    experiment_id: str
    folder: str
    deleted: bool

    @property
    def work(self) -> str:
        return f"{self.folder}/{WORK}"


class Experiments:
    """One root directory's experiments; remembers what it read until a folder changes."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._metas: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {}
        self._seen: tuple[int, int] | None = None
        self._device: int | None = None  # of a root that we prepared
        self._by_name: dict[str, Experiment] = {}
        self._by_id: dict[str, Experiment] = {}

    def prepare(self) -> None:
        """Make the root complete, so that readers without write permission can open it.

        Raises:
            StoreRefused: it cannot be made, or MLflow could not read it there.
        """
        if "artifacts" in self.root.split("/"):
            raise StoreRefused(
                "MLflow cannot read a store below a folder called artifacts",
                self.root,
                "choose another place with TRAINSPOOL_STORE or --store",
            )
        try:
            for name in ("", TRASH, MODELS):
                files.fs.make_shared_folder(f"{self.root}/{name}")
            if not os.path.exists(f"{self.root}/{DEFAULT_ID}/{META}"):
                self._create(DEFAULT_ID, DEFAULT_NAME)
            self._device = os.stat(self.root).st_dev
        except OSError as error:
            raise StoreRefused(
                f"the store cannot be made ({error.strerror})",
                self.root,
                "make it and give yourself write permission, or choose another with TRAINSPOOL_STORE or --store",
            ) from error

    def ensure(self, experiment_id: str | None, name: str | None, *, chosen: bool = False) -> Experiment:
        """Return the experiment, made if it is not there.

        A name that is there keeps its id. An id that is there wins over a name that is not: the experiment was renamed,
        and its runs go on in it, unless someone has *chosen* the name anew. An id that MLflow's tools would pass over
        is not made: its runs go where the name says, else to Default.
        """
        self._refresh()
        there = self._by_id.get(experiment_id or "")
        if there is not None and name is None:
            return there
        if name is None and (experiment_id is None or not is_experiment_id(experiment_id)):
            experiment_id, name = DEFAULT_ID, DEFAULT_NAME
        full = (name or experiment_id or DEFAULT_NAME).encode("utf-8", "replace").decode()
        name = full[:EXPERIMENT_NAME_CHARACTERS_MAX]
        known = self._named(name)
        if known is not None:
            return known
        if there is not None and not chosen:
            return there
        ids = [experiment_id] if experiment_id is not None and is_experiment_id(experiment_id) else []
        free = next(one for one in itertools.chain(ids, experiment_ids_for(full)) if one not in self._by_id)
        made = self._create(free, name)
        self._by_name[name], self._by_id[free] = made, made
        return made

    def _named(self, name: str) -> Experiment | None:
        """Return the experiment that bears *name* now: a renaming shows in its ``meta.yaml`` alone."""
        known = self._by_name.get(name)
        if known is None or (self._meta_of(known.folder) or {}).get("name") != name:
            self._seen = None
            self._refresh()
        return self._by_name.get(name)

    def find_run(self, run_id: str, likely: Experiment | None = None) -> Experiment | None:
        """Return the experiment that holds a run; one run must not lie in two, so all are asked."""
        if likely is not None and _is_folder(f"{likely.folder}/{run_id}"):
            return likely
        self._refresh()
        for experiment in self._by_id.values():
            if _is_folder(f"{experiment.folder}/{run_id}"):
                return experiment
        return None

    def apply(self, change: ExperimentChange) -> None:
        """Make the experiment and set its tags, the latest of each key."""
        experiment = self.ensure(change.experiment_id, change.name, chosen=not change.tags)
        if not change.tags:
            return
        state_path = f"{experiment.work}/tags"
        winners = _tag_orders(state_path)
        order = [change.time, change.offset]
        for key, value in change.tags.items():
            if winners.get(key, [0, 0]) > order or (key not in winners and len(winners) >= EXPERIMENT_TAGS_MAX):
                continue
            path = file_of_key(f"{experiment.folder}/{TAGS}", key)
            if value is None:
                remove(path)
            else:
                publish(path, file_text(value), experiment.work, sync=True)
            winners[key] = order
        publish(state_path, checkpoint.encode({"version": checkpoint.VERSION, "tags": winners}), experiment.work)

    def _create(self, experiment_id: str, name: str) -> Experiment:
        """Build the experiment aside and rename it in whole: of a folder without ``meta.yaml`` MLflow complains."""
        experiment = Experiment(experiment_id, f"{self.root}/{experiment_id}", deleted=False)
        refuse_links(experiment.folder)
        aside, building = f"{self.root}/{DEFAULT_ID}", experiment.folder
        # In place: where there is no aside (yet), or the folder is there without a meta.yaml that can be read.
        if os.path.isdir(aside) and not os.path.exists(experiment.folder):
            building = temporary_in(f"{aside}/{WORK}")
        values = meta.experiment_meta(experiment_id, name, experiment.folder, time.time_ns() // 1_000_000)
        files.fs.make_shared_folder(f"{building}/{WORK}")
        publish(f"{building}/{TAGS}/{_KIND_TAG}", _KIND.encode(), f"{building}/{WORK}", sync=True)
        publish(f"{building}/{META}", meta.render(values), f"{building}/{WORK}", sync=True)
        if building != experiment.folder:
            self._rename(building, experiment)
        self._seen = None
        return experiment

    @staticmethod
    def _rename(building: str, experiment: Experiment) -> None:
        files.fs.sync_path(building)  # a power cut may keep the name and forget what is in the folder
        try:
            files.fs.rename(building, experiment.folder)
        except OSError:
            files.fs.remove_tree(building)
            if not os.path.exists(f"{experiment.folder}/{META}"):  # else another was faster: its is as good
                raise

    def _prepare_again(self) -> None:
        """Make the root anew after someone removed it, as MLflow would; not where a device was unmounted.

        Raises:
            StoreRefused: it lay on another device than what is there now, or cannot be made.
        """
        there = self.root
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        if os.stat(there).st_dev != self._device:
            raise StoreRefused(
                "the store is gone, and so is the device it lay on",
                self.root,
                f"mount it; for a new store here, mkdir -p {self.root}/{TRASH}",
            )
        self.prepare()

    def _changed_ns(self) -> tuple[int, int]:
        return os.stat(self.root).st_mtime_ns, os.stat(f"{self.root}/{TRASH}").st_mtime_ns

    def _refresh(self) -> None:
        try:
            seen = self._changed_ns()
        except FileNotFoundError:
            if self._device is None:
                raise
            self._prepare_again()
            seen = self._changed_ns()
        if seen == self._seen:
            return
        self._by_id, found = {}, []
        for parent in (self.root, f"{self.root}/{TRASH}"):
            if parent != self.root:
                refuse_links(parent)
            for name in sorted(os.listdir(parent)):
                if name in (TRASH, MODELS) or os.path.islink(f"{parent}/{name}"):
                    continue
                values = self._meta_of(f"{parent}/{name}")
                if values is not None and str(values.get("experiment_id")) == name:
                    experiment = Experiment(name, f"{parent}/{name}", parent != self.root)
                    self._by_id.setdefault(name, experiment)
                    found.append((experiment, values))
        # MLflow itself can make two experiments of one name: the one in use, then the older one counts.
        found.sort(key=lambda one: (one[0].deleted, _created(one[1]), one[0].experiment_id))
        self._by_name = {}
        for experiment, values in found:
            self._by_name.setdefault(str(values.get("name")), experiment)
        self._seen = seen

    def _meta_of(self, folder: str) -> dict[str, Any] | None:
        path = f"{folder}/{META}"
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if path not in self._metas or self._metas[path][0] != stamp:
                self._metas[path] = stamp, meta.read(path)
        except (OSError, meta.UnreadableMeta):
            self._metas.pop(path, None)
            return None
        return self._metas[path][1]


def _is_folder(path: str) -> bool:
    if os.path.isdir(path):
        refuse_links(path)
        return True
    return False


def _created(values: dict[str, Any]) -> int:
    """When an experiment was made, by its ``meta.yaml``, in which people may write what they like."""
    time_ms = values.get("creation_time")
    return time_ms if isinstance(time_ms, int) else 0


def _tag_orders(path: str) -> dict[str, list[int]]:
    try:
        with open(path, "rb") as file:
            state = checkpoint.decode(file.read())
    except OSError:
        return {}
    return dict(state["tags"]) if state else {}
