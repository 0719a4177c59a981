"""Large files copied in the background: one thread, bounded, waited for at exit.

Source: sdk/docs/artifacts.md.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

from trainspool.complaints import warn

WAITING_MAX = 16


class Capture:
    """What an artifact call gives back: whether its content is captured by now. Any thread; means nothing after fork.

    Attributes:
        how: for each file, in order: cloned, copied, moved, linked or written; copied also for one still on its way.
    """

    def __init__(self, how: Iterable[str] = ()) -> None:
        self.how = tuple(how)
        self._open: set[object] = set()  # entered and left in one operation: a signal handler may log artifacts, too
        self._changed = threading.Condition()

    def done(self) -> bool:
        """Whether every file is captured, or has failed and been reported: then the sources may change or go."""
        return not self._open

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until ``done()``, for *timeout* seconds at most; return it. Lateness never raises."""
        with self._changed:
            return self._changed.wait_for(self.done, timeout)

    def __repr__(self) -> str:
        return f"<Capture of {len(self.how)} files, {'done' if self.done() else f'{len(self._open)} on their way'}>"

    def _wait_for_room(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._open) < WAITING_MAX)

    def _one_done(self, job: object) -> None:
        self._open.discard(job)
        with self._changed:
            self._changed.notify_all()


class Captures:
    """The copies that one stream has under way. Not for use after fork: the child has none."""

    def __init__(self) -> None:
        # Not one that is bounded: those lock, and a signal handler within the lock would wait for itself.
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Capture]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._all = Capture()

    def submit(self, copy: Callable[[], None], handle: Capture) -> None:
        """Have *copy* called soon in the background; waits while ``WAITING_MAX`` of them are under way already."""
        self._all._wait_for_room()
        handle._open.add(copy)
        self._all._open.add(copy)
        if not self._runs():
            self._do(copy, handle)
        else:
            self._jobs.put((copy, handle))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until none is under way; whether it is so."""
        return self._all.wait(timeout)

    def _runs(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="trainspool-capture", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # Python >= 3.12, at exit: in the caller's thread then
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            self._do(*self._jobs.get())

    def _do(self, copy: Callable[[], None], handle: Capture) -> None:
        try:
            copy()
        except Exception:  # noqa: BLE001  a defect of ours must not end the thread that others wait for
            warn("an artifact's copy met an error of its own; it is not captured", traceback=True)
        finally:
            handle._one_done(copy)
            self._all._one_done(copy)
