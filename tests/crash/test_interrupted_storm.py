"""Signal handlers, finalizers, Ctrl-C and forks at every point of a log call: what returned is kept, once, in order.

The exhaustive tests put the interruption at every place where Python may run one: at the entry of each function and
behind each call of a C function, which is where `sys.setprofile` calls back. The storms let real signals decide.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import spooled
from spooled import Journal, Place

PYTHONS = ("3.10", "3.11", "3.13")

# Forks once per place k. The child logs; at its k-th place the interruption happens; then it says what returned.
EVERYWHERE = """
import json, os, sys, time
import trainspool as mlflow
from trainspool.stream import stream
from trainspool.spool.events import FILLER

folder, what, scenario, first, stride = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
SDK = os.path.dirname(mlflow.__file__)
returned, maybe, raised = [], [], []

class Interrupter:
    def __init__(self, at):
        self.left, self.done, self.where = at, False, ""

    def __call__(self, frame, event, argument):
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(SDK):
            return
        self.left -= 1
        if self.left:
            return
        self.done, self.where = True, f"{frame.f_code.co_filename}:{frame.f_lineno} {event} {argument}"
        sys.setprofile(None)
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "log":
            log("handler", 1)
            log("loss", 77)
        if what == "fork" and os.fork() == 0:
            child.append(True)
            maybe[:] = [*current]
            returned.clear()
            current.clear()

current, child = [], []

def log(key, step):
    before = list(current)
    current[:] = [(key, step)]
    try:
        mlflow.log_metric(key, step, step=step)
    except KeyboardInterrupt:
        maybe.append((key, step))
        raised.append(1)
    else:
        returned.append((key, step))
    current[:] = before

def many(step):
    current[:] = [("m0", step), ("m1", step)]
    try:
        mlflow.log_metrics({"m0": step, "m1": step}, step=step)
    except KeyboardInterrupt:
        maybe.extend(current)
    else:
        returned.extend(current)
    current.clear()

def start():
    try:
        mlflow.start_run()
    except (KeyboardInterrupt, mlflow.TrainspoolException):  # a handler that logs first has started a run
        mlflow.start_run(nested=True)

def scene(interrupter):
    if scenario == "birth":
        sys.setprofile(interrupter)
        start()
        log("loss", 0)
        log("loss", 1)
        many(2)
        many(3)
    if scenario == "rotate":
        start(); log("loss", 0); log("loss", 1); many(2); many(3)
        ring = stream.ring
        stream.pump._housekeeping = lambda: None
        time.sleep(0.02)
        ring.append(FILLER * (65536 - ring.chunk.memory.tell() - 10))
        sys.setprofile(interrupter)
        for step in range(4, 8):
            log("loss", step)
        many(8)
    if scenario == "full":
        start(); log("loss", 0); log("loss", 1); many(2)
        pump = stream.pump
        pump._turn_lock.acquire()          # the spool is stalled
        while stream.ring.append(FILLER * 1000): pass
        while stream.ring.append(FILLER): pass
        sys.setprofile(interrupter)
        for step in range(100, 104):
            log("loss", step)
        many(105)
        sys.setprofile(None)
        pump._turn_lock.release()

def one(at):
    interrupter = Interrupter(at)
    scene(interrupter)
    sys.setprofile(None)
    log("after", 1)
    log("loss", 1000)
    flushed = mlflow.flush(timeout=20)
    if stream.pump and any(step >= 100 for key, step in returned if key == "loss") and scenario == "full":
        deadline = time.monotonic() + 20
        while stream.with_drops and time.monotonic() < deadline:
            mlflow.flush(); time.sleep(0.01)
        mlflow.flush(timeout=20)
    facts = dict(pid=os.getpid(), child=bool(child), where=interrupter.where, returned=returned, maybe=maybe)
    facts["flushed"] = flushed
    with open(f"{folder}/{os.getpid()}.json", "w") as file:
        json.dump(facts, file)
    if what == "fork":
        try: os.waitpid(-1, 0)
        except ChildProcessError: pass
    os._exit(0 if interrupter.done else 7)

at = first
while True:
    pid = os.fork()
    if not pid:
        one(at)
    status = os.waitpid(pid, 0)[1]
    if status:
        sys.exit(0 if status == 7 << 8 else f"at {at}: status {status}")
    at += stride
"""


def everywhere(
    place: Place, what: str, scenario: str, *, stride: int, seed: int, python: str = sys.executable
) -> list[dict]:
    folder = place.folder / "facts"
    folder.mkdir()
    rings = {"TRAINSPOOL_RING_BYTES": str(256 << 10)}
    place.run(EVERYWHERE, folder, what, scenario, 1 + seed % stride, stride, python=python, timeout=600, **rings)
    return [json.loads(path.read_text()) for path in folder.iterdir()]


def check(place: Place, facts: list[dict]) -> None:
    """Every call that returned is in its process's stream exactly once, every other at most once; nothing else."""
    held = {stream.identity["pid"]: stream for stream in place.streams() if stream.points}
    problems = []
    for fact in facts:
        stream = held.get(fact["pid"])
        found = Counter((key, step) for _, key, step, _ in stream.points) if stream else Counter()
        returned, maybe = Counter(map(tuple, fact["returned"])), Counter(map(tuple, fact["maybe"]))
        if fact["child"]:
            returned -= maybe  # the call that was under way at the fork: the parent may have it
        missing, surplus = returned - found, found - returned - maybe
        if missing or surplus or not fact["flushed"] or (stream and stream.damage):
            problems.append((fact["where"], missing, surplus, fact["flushed"]))
    assert not problems, f"{len(problems)} of {len(facts)}: {problems[:5]}"


BOUNDED, LONG = 37, 1


def strides(test):
    long = pytest.param(LONG, marks=pytest.mark.long, id="everywhere")
    return pytest.mark.parametrize("stride", [pytest.param(BOUNDED, id="here and there"), long])(test)


@strides
@pytest.mark.parametrize("scenario", ["birth", "rotate"])
@pytest.mark.parametrize("what", ["interrupt", "log", "fork"])
def test_interrupted_at_any_place_what_returned_is_kept_once(
    place: Place, what: str, scenario: str, stride: int, seed: int
) -> None:
    facts = everywhere(place, what, scenario, stride=stride, seed=seed)
    print(f"{len(facts)} places")
    check(place, facts)


@strides
@pytest.mark.parametrize("what", ["interrupt", "log", "fork"])
def test_interrupted_at_any_place_of_a_full_ring_every_drop_is_counted_once(
    place: Place, what: str, stride: int, seed: int
) -> None:
    facts = everywhere(place, what, "full", stride=max(1, stride // 2), seed=seed)
    held = {stream.identity["pid"]: stream for stream in place.streams() if stream.points}
    problems = []
    for fact in facts:
        stream = held[fact["pid"]]
        (dropped,) = stream.drops.values() or [(0, 0)]
        gaps = [event[3] for event in stream.events if event[0] == 10]
        accounted = len(stream.points) + dropped[0]
        possibly = len(fact["returned"]) + len(fact["maybe"])
        surely = len(Counter(map(tuple, fact["returned"])) - Counter(map(tuple, fact["maybe"])))
        if not surely <= accounted <= possibly or (gaps[-1:] or [0]) != [dropped[0]]:
            problems.append((fact["where"], accounted, surely, possibly, dropped, gaps))
    assert not problems, f"{len(problems)} of {len(facts)}: {problems[:5]}"


HANDLER = (
    Journal.HEAD
    + """
import signal
mlflow.start_run()
count = [0]
def handler(*_):
    count[0] += 1
    number = count[0]
    mlflow.log_metric("handler", 1.0, step=number)
    mlflow.log_metrics({"a": 1.0, f"key {number % 50}": 2.0}, step=number)
    journal[1] = count[0]
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
step = 0
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    step += 1
    mlflow.log_metric("loop", 0.5, step=step)
    if step % 50 == 0:
        mlflow.log_metric(f"loop {step % 1000}", 0.5, step=step)
        mlflow.log_metrics({"x": 1.0, "y": 2.0}, step=step)
    journal[0] = step
signal.setitimer(signal.ITIMER_REAL, 0)
"""
)


@pytest.mark.parametrize("seconds", [0.7, pytest.param(30, marks=pytest.mark.long)])
def test_a_signal_handler_that_logs_into_a_logging_loop_loses_and_repeats_nothing(place: Place, seconds: float) -> None:
    journal = place.journal()
    done = place.run(HANDLER, journal, seconds, TRAINSPOOL_RING_BYTES=str(32 << 20))
    held = place.stream()
    loop, handler = journal[0], journal[1]
    print(f"{loop} calls of the loop, {handler} of the handler")
    assert handler > 50 and done.err == "" and held.drops == {}
    assert held.steps("loop") == list(range(1, loop + 1))
    # A handler may interrupt itself, so its own order is not that of its numbers.
    assert sorted(held.steps("handler")) == sorted(held.steps("a")) == list(range(1, handler + 1))
    assert held.steps("x") == held.steps("y") == list(range(50, loop + 1, 50))


FINALIZERS = (
    Journal.HEAD
    + """
import gc
mlflow.start_run()
gc.set_threshold(5)
count = [0]
class Logs:
    def __init__(self): self.me = self
    def __del__(self):
        count[0] += 1
        mlflow.log_metric("finalizer", 1.0, step=count[0])
        mlflow.set_tag("last", count[0])
        journal[1] = count[0]
for step in range(1, int(sys.argv[2]) + 1):
    Logs()
    mlflow.log_metric("loop", 0.5, step=step)
    mlflow.log_metrics({f"key {step % 300}": 1.0, "b": 2.0}, step=step)
    mlflow.log_param(f"p{step}", step)
    journal[0] = step
gc.disable()
"""
)


def test_finalizers_that_log_inside_log_calls_lose_and_repeat_nothing(place: Place) -> None:
    journal = place.journal()
    place.run(FINALIZERS, journal, 4000)
    held = place.stream()
    assert held.steps("loop") == held.steps("b") == list(range(1, 4001))
    ran = held.steps("finalizer")
    assert ran == list(range(1, len(ran) + 1)) and len(ran) >= journal[1] > 1000
    assert len(held.params) == 4000


# A thread or a timer raises KeyboardInterrupt in whatever the main thread does; `sent` calls that returned are noted.
CTRL_C = (
    Journal.HEAD
    + """
import ctypes, random, signal, threading
random.seed(int(sys.argv[3]))
mlflow.start_run()
done = threading.Event()
sent, tried, armed = [], [], [False]
main = threading.main_thread().ident

def by_timer():
    def handler(*_):
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)

def by_thread():
    while not done.is_set():
        time.sleep(random.random() * 0.0006)
        if armed[0]:
            armed[0] = False
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(KeyboardInterrupt))

def other():
    for step in range(1, 1001):
        mlflow.log_metric("other", 0.5, step=step)
        journal[1] = step
        if step % 20 == 0: time.sleep(0.001)

threads = [threading.Thread(target=other)]
if sys.argv[2] == "timer": by_timer()
else: threads.append(threading.Thread(target=by_thread))
for thread in threads: thread.start()
deadline = time.monotonic() + float(sys.argv[4])
step = interruptions = 0
def log_until_interrupted():
    global step
    while time.monotonic() < deadline or interruptions <= 20:
        armed[0] = True
        step += 1
        key = f"k{step % 40}"
        tried.append((key, step))
        mlflow.log_metric(key, 1.0, step=step)
        sent.append((key, step))
        if step % 30 == 0:
            key = f"new {step}"
            tried.append((key, step))
            mlflow.log_metrics({key: 1.0}, step=step)
            sent.append((key, step))
while time.monotonic() < deadline or interruptions <= 20:
    try:
        log_until_interrupted()
    except KeyboardInterrupt:
        interruptions += 1
def end():
    signal.setitimer(signal.ITIMER_REAL, 0)
    done.set()
    for thread in threads: thread.join()
    for _ in range(1000): pass  # what was sent by then arrives here
ended = False
while not ended:
    try:
        end()
        ended = True
    except KeyboardInterrupt:
        pass  # one that was on its way
mlflow.log_metric("after", 1.0)
import json
print(json.dumps(dict(sent=sent, tried=tried, interruptions=interruptions)))
"""
)


@pytest.mark.parametrize("seconds", [0.5, pytest.param(8, marks=pytest.mark.long)])
@pytest.mark.parametrize("by", ["timer", "thread"])
@pytest.mark.parametrize("version", PYTHONS)
def test_ctrl_c_at_random_points_leaves_logging_whole(
    place: Place, version: str, by: str, seconds: float, seed: int
) -> None:
    python = spooled.other_python(version)
    journal = place.journal()
    done = place.run(
        CTRL_C, journal, by, seed, seconds, python=python, TRAINSPOOL_RING_BYTES=str(64 << 20), timeout=120
    )
    facts, held = json.loads(done.out), place.stream()
    found = Counter((key, step) for _, key, step, _ in held.points)
    sent, tried = Counter(map(tuple, facts["sent"])), Counter(map(tuple, facts["tried"]))
    print(f"{facts['interruptions']} interruptions of {len(tried)} calls")
    assert facts["interruptions"] > 20 and not held.drops
    assert not sent - found, "a call that returned is lost"
    assert held.steps("other") == list(range(1, 1001)) and held.steps("after") == [0]
    own = Counter({point: count for point, count in found.items() if point[0] not in ("other", "after")})
    assert not own - tried, "something is there twice"
    assert "Traceback" not in done.err


FORKS = (
    Journal.HEAD
    + """
import json, signal
mlflow.start_run()
children, count, forks = [], [0], int(sys.argv[2])
def handler(*_):
    if count[0] >= forks: return
    count[0] += 1
    pid = os.fork()
    if pid:
        children.append(pid)
        return
    count[0] = 1 << 30
    signal.setitimer(signal.ITIMER_REAL, 0)
    for step in range(50):
        mlflow.log_metric("child", 1.0, step=step)
    mlflow.flush(timeout=20)
    os._exit(0)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
step = 0
while len(children) < int(sys.argv[2]):
    step += 1
    mlflow.log_metric("loop", 0.5, step=step)
    if step % 7 == 0: mlflow.log_metric(f"loop {step}", 0.5, step=step)
    journal[0] = step
signal.setitimer(signal.ITIMER_REAL, 0)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
assert not any(statuses), statuses
"""
)


@pytest.mark.parametrize("forks", [25, pytest.param(500, marks=pytest.mark.long)])
def test_forked_in_mid_append_each_process_has_a_stream_of_its_own_and_the_parents_is_exact(
    place: Place, forks: int
) -> None:
    journal = place.journal()
    place.run(FORKS, journal, forks, TRAINSPOOL_RING_BYTES=str(4 << 20), timeout=300)
    parent, *children = place.streams()
    assert parent.steps("loop") == list(range(1, journal[0] + 1)) and parent.in_order
    assert len(children) == forks
    (run,) = parent.owned
    for child in children:
        assert child.steps("child") == list(range(50))
        assert {point[0] for point in child.points} == {run} and child.owned == set() and child.ends == []
        assert set(child.steps("loop")) <= {child.steps("loop")[0]} if child.steps("loop") else True
    assert {child.identity["pid"] for child in children}.isdisjoint({parent.identity["pid"]})


FORKS_WITH_THREADS = (
    Journal.HEAD
    + """
import threading, warnings
warnings.simplefilter("ignore")
mlflow.start_run()
stop = threading.Event()
def log(source):
    step = 0
    while not stop.is_set():
        step += 1
        mlflow.log_metric(f"thread {source}", 1.0, step=step)
        journal[source] = step
        if step % 100 == 0: time.sleep(0.001)
threads = [threading.Thread(target=log, args=(source,)) for source in range(1, 4)]
for thread in threads: thread.start()
from trainspool.spool import ring
for n in range(int(sys.argv[2])):
    pid = os.fork()
    if not pid:
        for step in range(20): mlflow.log_metric("child", n, step=step)
        os._exit(0 if mlflow.flush(timeout=20) else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
"""
)


@pytest.mark.parametrize("free_threaded", [False, True], ids=["", "with the chunk for interpreters without a GIL"])
def test_forks_beside_logging_threads_leave_every_stream_exact(place: Place, free_threaded: bool) -> None:
    journal, script = place.journal(), FORKS_WITH_THREADS
    if free_threaded:
        script = "from trainspool.spool import ring\nring._chunk_class = lambda: ring.FreeThreadedChunk\n" + script
    place.run(script, journal, 25, TRAINSPOOL_RING_BYTES=str(16 << 20), timeout=120)
    parent, *children = place.streams()
    for source in range(1, 4):
        assert parent.steps(f"thread {source}") == list(range(1, journal[source] + 1))
    assert [child.steps("child") for child in children] == [list(range(20))] * 25
    assert all(child.owned == set() for child in children)


UNTOUCHED = (
    Journal.HEAD
    + """
from trainspool.stream import stream
import glob
mlflow.start_run()
mlflow.log_metric("parent", 1.0, step=0)
stream.pump._stopping = True
stream.pump.thread.join()
path = str(stream.ring.path)
before = open(path, "rb").read()
pid = os.fork()
if not pid:
    for step in range(5000):
        mlflow.log_metric("child", 1.0, step=step)
        mlflow.log_metrics({"a": 1, f"b{step % 9}": 2}, step=step)
        mlflow.log_param(f"p{step}", step)
    mlflow.end_run("FAILED")
    mlflow.flush()
    import gc; gc.collect()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert open(path, "rb").read() == before, "the child wrote into its parent's ring"
assert len(glob.glob(os.path.dirname(path) + "/*.ring")) == 1
"""
)


def test_a_child_never_touches_its_parents_ring_and_cannot_end_its_run(place: Place) -> None:
    place.run(UNTOUCHED, place.journal())
    parent, child = place.streams()
    assert parent.steps("parent") == [0] and parent.steps("child") == []
    assert child.steps("child") == list(range(5000)) and child.ends == [] and child.in_order
    assert [status for _, status, _ in parent.ends] == [3]


MULTIPROCESSING = """
import multiprocessing, sys
import trainspool as mlflow

def work(run_id, number):
    for step in range(100):
        mlflow.log_metric("work", number, step=step, run_id=run_id)

if __name__ == "__main__":
    with mlflow.start_run() as run:
        mlflow.log_metric("parent", 1.0)
        context = multiprocessing.get_context(sys.argv[1])
        workers = [context.Process(target=work, args=(run.run_id, number)) for number in range(3)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        mlflow.log_metric("parent", 1.0, step=1)
    print(run.run_id)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_log_to_the_parents_run_in_streams_of_their_own(place: Place, method: str) -> None:
    run = place.run(MULTIPROCESSING, method).out.strip()
    parent, *workers = place.streams()
    assert parent.steps("parent") == [0, 1] and parent.owned == {run} and len(workers) == 3
    for worker in workers:
        assert worker.steps("work") == list(range(100)) and {point[0] for point in worker.points} == {run}
        assert worker.owned == set() and worker.ends == []
    assert {point[3] for worker in workers for point in worker.points} == {0.0, 1.0, 2.0}


def test_places_do_not_leak_into_each_other(place: Place) -> None:
    assert place.streams() == [] and not Path(place.spool).exists() and os.stat(place.rings).st_mode & 0o777 == 0o700
