"""The runs in memory: loaded from their checkpoints, written to them, put out again; and the files they have open."""

from __future__ import annotations

import os
import resource
import time
from collections import OrderedDict

from trainspool_agent import checkpoint
from trainspool_agent.store import texts
from trainspool_agent.store.experiments import Experiments
from trainspool_agent.store.fold import MetricFile
from trainspool_agent.store.layout import METRICS
from trainspool_agent.store.limits import CHECKPOINT_INTERVAL_S, OPEN_FILES_MAX, RUNS_IN_MEMORY_MAX
from trainspool_agent.store.points import DecodedBlocks
from trainspool_agent.store.state import RunState, restored


class RunMemory:
    """The states of one store's runs; part of a FileStore and used like it."""

    def __init__(self, experiments: Experiments, boot_id: str) -> None:
        self._experiments, self._boot_id = experiments, boot_id
        self.decoded = DecodedBlocks()
        self.undurable: dict[str, None] = {}  # runs with changes that no durable checkpoint covers
        self.expecting: dict[str, None] = {}  # runs with artifacts that are not in their place, or not hashed
        self._states: OrderedDict[str, RunState] = OrderedDict()
        self._dirty: dict[str, RunState] = {}  # with changes that no checkpoint covers
        self._open_files: OrderedDict[MetricFile, None] = OrderedDict()
        self._open_files_max = min(OPEN_FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    def get(self, run_id: str) -> RunState:
        """Return a run's state, from its checkpoint if need be; of an unknown run, an empty one."""
        state = self._states.get(run_id)
        if state is not None:
            self._states.move_to_end(run_id)
            return state
        experiment = self._experiments.find_run(run_id)
        if experiment is None:
            state = RunState(run_id)
        else:
            folder = f"{experiment.folder}/{run_id}"
            saved = checkpoint.load(folder, self._boot_id)
            state = restored(run_id, experiment, saved, self.decoded)
            if state.expected or state.unhashed:
                self.expecting[run_id] = None
            durable = checkpoint.load_durable(folder)
            if saved is not None and (durable is None or durable["serial"] < saved["serial"]):
                self.undurable[run_id] = None  # whoever applied it was killed before it came to that
        self._states[run_id] = state
        # Those that cannot be put out come on top: else each look at one of the others would put out the next.
        if len(self._states) - len(self.expecting) > RUNS_IN_MEMORY_MAX:
            self._put_one_out()
        return state

    def forget(self, run_id: str) -> None:
        """Drop what is known of a run: it is another agent's, or was until now, and its checkpoint knows better."""
        state = self._states.pop(run_id, None)
        self._dirty.pop(run_id, None)
        self.undurable.pop(run_id, None)
        self.expecting.pop(run_id, None)
        if state is not None:
            self._close_files(state)

    def peek(self, run_id: str) -> RunState | None:
        """Return a run's state if it is in memory."""
        return self._states.get(run_id)

    def touch(self, state: RunState) -> None:
        """The state changed: its checkpoints are due some time."""
        state.serial += 1
        self._dirty[state.run_id] = state
        self.undurable[state.run_id] = None

    def note_what_came(self, state: RunState) -> None:
        """If all artifacts of a run are in their place, and hashed, nothing more is expected of it."""
        if not state.expected and not state.unhashed:
            self.expecting.pop(state.run_id, None)

    def open(self, file: MetricFile) -> None:
        """Have *file* open and up to date; the files used least lately are closed for it."""
        opened = self._open_files
        if file.fd >= 0:
            opened.move_to_end(file)
            file.learn_growth()
        else:
            file.open()
        opened[file] = None
        if len(opened) > self._open_files_max:
            opened.popitem(last=False)[0].close()

    def close_files(self, state: RunState) -> None:
        """Close what is open of a run; it opens again when it is needed."""
        self._close_files(state)

    def used(self, file: MetricFile) -> None:
        """An open file was used: it stays open longer."""
        self._open_files.move_to_end(file)

    def relocate(self, state: RunState) -> None:
        """The folder is not where it was: its experiment was deleted or restored, or the run is gone for good."""
        state.experiment = self._experiments.find_run(state.run_id) or state.experiment
        state.gone = not os.path.isdir(state.folder)
        self._close_files(state)
        for key, file in state.files.items():
            file.path = texts.path_of(state, METRICS, key)

    def checkpoint(self, *, force: bool) -> None:
        """Write the applied checkpoints that are due.

        Raises:
            OSError: one could not be written; the others were tried, and that one is due again.
        """
        now, failed = time.monotonic(), None
        for state in list(self._dirty.values()):
            # While the lock is held the files are ahead of the state: a checkpoint would call their lines old.
            if (force or now - state.applied_at >= CHECKPOINT_INTERVAL_S) and not state.lock.locked():
                try:
                    self._write_applied(state, now)
                except OSError as error:
                    failed = error
        if failed is not None:
            raise failed

    def close(self) -> None:
        for file in self._open_files:
            file.close()
        self._open_files.clear()

    def _put_one_out(self) -> None:
        """Put the run used least lately out of memory; its checkpoint brings it back."""
        for state in self._states.values():
            if not state.lock.locked() and not state.gone and state.run_id not in self.expecting:
                break
        else:
            return
        if state.run_id in self._dirty:
            self._write_applied(state, time.monotonic())
        self._close_files(state)
        del self._states[state.run_id]

    def _close_files(self, state: RunState) -> None:
        for file in state.files.values():
            self._open_files.pop(file, None)
            file.close()

    def _write_applied(self, state: RunState, now: float) -> None:
        if not state.gone:
            try:
                checkpoint.write_applied(state.folder, state.encode(self._boot_id))
            except FileNotFoundError:
                self.relocate(state)
        state.applied_at = now
        self._dirty.pop(state.run_id, None)
