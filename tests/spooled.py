"""Small verbs for tests of the logging side: a place of its own, a script in it, and what its stream holds after.

What a stream holds is read by the spool's own reader, and by `read_ring` where the process is gone: segments first,
then the rest of the ring.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import events, ringfile
from trainspool.spool.items import Damage, Frame, Opened
from trainspool.spool.reader import StreamReader

ROOT = Path(__file__).parents[1]
SDK = ROOT / "sdk"


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what *condition* returns as soon as that is true.

    Raises:
        AssertionError: it was not true within *seconds*.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.002)


class Held:
    """What one stream holds: its events in order, with the names behind the ids."""

    def __init__(self, name: str, folder: Path | None, ring: Path | None) -> None:
        self.name, self.folder, self.ring = name, folder, ring
        self.identity: dict[str, Any] = {}
        self.events: list[list[Any]] = []
        self.damage: list[Damage] = []
        self.in_order = False
        self.drops: dict[str, tuple[int, int]] = {}
        self.counts: tuple[int, int] | None = (0, 0)
        self._keys: dict[int, str] = {}
        self._keysets: dict[int, list[int]] = {}
        self._runs: dict[int, str] = {}
        self.owned: set[str] = set()
        offset = self._read_segments(folder) if folder else 0
        if ring:
            self._read_ring(ring, offset)

    def _read_segments(self, folder: Path) -> int:
        reader = StreamReader(folder, bytes.fromhex(self.name), writer_alive=lambda: False)
        while items := reader.read():
            for item in items:
                if isinstance(item, Damage):
                    self.damage.append(item)
                elif isinstance(item, Opened):
                    self.identity = item.identity
                    self._take(item.dictionary, definitions=True)
                elif isinstance(item, Frame):
                    self._take(item.definitions, definitions=True)
                    self._take(item.events)
        self.in_order, self.counts = reader.in_order, reader.counts
        reader.close()
        return reader.offset

    def _read_ring(self, path: Path, offset: int) -> None:
        with ringfile.read_ring(path) as ring:
            self.drops = ring.drops
            self.identity = self.identity or ring.identity
            self._take(b"".join(ring.committed(max(ring.head, offset))))

    def _take(self, data: bytes, *, definitions: bool = False) -> None:
        for event in events.decode(data):
            kind = event[0]
            if kind == events.DEFINE_KEY:
                self._keys[event[1]] = event[2]
            elif kind == events.DEFINE_KEYSET:
                self._keysets[event[1]] = event[2]
            elif kind == events.DEFINE_RUN:
                self._runs[event[1]] = event[2]
                if event[3]:
                    self.owned.add(event[2])
            elif not definitions:
                self.events.append(self._resolved(event))

    def _resolved(self, event: list[Any]) -> list[Any]:
        kind = event[0]
        if kind in (events.EPITAPH, events.EXPERIMENT):
            return event
        run = self._runs[event[1]]
        if kind == events.POINT:
            return [kind, run, self._keys[event[2]], *event[3:]]
        if kind == events.POINTS:
            ids = event[2] if isinstance(event[2], list) else self._keysets[event[2]]
            keys = [self._keys[number] for number in ids]
            return [kind, run, keys, event[3], event[4], list(events.doubles(len(keys)).unpack(event[5]))]
        return [kind, run, *event[2:]]

    # -- what tests ask ------------------------------------------------------------------------------------------

    def of(self, kind: int) -> list[list[Any]]:
        return [event for event in self.events if event[0] == kind]

    @property
    def points(self) -> list[tuple[str, str, int, float]]:
        """Every metric point in order: run, key, step, value."""
        found: list[tuple[str, str, int, float]] = []
        for event in self.events:
            if event[0] == events.POINT:
                found.append((event[1], event[2], event[4], event[5]))
            elif event[0] == events.POINTS:
                found += [(event[1], key, event[4], value) for key, value in zip(event[2], event[5], strict=True)]
        return found

    def steps(self, key: str) -> list[int]:
        """The steps logged under *key*, in the order of the stream."""
        return [step for _, name, step, _ in self.points if name == key]

    @property
    def params(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for event in self.of(events.PARAMS):
            for key, value in zip(event[3][::2], event[3][1::2], strict=True):
                found.setdefault(key, value)
        return found

    @property
    def tags(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for event in self.events:
            if event[0] == events.START:
                found.update(event[3]["tags"])
            elif event[0] == events.TAGS:
                found.update(zip(event[3][::2], event[3][1::2], strict=True))
            elif event[0] == events.STAGED_TAG:
                assert self.folder is not None
                found[event[3]] = (self.folder / "staging" / event[4]).read_text(errors="surrogateescape")
        return found

    @property
    def ends(self) -> list[tuple[str, int, str | None]]:
        """Every end of a run in order: run, status, reason."""
        return [(event[1], event[3], event[4]) for event in self.of(events.END)]

    @property
    def artifacts(self) -> dict[str, bytes]:
        assert self.folder is not None
        return {event[3]: (self.folder / "staging" / event[4]).read_bytes() for event in self.of(events.ARTIFACT)}


Seen = Callable[[], Held]
"""What the stream holds now."""


class Place:
    """Folders of one test: spool, store, state, and a ring folder in shared memory."""

    def __init__(self, folder: Path, rings: Path) -> None:
        self.folder, self.rings = folder, rings
        self.spool, self.store = folder / "spool", folder / "mlruns"
        self.children: list[subprocess.Popen[str]] = []

    @property
    def variables(self) -> dict[str, str]:
        return {
            "TRAINSPOOL_DIR": str(self.spool),
            "TRAINSPOOL_STORE": str(self.store),
            "TRAINSPOOL_RING_DIR": str(self.rings),
            "TRAINSPOOL_AUTOSTART": "0",
            "TRAINSPOOL_EXIT_WAIT": "0",
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("TRAINSPOOL_", "MLFLOW_"))}
        inherited.pop("PYTHONPATH", None)
        return {**inherited, **self.variables, **more}

    def start(
        self, program: str, *arguments: object, python: str = sys.executable, **more: str
    ) -> subprocess.Popen[str]:
        """Start *program*, Python text, in this place; *more* is environment."""
        path = self.folder / f"script{len(self.children)}.py"
        path.write_text(textwrap.dedent(program))
        if python != sys.executable:
            more = {"PYTHONPATH": str(bare_path()), **more}
        child = subprocess.Popen(
            [python, str(path), *map(str, arguments)],
            env=self.environment(**more), cwd=self.folder, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.children.append(child)
        return child

    def run(self, program: str, *arguments: object, status: int = 0, timeout: float = 60, **more: str) -> Done:
        """Run *program* to its end, which is *status*."""
        child = self.start(program, *arguments, **more)
        out, err = child.communicate(timeout=timeout)
        assert child.returncode == status, f"exit status {child.returncode}\n{out}\n{err}"
        return Done(out, err)

    def journal(self, words: int = 64) -> Journal:
        return Journal(self.folder / f"journal{os.urandom(4).hex()}", words)

    def streams(self) -> list[Held]:
        """Every stream of this place, by its process's start."""
        folders = {path.name: path for path in self.spool.glob("streams/*/*")}
        rings = {path.stem: path for path in self.rings.glob("*.ring")}
        held = [Held(name, folders.get(name), rings.get(name)) for name in folders.keys() | rings.keys()]
        return sorted(held, key=lambda stream: stream.identity.get("mono", 0))

    def stream(self) -> Held:
        """The one stream of this place."""
        (held,) = self.streams()
        return held

    def clean_up(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        shutil.rmtree(self.rings, ignore_errors=True)


class Journal:
    """What a script says it did: counters in memory that outlives it, each stored after the call it counts returned.

    In the script: ``journal[n] = count``, with *HEAD* in front.
    """

    HEAD = """
import mmap, os, sys, time
import trainspool as mlflow
journal = memoryview(mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)).cast("Q")
"""

    def __init__(self, path: Path, words: int) -> None:
        self.path = path
        path.write_bytes(bytes(8 * words))

    def __str__(self) -> str:
        return str(self.path)

    def __getitem__(self, at: int) -> int:
        return int.from_bytes(self.path.read_bytes()[8 * at : 8 * at + 8], sys.byteorder)


class Done:
    """What a script printed."""

    def __init__(self, out: str, err: str) -> None:
        self.out, self.err = out, err

    @property
    def warnings(self) -> list[str]:
        return self.err.splitlines()


def make_place(folder: Path) -> Place:
    rings = Path("/dev/shm") / f"trainspool-test-{os.getpid()}-{os.urandom(6).hex()}"
    rings.mkdir(mode=0o700)
    return Place(folder, rings)


def other_python(version: str) -> str:
    """Return the interpreter of *version*, or skip the test: it is a check of that version alone."""
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version == running:
        return sys.executable
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for candidate in (*map(str, pyenv), shutil.which(f"python{version}")):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"no Python {version} on this machine")


@functools.lru_cache(maxsize=1)
def bare_path() -> Path:
    """Return a folder for PYTHONPATH with trainspool and msgpack; any Python runs msgpack's own fallback in Python."""
    import tempfile

    import msgpack

    folder = Path(tempfile.mkdtemp(prefix="trainspool-bare-"))
    (folder / "trainspool").symlink_to(SDK / "trainspool")
    (folder / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    return folder


def kill(child: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait until it is gone."""
    child.send_signal(signal.SIGKILL)
    child.wait(20)


def split_by_source(steps: list[int], sources: int) -> Iterator[list[int]]:
    """Yield the steps of each source, where source s logs s, s + sources, s + 2·sources, ..."""
    for source in range(sources):
        yield [step // sources for step in steps if step % sources == source]


def shown(value: object) -> str:
    """Return a value's repr as a test's id: the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
