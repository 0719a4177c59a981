"""A run that was begun before, or elsewhere: what is asked of it comes from the store.

Resuming it and logging to it look nowhere; only who asks what it is has the store read. What this process has said
since comes on top, as the store may not have it yet.

Source: design.md §2.6; ``start_run(run_id=)`` of MLflow 3.17, which reads the run before it returns.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from trainspool.entities import Experiment, RunData, RunInfo, RunInputs, StoredRun
from trainspool.run import Run
from trainspool.runtexts import RUN_NAME
from trainspool.stream import stream

LOOK_INTERVAL_S = 1.0
WAIT_S_MAX = 2.0


class _Facts(NamedTuple):
    """What does not change while a run is logged to, but by those who log."""

    info: RunInfo
    experiment: Experiment


class ResumedRun(Run):
    """A run that this process resumed, or logs to as a guest. Any thread; in a forked child it goes on as a guest.

    Where the store does not have it, or not yet, it is as this process was told.
    """

    def __init__(self, run_id: str, experiment: Experiment, store: str, *, name: str, user: str, owner: bool) -> None:
        super().__init__(run_id, experiment, store, name=name, user=user, owner=owner)
        self._facts: _Facts | None = None
        self._look_due, self._has_waited = 0.0, False
        self._untagged: set[str] = set()

    @property
    def name(self) -> str:
        facts = None if RUN_NAME in self.tags else self._look()
        return self.told_name if facts is None else facts.info.run_name

    @name.setter
    def name(self, name: str) -> None:
        self.told_name = name

    @property
    def known_name(self) -> str:
        facts = None if RUN_NAME in self.tags else self._facts
        return self.told_name if facts is None else facts.info.run_name

    @property
    def experiment(self) -> Experiment:
        facts = self._look()
        return self.told_experiment if facts is None else facts.experiment

    @property
    def info(self) -> RunInfo:
        facts = self._look()
        if facts is None:
            return super().info
        info = facts.info._replace(run_name=self.known_name)
        if not self.owner:
            return info
        return info._replace(status=self.status, end_time=self.end_time)  # its attempt, which the store may not know

    @property
    def data(self) -> RunData:
        """What was logged to the run, the metrics too, once the store has what this process logged; read anew."""
        stored = self._stored()
        if stored is None:
            return super().data
        tags = {key: text for key, text in stored.data.tags.items() if key not in self._untagged}
        return RunData({**self.params, **stored.data.params}, {**tags, **self.tags}, stored.data.metrics)

    @property
    def inputs(self) -> RunInputs:
        stored = self._stored()
        return super().inputs if stored is None else stored.inputs

    def delete_tag(self, key: str) -> None:
        """Delete a tag; for one that was set before this process resumed the run, the store is asked first."""
        super().delete_tag(key)
        self._untagged.add(key)

    def _has_tag(self, key: str) -> bool:
        return super()._has_tag(key) or key in self.data.tags

    # -- the store ----------------------------------------------------------------------------------------------

    def _look(self) -> _Facts | None:
        """Return what the store says of the run, read once; None if it has no such run.

        Just begun, by this process or the one that handed it over, it may be on its way: once, that is waited for.
        """
        if self._facts is None and time.monotonic() >= self._look_due:
            self._facts = self._read_facts()
            if self._facts is None and not self._has_waited:
                self._has_waited = True
                if _may_come():
                    stream.wait(WAIT_S_MAX)
                    self._facts = self._read_facts()
            self._look_due = time.monotonic() + LOOK_INTERVAL_S
        return self._facts

    def _read_facts(self) -> _Facts | None:
        from trainspool.reading import experiments, layout, meta, runs  # loaded when something is asked

        place = layout.find_run(self.store, self.run_id)
        try:
            info = None if place is None else runs.info_of(place, meta.read(place.folder))
        except (OSError, meta.UnreadableMeta):
            info = None
        if place is None or info is None:
            return None
        if not info.run_name:
            info = info._replace(run_name=layout.text(f"{place.folder}/{layout.TAGS}/{RUN_NAME}") or "")
        folder = os.path.dirname(place.folder)
        found = experiments.read(layout.Place(folder, place.deleted))
        return _Facts(info, found or Experiment(info.experiment_id, "", folder))

    def _stored(self) -> StoredRun | None:
        from trainspool.reading import layout, meta, runs
        from trainspool.settling import settle

        settle()
        place = layout.find_run(self.store, self.run_id)
        try:
            return None if place is None else runs.read(place)
        except (OSError, meta.UnreadableMeta):
            return None


def _may_come() -> bool:
    if stream.pump is None or stream.configured().disabled:
        return False
    return stream.agent.is_coming(stream.configured())
