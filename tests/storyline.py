"""What happens in the whole-way tests: one run and a bit of a second, everything that can be logged, a death, an agent.

Each step is small, so that a fault can fall between any two. Names say what the later tests look for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from storyfiles import StoryFiles
from wholeway import WALL, World

from trainspool import artifacts as artifacts_module
from trainspool import complaints
from trainspool import media as media_module
from trainspool import runtexts as runtexts_module
from trainspool.run import Run
from trainspool.stream import stream

BIG = "x" * 40_000  # beyond what goes through the ring, so it is staged
PIXELS = (np.arange(300) % 256).astype(np.uint8).reshape(10, 10, 3)
DATASET = {"name": "digits", "digest": "5e1f", "source_type": "local", "source": "{}"}


class Call(NamedTuple):
    """One thing that the logging side took, and where it ended in the stream."""

    kind: str  # point, params, tags, artifacts
    run: int
    key: str
    value: Any
    end: int


@dataclass
class Logged:
    """What the logging side took, in order."""

    calls: list[Call] = field(default_factory=list)
    uncaptured: set[str] = field(default_factory=set)  # artifacts and tags whose content the spool could not take
    given: list[tuple[Path, str, str]] = field(default_factory=list)  # away: where it was, its path, its content
    begun: set[str] = field(default_factory=set)  # artifacts whose event is there, copied in the background
    unfinished: set[str] = field(default_factory=set)  # of these, under way when the process died

    def note(self, kind: str, run: int, key: str, value: Any) -> None:
        self.calls.append(Call(kind, run, key, value, stream.ring.end))

    @property
    def refused(self) -> int:
        """How many artifacts have an event and no content."""
        return len(self.begun & (self.uncaptured | self.unfinished))

    def points(self, before: int | None = None) -> dict[tuple[int, str], Counter[tuple[float, int]]]:
        """Return run and key → (value, step) → times, of what ends at *before* at most."""
        found: dict[tuple[int, str], Counter[tuple[float, int]]] = {}
        for call in self.calls:
            if call.kind == "point" and (before is None or call.end <= before):
                found.setdefault((call.run, call.key), Counter())[call.value] += 1
        return found


class Story:
    """Tells itself to a world; between its steps the world's disk may do as it likes."""

    def __init__(self, world: World, *, in_order: bool = False, rounds: int = 2) -> None:
        self.world, self.in_order, self.rounds = world, in_order, rounds
        self.logged = Logged()
        self.files = StoryFiles(world.folder / "work", self.logged)
        self.step = self.moment = 0

    def tell(self) -> Logged:
        """From the first log call to the end of the process; the agent works in between."""
        with pytest.MonkeyPatch.context() as patch:
            self._watch_staging(patch)
            patch.setattr(complaints, "warn", lambda *_, **__: None)
            self._next()
            run = self.world.start_run(1)
            self._next()
            run.log_params({"lr": 0.1, "optimizer": "adam"})
            self.logged.note("params", 1, "lr", "0.1")
            self.logged.note("params", 1, "optimizer", "adam")
            for number in range(self.rounds):
                self._round(run, number)
            self._second_run()
            self._last_words(run)
        return self.logged

    def _next(self) -> None:
        """Each call has its time, however many events the calls before it made."""
        self.moment += 1
        self.world.clock.wall = WALL + self.moment * 10**9

    def _round(self, run: Run, number: int) -> None:
        world = self.world
        for _ in range(3):
            self._points(run)
        self._next()
        run.set_tag("phase", f"round {number}")
        self.logged.note("tags", 1, "phase", f"round {number}")
        self._next()
        run.log_text(f"notes of round {number}\n" * 50, f"notes/{number}.txt")
        self.logged.note("artifacts", 1, f"notes/{number}.txt", f"notes of round {number}\n" * 50)
        self._next()
        run.log_image(PIXELS, f"pictures/{number}.png")
        self._next()
        run.log_input(DATASET, context=f"round {number}")

        self.files.log_all(run, number, self._next)
        self.logged.begun.update({f"later/{number}.pt"} - self.logged.uncaptured)
        world.turn()
        world.run_agent(0.6)
        world.background.copy()
        self._points(run)
        self.files.note_copied(number)
        self._next()
        run.log_param(f"found in {number}", number)
        self.logged.note("params", 1, f"found in {number}", str(number))
        self._next()
        run.set_tag(f"big {number}", BIG + str(number))
        self.logged.note("tags", 1, f"big {number}", BIG + str(number))
        for _ in range(11):
            world.turn()
        world.run_agent(1.1)

    def _points(self, run: Run) -> None:
        self.step += 1
        self._next()
        run.log_metric("loss", 1 / self.step, step=self.step)
        self.logged.note("point", 1, "loss", (1 / self.step, self.step))
        self._next()
        run.log_metrics({"train/acc": self.step / 7, "val": float("nan") if self.step == 2 else 0.5}, step=self.step)
        self.logged.note("point", 1, "train/acc", (self.step / 7, self.step))

    def _second_run(self) -> None:
        self._next()
        run = self.world.start_run(2)
        self._next()
        run.log_metric("only", 2.0, step=1)
        self.logged.note("point", 2, "only", (2.0, 1))
        self.world.turn()
        self.world.run_agent(0.6)
        self._next()
        run.end("FAILED", "as planned")
        self.world.turn()

    def _last_words(self, run: Run) -> None:
        self._points(run)
        self._next()
        run.set_tag("phase", "the end")
        self.logged.note("tags", 1, "phase", "the end")
        self.world.turn()
        self._points(run)  # stays in the ring unless the process leaves in order
        self._next()
        self.files.begin(run, "later/last.pt")
        self.logged.begun.update({"later/last.pt"} - self.logged.uncaptured)
        if self.in_order:
            self.world.background.copy()
            self._next()
            run.end("FINISHED")
            self.world.leave()
        else:
            self.logged.unfinished = {"later/last.pt"}
            self.world.die()

    def _watch_staging(self, patch: pytest.MonkeyPatch) -> None:
        """Note what the spool could not take: those calls warned, and nothing else is owed for them."""
        for module in (artifacts_module, media_module, runtexts_module):
            patch.setattr(module, "warn", self._note_warning)

    def _note_warning(self, text: str, *arguments: object) -> None:
        if "was not captured" in text or "was not kept" in text:
            self.logged.uncaptured.add(str(arguments[0]))


def paths_of(uncaptured: set[str]) -> set[str]:
    """The ends of the paths in the store at which these would have been."""
    return {f"/artifacts/{name}" for name in uncaptured} | {f"/tags/{name}" for name in uncaptured}
