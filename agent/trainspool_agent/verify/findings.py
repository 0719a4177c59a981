"""What a check found at one place of one file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from trainspool.spool.items import Damage


@dataclass(frozen=True)
class Finding:
    """Something to say of *file* at byte *at*.

    Attributes:
        is_damage: False: ordinary, or of a newer version; it is said, and nothing is wrong.
        torn: an unfinished last frame: ordinary unless something is lost by it.
        lost_events, lost_points: what nothing else holds; exact unless *exact* is False.
        lost_offsets: the stream offsets that are lost.
        next_step: what to do about it, if there is something.
    """

    file: str
    at: int
    what: str
    is_damage: bool
    torn: bool = False
    lost_events: int = 0
    lost_points: int = 0
    lost_offsets: tuple[int, int] | None = None
    exact: bool = True
    next_step: str = ""

    def losing(self, loss: Damage) -> Finding:
        """Return this finding with what is lost by it."""
        what = self.what if self.what else "torn tail, and no segment goes on where it begins"
        return replace(
            self,
            what=what,
            is_damage=self.is_damage or self.torn,
            lost_events=loss.events,
            lost_points=loss.points,
            lost_offsets=(loss.begin, loss.end),
            exact=loss.exact,
        )

    def saying(self, what: str) -> Finding:
        return replace(self, what=what)

    @property
    def cost(self) -> str:
        """What is lost, in words."""
        if not self.exact:
            return "an unknown number of events lost"
        if self.lost_offsets is not None:
            return f"{self.lost_events:,} events with {self.lost_points:,} points lost"
        return "nothing lost" if self.is_damage else ""

    def facts(self) -> dict[str, Any]:
        return asdict(self)
