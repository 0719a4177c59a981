"""Who carries a run: one agent at a time, said by a small file in the run's folder.

The holder counts up in the file. Whoever wants the run leaves a wish beside it; who holds it then makes it durable
and lets go. A holder whose process is gone, or whose count stands still for LEASE_S of the watcher's own monotonic
clock, has lost it; one that was stopped for that long finds so before it writes again.

Source: design.md §2.4; agent/docs/agent.md, "One run, several agents".
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from trainspool.spool import layout
from trainspool_agent import files
from trainspool_agent.liveness import Process, boot_id, pid_namespace, process_of
from trainspool_agent.store.errors import RunHeld
from trainspool_agent.store.files import publish, remove
from trainspool_agent.store.layout import WORK

FILE, WISH = "trainspool.lease", "trainspool.lease.wanted"
LEASE_S = 30.0  # a count that stands still for so long is nobody's
REFRESH_S = 5.0
TRUST_S = 15.0  # who has not counted for so long looks whether it still holds the run
HOLD_S = 1.0  # nobody is asked to let go earlier; and between two looks for a wish
YIELD_S = 3.0  # whoever let go on request leaves the run to the one that asked for so long

Holder = dict[str, Any]


@dataclass
class _Held:
    folder: str
    looked_at: float  # for a wish; at first, when it was taken
    counted_at: float
    count: int
    asked: bool = False


def this_process() -> Holder:
    """Return who we are, so that others on this machine can tell whether we still run."""
    with open("/proc/self/stat", "rb") as file:
        text = file.read()
    started = int(text[text.rindex(b")") + 2 :].split()[19])
    where = {"host": layout.host_name(), "boot": boot_id(), "pidns": pid_namespace()}
    return {**where, "pid": os.getpid(), "started": started}


class Leases:
    """The runs that one store of one agent carries. For one event loop.

    Args:
        holder: who we are, ``this_process()`` if not given.
        is_gone: whether a holder's process is known not to run any more.
        asks: whether to ask a holder on that host to let go; by default every one. A lease that lapses is taken anyway.
    """

    def __init__(
        self,
        holder: Holder | None = None,
        is_gone: Callable[[Holder], bool] | None = None,
        asks: Callable[[str], bool] = lambda host: True,
    ) -> None:
        self._me = holder or this_process()
        self._me_text = json.dumps(self._me).encode()
        self._is_gone = is_gone or (lambda other: process_of(other) is Process.GONE)
        self._asks = asks
        # No number twice: a run let go of and taken again would look to another as if it had stood still all the while.
        self._counts = itertools.count()
        self._held: dict[str, _Held] = {}
        self._seen: dict[str, tuple[Any, float]] = {}  # another's lease as it was, and since when
        self._yielded: dict[str, float] = {}

    def has(self, run_id: str) -> bool:
        """Whether we carry the run, for sure."""
        held = self._held.get(run_id)
        return held is not None and (self.surely_has(run_id) or self._count(run_id, held))

    def had(self, run_id: str) -> bool:
        """Whether we carried the run when we last looked."""
        return run_id in self._held

    def surely_has(self, run_id: str) -> bool:
        """Whether we carry the run and counted not long ago: no look at the disk, so from any thread."""
        held = self._held.get(run_id)
        return held is not None and time.monotonic() - held.counted_at < TRUST_S

    def is_asked(self, run_id: str) -> bool:
        """Whether another agent waits for the run: nothing more is to be begun with it."""
        held = self._held.get(run_id)
        return held is not None and held.asked

    @property
    def asked(self) -> list[str]:
        return [run_id for run_id, held in self._held.items() if held.asked]

    def take(self, run_id: str, folder: str, *, wish: bool = True) -> None:
        """Be the one that carries the run in *folder*.

        Raises:
            RunHeld: another agent is; with *wish* it will know that we wait.
            OSError: the folder cannot be written.
        """
        if self.has(run_id):
            return
        if self._leaves_it_to_another(run_id, folder):
            raise RunHeld(run_id, "another agent that asked for it")
        before, _ = self._seen.get(run_id, (None, 0.0))
        with _alone(folder) as alone:
            lease = _read(f"{folder}/{FILE}")
            if alone and self._is_free(run_id, lease):
                now, count = time.monotonic(), next(self._counts)
                self._write(folder, count)
                self._held[run_id] = _Held(folder, now, now, count)
                self._seen.pop(run_id, None)
                if (_read(f"{folder}/{WISH}") or {}).get("holder") == self._me:
                    remove(f"{folder}/{WISH}")
                return
        other = (lease or {}).get("holder") or {}
        host = str(other.get("host"))
        if wish and self._asks(host):
            self._wish(folder)
        counts = before is not None and before != lease and before.get("holder") == other
        raise RunHeld(run_id, f"the agent with pid {other.get('pid')} on host {host}", host if counts else None)

    def release(self, run_id: str) -> None:
        """Let go of a run; whatever we know of it must be in its checkpoint. Raises OSError: it lapses by itself."""
        held = self._held.pop(run_id, None)
        if held is None:
            return
        if held.asked:
            self._yielded[run_id] = time.monotonic()
        with contextlib.suppress(FileNotFoundError), _alone(held.folder):
            if (_read(f"{held.folder}/{FILE}") or {}).get("holder") == self._me:
                remove(f"{held.folder}/{FILE}")

    def release_all(self) -> None:
        for run_id in list(self._held):
            with contextlib.suppress(OSError):
                self.release(run_id)

    def refresh(self) -> list[str]:
        """Count up where it is time, and notice wishes; return the runs that were taken from us."""
        now, lost = time.monotonic(), []
        for run_id, held in list(self._held.items()):
            if now - held.counted_at >= REFRESH_S and not self._count(run_id, held):
                lost.append(run_id)
            elif not held.asked and now - held.looked_at >= HOLD_S:
                held.asked, held.looked_at = _is_wished_by_another(held.folder, self._me), now
        return lost

    # -- one lease

    def _count(self, run_id: str, held: _Held) -> bool:
        """Count up; False if the run is another's by now."""
        try:
            with _alone(held.folder) as alone:
                if not alone:  # someone looks at it this instant
                    return time.monotonic() - held.counted_at < LEASE_S
                now = time.monotonic()
                if self._count_up(held):
                    held.counted_at = now
                    return True
        except FileNotFoundError:
            pass  # the folder was moved or removed: whoever writes next takes it anew
        except OSError:
            # A disk that takes nothing has given the run to nobody, and what we know is ahead of its checkpoint.
            return time.monotonic() - held.counted_at < LEASE_S
        self._held.pop(run_id, None)
        return False

    def _count_up(self, held: _Held) -> bool:
        """Write the next count if the lease is ours. In place: hundreds of runs are counted every few seconds."""
        path, count = f"{held.folder}/{FILE}", next(self._counts)
        if not files.fs.overwrite(path, self._text(held.count), self._text(count)):
            if (_read(path) or {}).get("holder") != self._me:
                return False
            self._write(held.folder, count)
        held.count = count
        return True

    def _is_free(self, run_id: str, lease: dict[str, Any] | None) -> bool:
        if lease is None or lease.get("holder") == self._me or self._is_gone(lease.get("holder") or {}):
            return True
        now = time.monotonic()
        known, since = self._seen.get(run_id, (None, now))
        if known != lease:
            self._seen[run_id] = lease, now
            return False
        return now - since >= LEASE_S

    def _leaves_it_to_another(self, run_id: str, folder: str) -> bool:
        yielded_at = self._yielded.get(run_id)
        if yielded_at is None:
            return False
        if time.monotonic() - yielded_at < YIELD_S and _is_wished_by_another(folder, self._me):
            return True
        del self._yielded[run_id]
        return False

    def _wish(self, folder: str) -> None:
        if _read(f"{folder}/{WISH}") is None:
            publish(f"{folder}/{WISH}", json.dumps({"holder": self._me}).encode(), _work(folder))

    def _write(self, folder: str, count: int) -> None:
        publish(f"{folder}/{FILE}", self._text(count), _work(folder))

    def _text(self, count: int) -> bytes:
        """The lease's content; as long for every count."""
        return b'{"holder": %b, "count": %-15d}' % (self._me_text, count)


def is_of_another_host(folder: str) -> bool:
    """Whether the run in *folder* was last taken by an agent of another machine, which has not let go of it."""
    host = ((_read(f"{folder}/{FILE}") or {}).get("holder") or {}).get("host")
    return host is not None and host != layout.host_name()


def _work(folder: str) -> str:
    return f"{os.path.dirname(folder)}/{WORK}"


def _is_wished_by_another(folder: str, me: Holder) -> bool:
    path = f"{folder}/{WISH}"
    if not os.path.lexists(path):  # looked for at every run, again and again: a third of what opening it would take
        return False
    wish = _read(path)
    return wish is not None and wish.get("holder") != me


def _read(path: str) -> dict[str, Any] | None:
    """Return what a lease says; {} if that is nothing sound, None if there is none."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(4096))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[bool]:
    """Keep other agents from looking and deciding at once; False if one just does. Without locks: nobody is kept."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        alone = True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            pass
        yield alone
    finally:
        os.close(fd)
