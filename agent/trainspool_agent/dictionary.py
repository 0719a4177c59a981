"""What a stream's numbers mean: runs, keys, key sets.

Source: sdk/docs/spool-format.md, "Events".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainspool.spool import events as ev
from trainspool_agent.intake import optional_of, text_of
from trainspool_agent.store.layout import is_run_id
from trainspool_agent.store.limits import (
    DEFINITIONS_MAX,
    DEFINITIONS_WEIGHT_MAX,
    ENDED_RUNS_REMEMBERED,
    RUN_TEXTS_CHARACTERS_MAX,
    RUNS_OPEN_MAX,
)

_ID_END = 1 << 32


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run as a stream defines it. *owner*: the stream called ``start_run`` for it."""

    run_id: str
    store: str
    experiment_id: str | None
    experiment_name: str | None
    owner: bool


class Dictionary:
    """One stream's definitions; learns from definition events. Belongs to whoever follows the stream."""

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}
        self.keysets: dict[int, tuple[str, ...]] = {}
        self.runs: dict[int, RunRef] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._open: set[int] = set()  # of the runs it owns
        self._weight = 0  # of all meanings; a key set weighs eight for each key, as much as a pointer

    def learn(self, definitions: bytes) -> None:
        """Learn a run of definition events: a frame's definitions, or the events of a dictionary frame.

        Raises:
            ValueError, TypeError, LookupError: not definitions; those before the bad one are learnt.
        """
        found = [event for event in ev.decode(definitions) if event[0] in ev.DEFINITIONS]
        for event in sorted(found, key=lambda event: int(event[0])):  # keys before the key sets that name them
            self.define(event)

    def define(self, event: list[Any]) -> None:
        """Learn one definition event."""
        kind, number = event[0], event[1]
        if type(number) is not int or not 0 <= number < _ID_END:
            raise ValueError(f"not an id: {ev.shown(number)}")
        if kind == ev.DEFINE_KEY:
            key = text_of(event[2])
            self._weigh(len(key) - len(self.keys.get(number, "")))
            self._put(self.keys, number, key)
        elif kind == ev.DEFINE_KEYSET:
            self._weigh(8 * (len(event[2]) - len(self.keysets.get(number, ()))))
            self._put(self.keysets, number, tuple(self.keys[key] for key in event[2]))
        else:
            run_id, owner, store, experiment_id, experiment_name = event[2:7]
            if not is_run_id(text_of(run_id)):
                raise ValueError(f"not a run id: {ev.shown(run_id)}")
            if len(store) + len(experiment_id or "") + len(experiment_name or "") > RUN_TEXTS_CHARACTERS_MAX:
                raise ValueError(f"a run in a store or experiment of more than {RUN_TEXTS_CHARACTERS_MAX} characters")
            ref = RunRef(run_id, text_of(store), optional_of(experiment_id), optional_of(experiment_name), bool(owner))
            if ref.owner and number not in self._open and len(self._open) >= RUNS_OPEN_MAX:
                raise ValueError(f"more than {RUNS_OPEN_MAX} runs open in one stream")
            self._put(self.runs, number, ref)
            self._ended.pop(number, None)
            (self._open.add if ref.owner else self._open.discard)(number)

    def end(self, number: int) -> None:
        """The stream ended this run: its number is kept a while, in case it is used without being defined anew."""
        self._ended[number] = None
        self._open.discard(number)
        while len(self._ended) > ENDED_RUNS_REMEMBERED:
            self.runs.pop(self._ended.popitem(last=False)[0], None)

    def open(self) -> Iterator[int]:
        """The numbers of the runs that the stream is not known to have ended, guests' among them."""
        return (number for number in self.runs if number not in self._ended)

    def open_owned(self) -> Iterator[int]:
        """The numbers of the runs that the stream owns and is not known to have ended."""
        return (number for number, run in self.runs.items() if run.owner and number not in self._ended)

    def _weigh(self, more: int) -> None:
        if more > 0 and self._weight + more > DEFINITIONS_WEIGHT_MAX:
            raise ValueError(f"definitions of more than {DEFINITIONS_WEIGHT_MAX >> 20} MiB in one stream")
        self._weight += more

    @staticmethod
    def _put(table: dict[int, Any], number: int, meaning: Any) -> None:
        if number not in table and len(table) >= DEFINITIONS_MAX:
            raise ValueError(f"more than {DEFINITIONS_MAX} definitions in one stream")
        table[number] = meaning
