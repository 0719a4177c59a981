"""What a store refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path

from trainspool.errors import TrainspoolError


class StoreRefused(TrainspoolError):
    """Nothing can be kept under this root; the message names what to change. The spool keeps every event."""

    def __init__(self, what: str, path: Path | str, next_step: str, kept: str = "every event, in the spool") -> None:
        super().__init__(what, path, next_step, kept)  # positional, so it crosses processes by pickle
        self.what, self.path, self.next_step, self.kept = what, path, next_step, kept

    def __str__(self) -> str:
        return f"{self.what}: {self.path}. Kept: {self.kept}. Next: {self.next_step}."


class Refused(TrainspoolError):
    """One event asks for something the store must not do; it is counted and noted on its run, the rest goes on."""


class RunHeld(TrainspoolError):
    """Another agent carries this run; it is asked to let go, so try again soon.

    *alive_on*: the host of that agent, if it was seen to count up while we waited; None: it may be gone.
    """

    def __init__(self, run_id: str, by: str, alive_on: str | None = None) -> None:
        super().__init__(run_id, by, alive_on)
        self.run_id, self.by, self.alive_on = run_id, by, alive_on

    def __str__(self) -> str:
        return f"run {self.run_id} is carried by {self.by}. Kept: every event, in the spool. Next: wait, it comes soon"


class RunMoved(RunHeld):
    """Another agent carried this run until just now: look again at what the store has of it, then apply."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, "another agent until now")
