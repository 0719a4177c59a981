"""A user of their own on this host: folders, rings, and so an agent of their own; small verbs to live and die in it.

What the store holds is read here by plain lines, by nobody's code but this file's: one of two judges, the other is
MLflow's client.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainspool_agent import checkpoint
from trainspool_agent.liveness import boot_id

SHARED_MEMORY = Path("/dev/shm")
LONG_WAIT_S = 60.0  # of a condition that is sure to come; a shared machine may take its time
RUNNING, FINISHED, FAILED, KILLED = 1, 3, 4, 5
_OURS = ("TRAINSPOOL_", "XDG_", "MLFLOW_", "SLURM_", "KUBERNETES_", "NOTIFY_SOCKET")


def until(condition: Callable[[], Any], what: str, timeout_s: float = LONG_WAIT_S) -> Any:
    """Wait for *condition* and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.005)
    return found


class Witness:
    """What a script says it did, in memory that outlives it: eight counters, and a line of text.

    In the script: ``words[n] = count`` after a call has returned, ``os.pwrite(fd, text, 2048)`` for the text; *HEAD*
    has both names ready.
    """

    HEAD = """
import mmap, os, sys, time
import trainspool as mlflow
fd = os.open(sys.argv[1], os.O_RDWR)
words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
"""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(4096))
        self._fd = os.open(path, os.O_RDWR)
        self._memory = mmap.mmap(self._fd, 4096)

    def __getitem__(self, number: int) -> int:
        return int.from_bytes(self._memory[8 * number : 8 * number + 8], sys.byteorder)

    def __setitem__(self, number: int, value: int) -> None:
        self._memory[8 * number : 8 * number + 8] = value.to_bytes(8, sys.byteorder)

    @property
    def text(self) -> str:
        return self._memory[2048:].rstrip(b"\0").decode()

    def close(self) -> None:
        self._memory.close()
        os.close(self._fd)


class Stored:
    """One run's folder, read by plain lines; anything that is not whole and exact fails the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run_id = folder, folder.name

    @property
    def meta(self) -> dict[str, str]:
        lines = (self.folder / "meta.yaml").read_text("utf-8").splitlines()
        return {key: value.strip("'\"") for key, _, value in (line.partition(": ") for line in lines)}

    @property
    def status(self) -> int:
        return int(self.meta["status"])

    def points(self, key: str) -> list[tuple[int, str, int]]:
        """Return (ms, value, step) of every line, in the file's order."""
        try:
            data = (self.folder / "metrics" / key).read_bytes()
        except FileNotFoundError:
            return []
        assert data.endswith(b"\n"), (self.run_id, key, data[-80:])
        found = []
        for line in data[:-1].split(b"\n"):
            ms, value, step = line.split(b" ")
            found.append((int(ms), value.decode(), int(step)))
        assert max(Counter(found).values()) == 1, ("duplicate line", self.run_id, key)
        return found

    def texts(self, kind: str) -> dict[str, str]:
        """Return the params or tags."""
        folder = self.folder / kind
        return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}

    def artifacts(self) -> dict[str, bytes]:
        folder = self.folder / "artifacts"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    @property
    def account(self) -> dict[str, int]:
        saved = checkpoint.load(str(self.folder), boot_id())
        assert saved is not None, f"no checkpoint in {self.folder}"
        gaps = saved["gaps"].values()
        return {**saved["counts"], "dropped": sum(g[0] for g in gaps), "dropped_events": sum(g[1] for g in gaps)}

    def check_account(self) -> dict[str, int]:
        """What the account says was stored is what the files hold; return it."""
        account, folder = self.account, self.folder / "metrics"
        keys = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        lines = sum(len(self.points(key)) for key in keys)
        assert account["stored"] == lines, (account, lines)
        assert account["accepted"] == account["stored"] + account["folded"] + account["refused"], account
        return account


class Box:
    """The user. Close it: what it started is ended, its rings are removed."""

    def __init__(self, folder: Path, *, autostart: bool = False) -> None:
        self.folder, self.spool, self.store = folder, folder / "spool", folder / "mlruns"
        self.rings = Path(tempfile.mkdtemp(prefix="trainspool-test-", dir=SHARED_MEMORY))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.environment = {
            **kept,
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "TRAINSPOOL_DIR": str(self.spool),
            "TRAINSPOOL_STORE": str(self.store),
            "TRAINSPOOL_RING_DIR": str(self.rings),
            "TRAINSPOOL_AUTOSTART": "1" if autostart else "0",
            "TRAINSPOOL_EXIT_WAIT": "0",
            "PYTHONFAULTHANDLER": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._numbers = itertools.count(1)

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._end_autostarted_agent()
        shutil.rmtree(self.rings, ignore_errors=True)

    # -- scripts

    def start(self, program: str, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
        """Start *program* as a script; its stderr goes to the file that ``stderr_of`` reads."""
        path = self.folder / f"script{next(self._numbers)}.py"
        path.write_text(program, "utf-8")
        with open(f"{path}.err", "wb") as stderr, open(f"{path}.out", "wb") as stdout:
            process = subprocess.Popen(
                [sys.executable, str(path), *map(str, arguments)],
                env={**self.environment, **environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        self._started.append(process)
        return process

    def run(self, program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run *program* to its end; return its exit status and what it printed."""
        process = self.start(program, *arguments, **environment)
        return self.finish(process)

    @staticmethod
    def output_of(process: subprocess.Popen[bytes]) -> Path:
        """Return the file that has what a script prints."""
        return Path(f"{list(process.args)[1]}.out")  # type: ignore[arg-type]

    def finish(
        self, process: subprocess.Popen[bytes], timeout_s: float = LONG_WAIT_S
    ) -> subprocess.CompletedProcess[str]:
        code = process.wait(timeout_s)
        path = list(process.args)[1]  # type: ignore[arg-type]
        out, err = (Path(f"{path}.{kind}").read_text("utf-8") for kind in ("out", "err"))
        return subprocess.CompletedProcess(process.args, code, out, err)

    def witness(self) -> Witness:
        return Witness(self.folder / f"witness{next(self._numbers)}")

    # -- agents

    def start_agent(self, *options: str, wait: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """Start the agent; *wait*: until it holds its lock."""
        with open(self.folder / "agent.err", "ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainspool_agent", "daemon", *options],
                env={**self._agents_environment(), **environment},
                cwd=self.folder,
                stdout=stderr,
                stderr=stderr,
            )
        self._started.append(process)
        if wait:
            until(lambda: self.agent_pid() == process.pid, f"agent up: {self.agent_log()[-2000:]}")
        return process

    def agent_pid(self) -> int | None:
        """The pid in the lock file, if that process is there."""
        with contextlib.suppress(OSError, ValueError):
            pid = json.loads((self.rings / "agent.lock").read_text() or "{}").get("pid")
            if pid and b"trainspool_agent" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        return None

    def agent_log(self) -> str:
        paths = [self.folder / "agent.err", self.folder / "state/trainspool/agent.log"]
        return "".join(path.read_text("utf-8", "replace") for path in paths if path.exists())

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End an agent in order."""
        process.terminate()
        assert process.wait(LONG_WAIT_S) == 0, self.agent_log()[-3000:]

    def sync(self, *arguments: object, **environment: str) -> str:
        """Carry over what is there; return what was said."""
        done = subprocess.run(
            [sys.executable, "-m", "trainspool_agent", "sync", *map(str, arguments)],
            env={**self._agents_environment(), **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=2 * LONG_WAIT_S,
            check=False,
        )
        assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-3000:])
        return done.stdout + done.stderr

    def _agents_environment(self) -> dict[str, str]:
        """An agent carries to the stores that the streams name; told of one, it would have a place for all others."""
        return {name: value for name, value in self.environment.items() if name != "TRAINSPOOL_STORE"}

    def _end_autostarted_agent(self) -> None:
        pid = self.agent_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                until(lambda: not os.path.exists(f"/proc/{pid}"), "agent gone", 10)

    # -- what is there

    def stored(self) -> dict[str, Stored]:
        """Return the runs of the store, by id."""
        return {path.parent.name: Stored(path.parent) for path in self.store.glob("[0-9]*/*/meta.yaml")}

    def stored_run(self, run_id: str) -> Stored | None:
        return next((Stored(path.parent) for path in self.store.glob(f"[0-9]*/{run_id}/meta.yaml")), None)

    def status_of(self, run_id: str) -> int | None:
        run = self.stored_run(run_id)
        return run.status if run else None

    def streams(self) -> list[Path]:
        return sorted(self.spool.glob("streams/*/*"))

    def is_quiet(self) -> bool:
        """Whether every stream is carried to its end and settled."""
        from trainspool_agent import cursor

        return not list(self.rings.glob("*.ring")) and all(cursor.load(path).finished for path in self.streams())


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Box, Box]]:
    """Two boxes with rings and an agent of their own, on one spool and one store."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    with Box(folder / "a") as one, Box(folder / "b") as other:
        other.spool, other.store = one.spool, one.store
        for name, box in (("host-a", one), ("host-b", other)):
            box.environment |= {
                "TRAINSPOOL_HOST": name,
                "TRAINSPOOL_DIR": str(one.spool),
                "TRAINSPOOL_STORE": str(one.store),
            }
        yield one, other


def zombies() -> Iterator[str]:
    """The zombies among this process's descendants."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                yield path.parent.name
