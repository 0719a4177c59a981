"""Which events of a stream a replay takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainspool_agent.dictionary import RunRef
from trainspool_agent.replay.guard import is_store

NEVER = 1 << 63


@dataclass(frozen=True)
class Selection:
    """Which runs' events of a stream are wanted, and from where on.

    Attributes:
        wanted: run ids; None: all.
        agents_runs: run ids that the running agent has in hand, if their recorded store is *store*.
        store: the store that is replayed to.
        carried: the agent has the whole stream in hand.
        positions: run id → stream offset up to which the store has the run's events.
    """

    wanted: frozenset[str] | None = None
    agents_runs: frozenset[str] = frozenset()
    store: str = ""
    carried: bool = False
    positions: dict[str, int] = field(default_factory=dict)

    def takes(self, run: RunRef) -> bool:
        return (self.wanted is None or run.run_id in self.wanted) and not self.is_carried(run)

    def is_carried(self, run: RunRef) -> bool:
        """Whether the run is left to the agent."""
        return (self.carried or run.run_id in self.agents_runs) and is_store(run.store, self.store)

    def position(self, run: RunRef) -> int:
        return self.positions.get(run.run_id, 0) if self.takes(run) else NEVER
