"""A command as a tracked run. A user of the SDK, not a part of the agent: it logs through the public `Run`.

The command must not notice: its streams are ours, untouched; signals reach it; its status is ours. Whatever breaks on
our side, it runs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainspool_agent.look import account, findrun
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.spool import ENDED

EXIT_WAIT_S = 10.0
LOOK_S, LOOK_S_MAX = 0.1, 0.5
TAG_CHARACTERS_MAX = 5000
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_JOB_CONTROL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # and by nobody who starts a command
_CLOCK_SLACK_NS = 10**9
_SAID = {"stored": "stored", "waiting": "on their way", "refused": "refused"}
_FROM_THE_TERMINAL = 0x80  # si_code SI_KERNEL: the terminal signals its whole foreground group, the command too


class Wish(NamedTuple):
    """What the run is to be; None where the environment or the SDK decides."""

    experiment: str | None = None
    name: str | None = None
    tags: Mapping[str, str] = {}


class CannotStart(Exception):
    """The command cannot be executed; ``status`` is what a shell would return."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def run(command: tuple[str, ...], wish: Wish, complain: Callable[[str], None]) -> int:
    """Run *command* as a tracked run and return the status to exit with.

    Args:
        complain: takes one line for stderr.

    Raises:
        CannotStart: nothing was executed; the run, if there is one, has failed.
        TrainspoolException: *wish* asks for what cannot be; nothing was executed.
    """
    environment = dict(os.environ)
    tracked = _start(command, wish, complain)
    if tracked is not None:
        environment.update(tracked.handed_down())
    try:
        code = os.waitstatus_to_exitcode(_execute(command, environment))
    except OSError as error:
        if tracked is not None:
            tracked.end("FAILED", str(error), complain)
        raise CannotStart(error) from error
    if tracked is not None:
        tracked.end(*_outcome(code), complain)
    return 128 - code if code < 0 else code


def _outcome(code: int) -> tuple[str, str | None]:
    if code < 0:
        return "KILLED", f"killed by signal {-code} ({signal.Signals(-code).name})"
    return ("FAILED", f"exit status {code}") if code else ("FINISHED", None)


# -- the run --------------------------------------------------------------------------------------------------------


def _start(command: Sequence[str], wish: Wish, complain: Callable[[str], None]) -> _Tracked | None:
    """Start the run; None where our side is broken or switched off."""
    from trainspool.errors import TrainspoolException

    try:
        return _Tracked.started(command, wish)
    except TrainspoolException:
        raise
    except Exception as error:  # noqa: BLE001  the command runs, whatever is wrong with us
        complain(f"not tracked: {type(error).__name__}: {error}. Next: trainspool doctor")
        return None


class _Tracked:
    """The command's run, owned by this process's stream."""

    def __init__(self, run: Any, spool: Path, wait_s: float) -> None:
        self.run, self.spool, self.wait_s = run, spool, wait_s
        self._begun_ns = time.time_ns()

    @classmethod
    def started(cls, command: Sequence[str], wish: Wish) -> _Tracked | None:
        import trainspool
        from trainspool import settings

        for variable in settings.OF_MLFLOW:
            os.environ.pop(variable, None)  # they are for MLflow in the command, which gets them; ours say what we do
        told = settings.load()
        if told.disabled:
            return None
        said = "TRAINSPOOL_EXIT_WAIT" in os.environ or "exit_wait" in settings.read_config(os.environ)
        os.environ["TRAINSPOOL_EXIT_WAIT"] = "0"  # we wait, for the command's streams too; the SDK need not again
        sys.argv = [Path(command[0]).name, *command[1:]]  # the program that is running, as far as anyone asks
        tags = {**_about(command), **wish.tags}
        if told.run_id:
            if wish.experiment:
                trainspool.set_experiment(wish.experiment)
            run = trainspool.start_run(told.run_id, run_name=wish.name, tags=tags)
        else:
            run = trainspool.new_run(wish.experiment, run_name=wish.name, tags=tags)
        return cls(run, told.spool, told.exit_wait_s if said else EXIT_WAIT_S)

    def handed_down(self) -> dict[str, str]:
        """Return what makes ``start_run()`` in the command, at any depth, resume this run."""
        return {
            "TRAINSPOOL_RUN_ID": self.run.run_id,
            "TRAINSPOOL_EXPERIMENT": self.run.told_experiment.name,
            "TRAINSPOOL_STORE": self.run.store,
            "TRAINSPOOL_DIR": str(self.spool),
        }

    def end(self, status: str, reason: str | None, complain: Callable[[str], None]) -> None:
        """End the run, wait for the store, and say where the run is. Never raises."""
        from trainspool import active

        try:
            active.end(self.run, status, reason)
            complain(self._where_it_is())
        except KeyboardInterrupt:
            complain(f"run {self.run.told_name} is {status}; no longer waiting for the store. {self._next}")
        except Exception as error:  # noqa: BLE001  the command's own status is all that matters now
            what = f"{type(error).__name__}: {error}"
            complain(f"run {self.run.told_name} is {status}, but: {what}. Next: trainspool doctor")

    def _where_it_is(self) -> str:
        facts = self._when_complete()
        counts, left = facts["account"], facts["waiting"]["points"] + facts["waiting"]["events"]
        points = f"{counts['accepted']:,} points accepted, {counts['stored']:,} stored, {counts['dropped']:,} dropped"
        points += _artifacts(facts["artifacts"])
        if account.is_complete(facts):
            return f"run {self.run.told_name} {facts['status']}: {points}. It is in {facts['path']}"
        where = f"on its way to {self.run.store}" if facts["in_store"] else f"in the spool, for {self.run.store}"
        late = f" ({left:,} events wait)" if left else ""
        return f"run {self.run.told_name}: {points}. It is {where}{late}. {self._next}"

    def _when_complete(self) -> dict[str, Any]:
        """Return the run's facts once the store has all of it; after ``wait_s``, or without an agent, as they are."""
        from trainspool import autostart, settings

        self.run.flush(timeout=1.0)
        comes = autostart.is_running() or (settings.load().autostart and autostart.is_installed())
        deadline, pause_s = time.monotonic() + (self.wait_s if comes else 0.0), LOOK_S
        while True:
            facts = self._facts()
            if account.is_complete(facts) or time.monotonic() >= deadline:
                return facts
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_S_MAX)

    def _facts(self) -> dict[str, Any]:
        """Return the run's account; streams that were over before it began are none of its."""
        streams = [
            seen
            for seen in inspect_spool.seen_streams(self.spool)
            if seen.life != ENDED or seen.identity.get("wall", 0) >= self._begun_ns - _CLOCK_SLACK_NS
        ]
        run_id, name = self.run.run_id, self.run.told_name
        for folder in findrun.run_folders(Path(self.run.store)):
            if folder.name == run_id:
                return account.run_facts(findrun.RunAt(run_id, name, folder), streams)
        spooled = (run for seen in streams for run in findrun.runs_in(seen) if run.run_id == run_id)
        return account.run_facts(next(spooled, findrun.RunAt(run_id, name)), streams)

    @property
    def _next(self) -> str:
        return f"Next: trainspool sync, then trainspool status {self.run.run_id}"


def _artifacts(counts: dict[str, Any]) -> str:
    if not (counts["stored"] or counts["waiting"] or counts["refused"]):
        return ""
    shown = (f"{counts[key]:,} {said}" for key, said in _SAID.items() if counts[key] or key == "stored")
    return f"; artifacts: {', '.join(shown)}"


def _about(command: Sequence[str]) -> dict[str, str]:
    return {
        "mlflow.source.name": shlex.join(command)[:TAG_CHARACTERS_MAX],
        "trainspool.command": shlex.join(command)[:TAG_CHARACTERS_MAX],
        "trainspool.cwd": str(Path.cwd()),
        "trainspool.host": os.uname().nodename,
    }


# -- the command ----------------------------------------------------------------------------------------------------


def _execute(command: tuple[str, ...], environment: dict[str, str]) -> int:
    """Execute *command*, pass on the signals that we get, and return its wait status."""
    relay = _Relay()
    with relay.listening() as mask:
        # Not by subprocess: that would close descriptors which the shell gave to the command.
        pid = os.posix_spawnp(command[0], command, environment, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON)
        relay.send_to(pid)
        while True:
            # The kernel gives a signal to the main thread while that waits for it, whatever other threads take.
            told = signal.sigtimedwait(relay.watched, LOOK_S)
            if told is not None and told.si_signo != signal.SIGCHLD and told.si_code != _FROM_THE_TERMINAL:
                relay(told.si_signo)
            done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                _stop_as_well(pid, os.WSTOPSIG(status))
            elif done:
                return status


class _Relay:
    """Passes signals on to the command.

    They are blocked in the main thread alone: the SDK's threads, and an agent that those start, stay as they were. A
    signal that meets such a thread between two waits comes here by a handler.
    """

    def __init__(self) -> None:
        before = {number: signal.getsignal(number) for number in _FORWARDED}
        # Ignored: nohup, or a job in the background. The command inherits that.
        self._before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        self.watched = frozenset((*self._before, signal.SIGTSTP, signal.SIGCHLD))
        self._pid: int | None = None
        self._early: list[int] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[set[signal.Signals | int]]:
        """Take signals; yields the mask there was, which the command is to have."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the command's status with it
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.watched)
        for number in self._before:
            signal.signal(number, self)
        try:
            yield mask
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def send_to(self, pid: int) -> None:
        self._pid = pid
        while self._early:
            self(self._early.pop(0))

    def __call__(self, number: int, frame: object = None) -> None:
        if self._pid is None:
            self._early.append(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


def _stop_as_well(pid: int, stopped_by: int) -> None:
    """Stopped by job control: the shell is to see us stopped, and to wake both."""
    if stopped_by in _JOB_CONTROL:
        os.kill(os.getpid(), signal.SIGSTOP)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
