"""Which runs of one store this agent may change: taken when first needed, given up when another agent waits."""

from __future__ import annotations

import os

from trainspool_agent import checkpoint
from trainspool_agent.store.errors import RunHeld, RunMoved
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.lease import Leases
from trainspool_agent.store.memory import RunMemory
from trainspool_agent.store.state import RunState


class Holding:
    """The leases of one store's runs and what is known of these runs, kept in step; part of a FileStore."""

    def __init__(self, memory: RunMemory, leases: Leases, boot_id: str) -> None:
        self._memory, self._leases, self._boot_id = memory, leases, boot_id
        self.fallen: set[str] = set()
        """Runs of which another agent's checkpoint, now ours, may know less than we had applied: to be read again."""

    def has(self, run_id: str) -> bool:
        """Whether we carry the run, for sure; if it was taken from us meanwhile, what we know of it is forgotten."""
        had = self._leases.had(run_id)
        if self._leases.has(run_id):
            return True
        if had:
            self._lose(run_id)
        return False

    def surely_has(self, run_id: str) -> bool:
        """The same from any thread, without a look at the disk; False if only that could tell."""
        return self._leases.surely_has(run_id)

    def is_asked(self, run_id: str) -> bool:
        """Whether another agent waits for the run: nothing more is to be begun with it."""
        return self._leases.is_asked(run_id)

    def take(self, run_id: str, *, wish: bool = True) -> RunState:
        """Return a run's state once it is ours to change; *wish*: who carries it now will know that we wait.

        Raises:
            RunHeld: another agent carries the run.
        """
        held = self.has(run_id)
        state = self._memory.get(run_id)
        if held:
            if self._leases.is_asked(run_id):
                raise RunHeld(run_id, "this agent until the one that asked for it has it")
            return state
        if state.experiment is None or state.gone or not os.path.isdir(state.folder):
            return state
        self._leases.take(run_id, state.folder, wish=wish)
        known = state.streams
        self._memory.forget(run_id)  # what another agent did to it since we looked counts
        state = self._memory.get(run_id)
        if any(state.streams.get(stream, 0) < end for stream, end in known.items()):
            self.fallen.add(run_id)
        # A checkpoint of another machine's boot may not count here: ours must be newer than that one, too.
        state.serial = max(state.serial, checkpoint.last_serial(state.folder))
        if state.experiment is not None and checkpoint.is_of_another_boot(state.folder, self._boot_id):
            # What it knows is applied once more, older values over newer ones: it must not count again after that.
            checkpoint.write_applied(state.folder, state.encode(self._boot_id))
        return state

    def take_new(self, run_id: str, experiment: Experiment) -> None:
        """Be the one that carries a run whose folder is there by now.

        Raises:
            RunHeld, RunMoved: another agent was faster.
        """
        folder = f"{experiment.folder}/{run_id}"
        if self.has(run_id):
            return
        try:
            self._leases.take(run_id, folder)
            if checkpoint.load(folder, self._boot_id) is not None:
                raise RunMoved(run_id)
        except RunHeld:
            self._memory.forget(run_id)
            raise

    def check(self, state: RunState) -> None:
        """Raise RunMoved if we were stopped for so long that another agent took the run."""
        if state is not self._memory.peek(state.run_id) or not self.has(state.run_id):
            raise RunMoved(state.run_id)

    def refresh(self) -> None:
        """Say that we still carry what we carry; forget what was taken from us meanwhile."""
        for run_id in self._leases.refresh():
            self._lose(run_id)

    def _lose(self, run_id: str) -> None:
        """Another agent has the run. Were our state kept, our next checkpoint would be of what is no more."""
        state = self._memory.peek(run_id)
        if state is not None and state.experiment is not None and not os.path.isdir(state.folder):
            self._memory.relocate(state)
            if state.gone:
                return  # someone removed it, and is not to find it again
        self._memory.forget(run_id)
        self.fallen.add(run_id)

    def hand_over(self) -> None:
        """Let go of the runs that other agents wait for and that are durable."""
        for run_id in self._leases.asked:
            state = self._memory.get(run_id)
            if run_id not in self._memory.undurable and not state.lock.locked():
                self._memory.forget(run_id)
                self._leases.release(run_id)

    def release(self, run_id: str) -> None:
        """Let go of a run that nothing more is to be done with."""
        self._leases.release(run_id)

    def release_all(self) -> None:
        self._leases.release_all()
