"""Is this box set up well? Each check looks at one thing and says what to do next; none changes anything that stays."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainspool.spool import ring
from trainspool.spool.events import FORMAT_VERSION
from trainspool.spool.ringfolder import ring_folder
from trainspool_agent import agentlock
from trainspool_agent.doctor import box, selftest
from trainspool_agent.look import findrun
from trainspool_agent.settings import Settings
from trainspool_agent.store.layout import APPLIED, DURABLE, META

OK, WARN, FAIL = "ok", "warn", "fail"
PYTHON_MIN = (3, 10)
FREE_BYTES_LOW, FREE_INODES_LOW = 1 << 30, 10_000
WATCHES_LOW, INSTANCES_LOW = 1024, 16
DEFAULT_STORE_NAME = "mlruns"
_MLFLOW_NEEDS_FLAG = (3, 13)


@dataclass(frozen=True)
class Finding:
    """What one check found; *next_step* is what to do, empty where all is well."""

    check: str
    state: str
    what: str
    next_step: str = ""


def examine(settings: Settings, store: Path) -> Iterator[Finding]:
    """Yield the findings, check by check. A check that breaks is itself a finding."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", python),
        ("ring", rings),
        ("spool", lambda: spool(settings.spool)),
        ("watches", watches),
        ("agent", agent),
        ("store", lambda: store_folder(store)),
        ("mlflow", lambda: mlflow(store)),
        ("logout", logout),
        ("clock", clock),
        ("self-test", self_test),
    ]
    for name, check in checks:
        try:
            yield from check()
        except (OSError, ValueError) as error:
            yield Finding(name, FAIL, f"the check itself failed: {error}", "please report it")


def python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        yield Finding("python", FAIL, f"Python {version}", "use Python 3.10 or later")
    else:
        yield Finding("python", OK, f"Python {version}, trainspool {_version('trainspool')}, format {FORMAT_VERSION}")


def rings() -> Iterator[Finding]:
    folder = ring_folder()
    if folder is None:
        what = "no shared memory of ours: kill -9 loses what was logged in the last 100 ms"
        yield Finding(
            "ring", FAIL, what, "TRAINSPOOL_RING_DIR=<a tmpfs folder of yours, mode 0700>; docker: --shm-size=1g"
        )
        return
    info = os.statvfs(folder)
    free = info.f_bavail * info.f_frsize
    wanted = int(float(os.environ.get("TRAINSPOOL_RING_BYTES") or ring.RING_BYTES))
    size = max(ring.RING_BYTES_MIN, min(wanted, free // ring.FREE_MEMORY_SHARE, ring.RING_BYTES_MAX))
    mode = stat.S_IMODE(os.lstat(folder).st_mode)
    what = f"{folder}, {box.kind_of(folder).kind}, mode {mode:04o}, {_mib(free)} free: rings of {_mib(size)}"
    if size < wanted:
        yield Finding("ring", WARN, what, "free shared memory, or give more (docker: --shm-size=1g), for longer stalls")
    else:
        yield Finding("ring", OK, what)


def spool(folder: Path) -> Iterator[Finding]:
    above = _nearest(folder)
    try:
        locks_work = _locks_work(above)
    except OSError as error:
        what = f"{folder} cannot be written: {error.strerror}"
        yield Finding("spool", FAIL, what, "chown or chmod it, or TRAINSPOOL_DIR=<a folder>")
        return
    mount, info = box.kind_of(above), os.statvfs(above)
    free = info.f_bavail * info.f_frsize
    what = f"{folder}, {mount.kind}, {_mib(free)} free"
    if free < FREE_BYTES_LOW or (info.f_files and info.f_favail < FREE_INODES_LOW):
        inodes = f" and {info.f_favail:,} inodes" if info.f_files else ""
        yield Finding("spool", WARN, f"{what}{inodes}: little", "make room, or TRAINSPOOL_DIR=<a larger disk>")
    else:
        yield Finding("spool", OK, what)
    if not locks_work:
        yield Finding(
            "spool", WARN, f"no file locks on {mount.kind}: a death shows after 35 s", "TRAINSPOOL_DIR=<a local disk>"
        )
    elif mount.is_network:
        what = f"{mount.kind} is a network file system: watches do not see other hosts' writes, the rescan does"
        yield Finding("spool", WARN, what, "nothing, or TRAINSPOOL_DIR=<a local disk> for the shortest lag")


def watches() -> Iterator[Finding]:
    limit, instances = box.inotify_limit("max_user_watches"), box.inotify_limit("max_user_instances")
    if limit is None or instances is None:
        yield Finding(
            "watches", WARN, "no inotify here: the agent finds news by its rescan alone", "nothing; lag is longer"
        )
        return
    used_instances, used = box.inotify_use()
    what = f"inotify: {used:,} of {limit:,} watches, {used_instances:,} of {instances:,} instances in use"
    if limit - used < WATCHES_LOW or instances - used_instances < INSTANCES_LOW:
        wanted = f"fs.inotify.max_user_watches={max(limit * 4, 524288)} fs.inotify.max_user_instances={instances * 4}"
        step = f"sudo sysctl {wanted}"
        yield Finding("watches", WARN, what, step)
    else:
        yield Finding("watches", OK, what)


def agent() -> Iterator[Finding]:
    missing = [name for name in ("watchfiles", "msgspec", "yaml") if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("agent", FAIL, f"not installed: {', '.join(missing)}", "pip install 'trainspool[agent]'")
        return
    about, ours = agentlock.running_agent(), _version("trainspool")
    if about is None:
        disabled = os.environ.get("TRAINSPOOL_AUTOSTART", "1").lower() in ("0", "false", "no", "off")
        starts = "and TRAINSPOOL_AUTOSTART is off" if disabled else "the SDK starts one with the first run"
        step = "trainspool daemon, or trainspool sync when runs are done" if disabled else ""
        yield Finding("agent", WARN if disabled else OK, f"installed; none runs, {starts}", step)
    elif about.get("version") != ours or about.get("format") != FORMAT_VERSION:
        what = f"pid {about.get('pid')} is version {about.get('version')}, this is {ours}"
        yield Finding("agent", WARN, what, f"kill {about.get('pid')}; the SDK starts the new one")
    else:
        yield Finding("agent", OK, f"running, pid {about.get('pid')}, version {ours}, format {FORMAT_VERSION}")


def store_folder(root: Path) -> Iterator[Finding]:
    if {"http:", "https:"} & set(root.parts):  # as a path: http:/host
        yield Finding("store", FAIL, f"{root} is an address", "TRAINSPOOL_STORE=<a folder>; servers come later")
    elif "artifacts" in root.parts:
        what = f"{root} lies below a folder called artifacts, where MLflow cannot read it"
        yield Finding("store", FAIL, what, "TRAINSPOOL_STORE=<another folder>")
    elif root.exists() and not (root.is_dir() and os.access(root, os.W_OK | os.X_OK)):
        yield Finding("store", FAIL, f"{root} cannot be written", "chown or chmod it, or TRAINSPOOL_STORE=<a folder>")
    elif not root.exists():
        writable = os.access(_nearest(root), os.W_OK | os.X_OK)
        step = "" if writable else "make it, or TRAINSPOOL_STORE=<a folder>"
        yield Finding(
            "store",
            OK if writable else FAIL,
            f"{root} is not there yet{'' if writable else ', and cannot be made'}",
            step,
        )
    else:
        runs = [any((folder / name).exists() for name in (APPLIED, DURABLE)) for folder in findrun.run_folders(root)]
        yield Finding("store", OK, f"{root}: {len(runs):,} runs, {sum(runs):,} of them written by trainspool")


def mlflow(root: Path) -> Iterator[Finding]:
    version = _version("mlflow") or _version("mlflow-skinny")
    command = f"mlflow ui --backend-store-uri {shlex.quote(str(root))}"
    if not version:
        what = f"not installed here; any MLflow that sees {root} opens the runs"
        yield Finding("mlflow", OK, what, f"pip install mlflow, then MLFLOW_ALLOW_FILE_STORE=true {command}")
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    flag = "MLFLOW_ALLOW_FILE_STORE=true " if numbers >= _MLFLOW_NEEDS_FLAG else ""
    yield Finding("mlflow", OK, f"MLflow {version} opens the runs with: {flag}{command}")
    if root.name == DEFAULT_STORE_NAME and flag and (root / "0" / META).exists():
        what = (
            f"{root} makes MLflow scripts in {root.parent} that set no tracking URI use it, and ask for {flag.strip()}"
        )
        yield Finding("mlflow", WARN, what, "set it for those scripts, or TRAINSPOOL_STORE=<another folder>")


def logout() -> Iterator[Finding]:
    if box.logind_removes_ipc():
        what = "logind removes your shared memory when your last session ends (RemoveIPC): rings of jobs that go on too"
        yield Finding(
            "logout", WARN, what, "sudo loginctl enable-linger $USER, or RemoveIPC=no in /etc/systemd/logind.conf"
        )
    else:
        yield Finding("logout", OK, "nothing removes shared memory at logout")


def clock() -> Iterator[Finding]:
    if box.clock_is_synchronised() is False:
        yield Finding(
            "clock", WARN, "the kernel says the clock is not synchronised", "timedatectl set-ntp true, or chrony"
        )
    else:
        yield Finding("clock", OK, "the clock is synchronised, or nobody says otherwise")


def self_test() -> Iterator[Finding]:
    result = selftest.run()
    if result.problem:
        yield Finding("self-test", FAIL, result.problem, "trainspool status; the checks above may say why")
        return
    times = f"log_metric p50 {result.p50_us:.1f} µs, p99 {result.p99_us:.1f} µs; carried in {result.carried_s:.1f} s"
    yield Finding("self-test", OK, f"{result.points:,} points logged, stored and read back, all equal; {times}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _nearest(path: Path) -> Path:
    """Return *path*, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _locks_work(folder: Path) -> bool:
    """Whether a second descriptor is refused a lock that the first one holds.

    Raises:
        OSError: no file can be made in *folder*.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".trainspool-doctor-") as file:
        other = os.open(file.name, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except OSError:
            return False
        finally:
            os.close(other)
    return True


def _mib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
