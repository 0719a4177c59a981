"""Training processes: the SDK's own streams, rings, pumps and runs, whose pump turns when the schedule says."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from crash.simulation.model import FAILED, FINISHED, KILLED, Said, StreamModel
from crash.simulation.world import Host, World

from trainspool import artifacts, runevents, runtexts, settings
from trainspool import run as points
from trainspool.entities import Experiment
from trainspool.run import Run
from trainspool.spool.experiments import experiment_id_for
from trainspool.spool.layout import segments, stream_folder
from trainspool.spool.reader import StreamReader
from trainspool.stream import Stream

LOGGING = (points, runevents, runtexts, artifacts)  # the modules that know this process's stream
KEYS = ("loss", "acc", "acc/train", "val/acc", "val", "lr", "a/b/c")
TAG_KEYS = ("stage", "note", "a", "a/b", "host")
PARAM_KEYS = ("lr", "depth", "p/q")
ODD_VALUES = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.7976931348623157e308, 1e-300)
NAMES = {FINISHED: "FINISHED", FAILED: "FAILED", KILLED: "KILLED"}


class _Stream(Stream):
    """A stream without a thread of its own."""

    def _start_pump(self) -> None:
        assert self.pump is not None
        self.pump.started = True


class Writer:
    """One process that logs; ``model`` is what it said."""

    def __init__(self, world: World, host: Host) -> None:
        self.world, self.host, self.pid = world, host, world.new_pid(host)
        self.stream = _Stream()
        self.stream.settings = settings.load(
            {"TRAINSPOOL_DIR": str(world.spool), "TRAINSPOOL_AUTOSTART": "0", "TRAINSPOOL_RING_BYTES": "1"}
        )
        with self._running():
            self.stream.ensure()
        self.model = StreamModel(self.stream.id.hex())
        self.runs: list[Run] = []
        self._owed: deque[Said] = deque()
        self.replayed = 0  # how much of it a replay took, out of the ring, too

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        before = points.stream
        for module in LOGGING:
            module.stream = self.stream
        try:
            with self.world.within(self.host, self.pid):
                yield
        finally:
            for module in LOGGING:
                module.stream = before

    @property
    def alive(self) -> bool:
        return self.model.ended is None

    # -- saying something

    def _say(self, kind: str, run: Run, what: Any, call: Callable[[], Any], points: int = 0, time: int = 0) -> None:
        """Make the *call*; enter into the model what became of it."""
        with self._running():
            before, owed = self.stream.ring.dropped(run.run_id), len(self.stream.owed)
            call()
            after = self.stream.ring.dropped(run.run_id)
            # What is set once the run has begun is not earlier, though its clock may say so.
            begun = run.start_time * 1_000_000 if kind in ("params", "tags", "end") else 0
            said = Said(kind, run.run_id, time or max(self.world.wall_ns, begun), self.stream.ring.end, what)
            if len(self.stream.owed) > owed:
                self._owed.append(said)
            elif after == before:
                self.model.said.append(said)
            else:
                assert (after[0] - before[0], after[1] - before[1]) == (points, 1), (before, after, kind)
                counts = self.model.dropped.setdefault(run.run_id, [0, 0])
                counts[0], counts[1] = counts[0] + points, counts[1] + 1

    def start_run(self, run_id: str, rng: Random, *, owner: bool = True) -> None:
        name = f"exp{int(run_id[0], 16) % 2}"
        experiment = Experiment(experiment_id_for(name), name, "")
        with self._running():
            run = Run(run_id, experiment, str(self.world.store), name=f"run {run_id[:4]}", user="me", owner=owner)
        self.runs.append(run)
        if owner:
            tags = {"stage": f"s{rng.randrange(5)}", "mlflow.runName": f"n{rng.randrange(3)}"}
            about = {**tags, "mlflow.runName": run.name}  # the name given counts
            self._say("start", run, about, lambda: run.start(tags, resume=False), time=run.start_time * 1_000_000)

    def end_run(self, run: Run, status: int) -> None:
        if run.owner and run._end is None:
            self._say("end", run, status, lambda: run.end(NAMES[status], "why" if status == FAILED else None))

    def log(self, rng: Random, count: int) -> None:
        """Make *count* calls of all kinds."""
        for _ in range(count):
            if not self.runs:
                return
            self.world.pass_time(rng.choice((0, 0, 0.0005, 0.001, 0.02)))
            rng.choice((self._metric, self._metric, self._metrics, self._metrics, self._param, self._tag, self._rare))(
                rng, rng.choice(self.runs)
            )

    def _when(self, rng: Random) -> int | None:
        """A timestamp in ms, now and then: the past, or one that others use too."""
        now = self.world.wall_ns // 1_000_000
        return rng.choice((None, None, None, now, now - rng.randrange(3), now - rng.randrange(100_000)))

    def _value(self, rng: Random) -> float:
        return rng.choice(ODD_VALUES) if rng.random() < 0.2 else rng.choice((rng.random(), float(rng.randrange(3))))

    def _metric(self, rng: Random, run: Run) -> None:
        key, value, step, when = rng.choice(KEYS), self._value(rng), rng.randrange(-2, 6), self._when(rng)
        time = (when or 0) * 1_000_000
        self._say("points", run, (step, {key: value}), lambda: run.log_metric(key, value, step, when), 1, time)

    def _metrics(self, rng: Random, run: Run) -> None:
        keys = rng.sample(KEYS, rng.randrange(1, 5))
        values, step, when = {key: self._value(rng) for key in keys}, rng.choice((0, 1, 1 << 40)), self._when(rng)
        time = (when or 0) * 1_000_000
        self._say("points", run, (step, values), lambda: run.log_metrics(values, step, when), len(keys), time)

    def _param(self, rng: Random, run: Run) -> None:
        params = {key: f"v{rng.randrange(4)}" for key in rng.sample(PARAM_KEYS, rng.randrange(1, 3))}
        self._say("params", run, params, lambda: run.log_params(params))

    def _tag(self, rng: Random, run: Run) -> None:
        key = rng.choice(TAG_KEYS)
        if key in run.tags and rng.random() < 0.3:
            self._say("tags", run, {key: None}, lambda: run.delete_tag(key))
            return
        value = f"t{rng.randrange(6)}"
        self._say("tags", run, {key: value}, lambda: run.set_tag(key, value))

    def _rare(self, rng: Random, run: Run) -> None:
        if rng.random() < 0.3:
            value = "x" * 40_000 + str(rng.randrange(3))  # too large for the ring: staged
            self._say("tags", run, {"large": value}, lambda: run.set_tag("large", value))
            return
        path, text = rng.choice(("model.txt", "dir/b.txt", "dir/c.txt")), f"content {rng.randrange(1000)}"
        how = rng.choice(("text", "copy", "move"))
        self._say("artifact", run, {path: text.encode()}, lambda: self._log_file(run, path, text, how))

    def _log_file(self, run: Run, path: str, text: str, how: str) -> None:
        if how == "text":
            run.log_text(text, path)
            return
        folder, _, name = path.rpartition("/")
        source = self.world.spool.parent / "work" / os.urandom(8).hex() / name
        source.parent.mkdir(parents=True)
        source.write_text(text)
        run.log_artifact(source, folder or None, move=how == "move")
        assert source.exists() != (how == "move")
        if how == "copy":
            source.write_text("overwritten at once")

    def fill_ring(self, rng: Random) -> None:
        """Log until the ring is full, and a little more."""
        if not self.runs:
            return
        run, dropped = rng.choice(self.runs), sum(events for _, events in self.model.dropped.values())
        for number in range(40):
            value = f"{number}" + "y" * 20_000
            self._say("tags", run, {"note": value}, lambda value=value: run.set_tag("note", value))
            if sum(events for _, events in self.model.dropped.values()) > dropped:
                break
        self.log(rng, 5)

    # -- the pump

    def turn(self) -> None:
        """One turn of the pump; events that were owed, and what it says of drops, go into the model."""
        stream, pump = self.stream, self.stream.pump
        assert pump is not None
        with self._running():
            owed, ring_end, with_drops = len(stream.owed), stream.ring.end, bool(stream.with_drops)
            pump.turn()
            for _ in range(owed - len(stream.owed)):
                said = self._owed.popleft()
                said.end = stream.ring.end
                self.model.said.append(said)
            if with_drops and stream.ring.end > ring_end and not stream.with_drops and self.model.said:
                run = self.model.said[-1].run
                self.model.said.append(Said("gap", run, self.world.wall_ns, stream.ring.end))

    def roll(self) -> None:
        assert self.stream.pump is not None
        self.stream.pump._opened_at = -math.inf
        self.turn()

    @property
    def pumped(self) -> int:
        assert self.stream.pump is not None
        return self.stream.pump._position.offset

    # -- its end

    def kill(self) -> None:
        self._let_go()
        self.model.die(KILLED)

    def lose_ring(self, spool: Path) -> None:
        """The machine goes down: what was in memory alone is nowhere."""
        reader = StreamReader(stream_folder(spool, self.host.name, self.model.name), self.stream.id, writer_alive=bool)
        while reader.read():
            pass
        reader.close()
        self._let_go()
        # An agent may have been about to drain it: with its last words written, nothing is unknown.
        drained = _has_last_words(reader.folder)
        self.model.die(self.model.ended or KILLED, max(reader.offset, self.replayed), unknown=not drained)

    def leave(self, rng: Random) -> None:
        """End in order, its runs too, or not."""
        for run in self.runs:
            if rng.random() < 0.7:
                self.end_run(run, rng.choice((FINISHED, FINISHED, FAILED)))
        for _ in range(5):
            self.turn()
        with self._running():
            assert self.stream.finish(1.0)
        self._let_go()
        self.model.die(FINISHED)

    def _let_go(self) -> None:
        """What the kernel does for a process that is gone."""
        self.world.gone(self.pid)
        pump, ring = self.stream.pump, self.stream.ring
        assert pump is not None
        fds = {pump._lock_fd, *(writer.fd for writer in (pump._writer, pump._unfinished) if writer)}
        for fd in fds - {-1}:
            with contextlib.suppress(OSError):
                os.close(fd)
        pump._lock_fd, pump._writer = -1, None
        del ring


def ring_files(host: Host) -> list[Path]:
    return list(host.rings.glob("*.ring"))


def _has_last_words(folder: Path) -> bool:
    names = segments(folder)
    return bool(names) and b" on host " in (folder / str(names[-1])).read_bytes()
