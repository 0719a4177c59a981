"""What the spool and the rings hold of a run that its store does not have yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trainspool.spool.items import Damage
from trainspool_agent.compact import EventFrame, RunRef, compact
from trainspool_agent.look.spool import SeenStream
from trainspool_agent.store.changes import RunChanges

_FAR = 1 << 62


def waiting(run_id: str, seen: SeenStream, begin: int) -> Iterator[RunChanges | Damage]:
    """Yield what *seen* holds of the run from offset *begin* on, ring included; damage may be anyone's."""

    def position(ref: RunRef) -> int:
        return 0 if ref.run_id == run_id else _FAR  # other runs are none of ours

    frames = seen.frames(begin)
    with contextlib.closing(frames):
        for part in frames.read():
            if isinstance(part, Damage):
                yield part
            elif isinstance(part, EventFrame):
                yield from compact([part], frames.dictionary, seen.name, position).runs.values()
