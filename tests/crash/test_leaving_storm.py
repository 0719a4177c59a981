"""How a process leaves: whatever its end, its status is its own, and what was logged is held."""

from __future__ import annotations

import json
import signal

import pytest
import spooled
from spooled import Journal, Place, until

FINISHED, FAILED = 3, 4
VERSIONS = pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
HEAD = Journal.HEAD

LEAVING = {
    "at the end of the script": ("", 0, [(FINISHED, None)]),
    "by sys.exit(3)": ("sys.exit(3)", 3, [(FINISHED, None)]),
    "by an uncaught exception": ("raise ValueError('no such luck')", 1, [(FAILED, "ValueError: no such luck")]),
    "by an uncaught Ctrl-C": ("raise KeyboardInterrupt", -2, [(FAILED, "KeyboardInterrupt: ")]),
    "by os._exit": ("os._exit(5)", 5, []),
    "by SIGTERM": ("import signal; os.kill(os.getpid(), signal.SIGTERM)", -15, []),
    "by abort()": ("os.abort()", -6, []),
    "out of a with block": (
        "\nwith mlflow.start_run(nested=True): raise KeyError('x')", 1,
        [(FAILED, "KeyError: 'x'"), (FAILED, "KeyError: 'x'")],
    ),
}  # fmt: skip


@VERSIONS
@pytest.mark.parametrize("how", LEAVING)
def test_the_status_is_the_scripts_own_and_the_run_ends_as_the_script_did(place: Place, how: str, version: str) -> None:
    last, status, ends = LEAVING[how]
    script = HEAD + "mlflow.start_run()\nfor step in range(500): mlflow.log_metric('a', 1.0, step=step)\n" + last
    done = place.run(script, place.journal(), status=status, python=spooled.other_python(version))
    held = place.stream()
    assert held.steps("a") == list(range(500))
    assert [(status, reason) for _, status, reason in held.ends] == ends
    assert held.in_order is bool(ends) and (held.ring is None) is bool(ends)
    assert "trainspool" not in done.err.replace("import trainspool", ""), done.err
    assert "Exception ignored" not in done.err


HANDLERS = """
import atexit, os, sys
def log(when, count):
    import trainspool as mlflow
    for step in range(count):
        mlflow.log_metric(when, 1.0, step=step)
        mlflow.log_metrics({f"{when} batch": 1.0, f"{when} {step % 3}": 2.0}, step=step)
    mlflow.set_tag(when, "done")
    assert mlflow.flush(timeout=20) and mlflow.wait(timeout=0) is False
    os.write(1, when.encode() + b"\\n")
atexit.register(log, "registered before", int(sys.argv[1]))
import trainspool as mlflow
atexit.register(log, "registered after", int(sys.argv[1]))
mlflow.start_run()
mlflow.log_metric("a", 1.0)
"""


@VERSIONS
@pytest.mark.parametrize("count", [30, 1000])
def test_what_exit_handlers_log_before_and_after_ours_is_held(place: Place, version: str, count: int) -> None:
    done = place.run(HANDLERS, count, python=spooled.other_python(version), TRAINSPOOL_RING_BYTES=str(256 << 10))
    assert done.out.split("\n")[:2] == ["registered after", "registered before"]
    held = place.stream()
    for when in ("registered before", "registered after"):
        assert held.steps(when) == held.steps(f"{when} batch") == list(range(count))
        assert held.tags[when] == "done"
    assert held.in_order and held.ring is None, done.err


FIRST_AT_EXIT = """
import atexit
@atexit.register
def late():
    mlflow.log_metric("late", 1.0)
    mlflow.set_tag("late", "done")
import trainspool as mlflow
"""


@VERSIONS
def test_a_first_log_call_in_an_exit_handler_is_held_though_no_thread_can_start_any_more(
    place: Place, version: str
) -> None:
    done = place.run(FIRST_AT_EXIT, python=spooled.other_python(version))
    held = place.stream()
    assert held.steps("late") == [0] and held.tags["late"] == "done", done.err
    assert "Traceback" not in done.err


ENDING_BESIDE_A_THREAD = (
    HEAD
    + """
import threading
mlflow.start_run()
def log():
    step = 0
    while True:
        step += 1
        mlflow.log_metric("thread", 1.0, step=step)
        if step % 64 == 0:
            mlflow.log_metric(f"new {step}", 1.0, step=step)
            time.sleep(0.0001)  # what is logged has to be read again
        journal[0] = step
threading.Thread(target=log, daemon=True).start()
while journal[0] < 500: time.sleep(0.001)
"""
)


@VERSIONS
def test_what_a_thread_logs_while_the_interpreter_exits_is_held_if_its_call_returned(
    place: Place, version: str
) -> None:
    for _ in range(3):
        journal = place.journal()
        place.run(
            ENDING_BESIDE_A_THREAD, journal, python=spooled.other_python(version), TRAINSPOOL_RING_BYTES=str(32 << 20)
        )
        logged = journal[0]
        held = place.streams()[-1]
        assert held.steps("thread") in (list(range(1, logged + 1)), list(range(1, logged + 2)))
        assert not held.drops and not held.damage


ENDING_BESIDE_A_TIMER = (
    HEAD
    + """
import signal, atexit
count = [0]
def handler(*_):
    count[0] += 1
    number = count[0]
    mlflow.log_metric("timer", 1.0, step=number)
    journal[number] = 1
def stop(): signal.setitimer(signal.ITIMER_REAL, 0)
atexit.register(lambda: (time.sleep(0.05), stop()))   # runs last: the timer goes on through our own exit handler
"""
)


def test_a_timer_that_logs_through_our_exit_handler_neither_hangs_nor_loses(place: Place) -> None:
    script = (
        ENDING_BESIDE_A_TIMER.replace("import trainspool as mlflow\n", "")
        + """
import trainspool as mlflow
mlflow.start_run()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for step in range(20000): mlflow.log_metric("loop", 1.0, step=step)
"""
    )
    journal = place.journal(1 << 16)
    place.run(script, journal)
    held = place.stream()
    words = memoryview(journal.path.read_bytes()).cast("Q")
    returned = [number for number in range(len(words)) if words[number]]
    timer = held.steps("timer")
    assert set(returned) <= set(timer) and len(timer) == len(set(timer)) and len(returned) > 20
    assert held.steps("loop") == list(range(20000))


CTRL_C_AT_EXIT = (
    HEAD
    + """
mlflow.start_run()
journal[1] = os.getpid()
for step in range(int(sys.argv[2])): mlflow.log_metric("a", 1.0, step=step)
journal[0] = 1
"""
)


def test_ctrl_c_during_the_exit_loses_nothing(place: Place) -> None:
    for _ in range(3):
        journal = place.journal()
        child = place.start(CTRL_C_AT_EXIT, journal, 60_000)
        until(lambda journal=journal: journal[0])
        while child.poll() is None:
            child.send_signal(signal.SIGINT)
        held = place.streams()[-1]
        assert held.steps("a") == list(range(60_000)) and not held.damage


def test_a_stalled_disk_holds_up_the_exit_by_a_second_at_most(place: Place) -> None:
    script = (
        "import atexit, os, sys, time\natexit.register(lambda: print(time.monotonic() - begun))\n"
        + HEAD
        + """
from trainspool.spool import files
class Stalling(files.Files):
    def write(self, fd, data): time.sleep(600)
files.fs = Stalling()
mlflow.start_run()
for step in range(100): mlflow.log_metric("a", 1.0, step=step)
begun = time.monotonic()
"""
    )
    done = place.run(script, place.journal())
    assert float(done.out) < 3.0
    assert place.stream().steps("a") == list(range(100)), "the ring has it"


TROUBLE = (
    HEAD
    + """
import json
with mlflow.start_run() as run:
    for step in range(2000): mlflow.log_metric("a", 1.0, step=step)
    mlflow.log_param("p", 1); mlflow.set_tag("t", "x" * 100_000)
    mlflow.log_text("content", "file.txt")
    time.sleep(0.3)
    for step in range(2000, 4000): mlflow.log_metric("a", 1.0, step=step)
sys.exit(4)
"""
)


def test_a_spool_that_is_a_file_costs_one_warning_and_nothing_else(place: Place) -> None:
    place.spool.write_text("not a folder")
    done = place.run(TROUBLE, place.journal(), status=4)
    (said,) = [line for line in done.warnings if "cannot write the spool" in line]
    assert "Not a directory" in said and "trainspool doctor" in said and "Traceback" not in done.err
    (ring,) = place.rings.glob("*.ring")
    held = spooled.Held(ring.stem, None, ring)
    assert held.steps("a") == list(range(4000)), "all of it waits in the ring"


def test_a_spool_that_may_not_be_written_costs_one_warning_and_nothing_else(place: Place) -> None:
    done = place.run(
        "from trainspool.spool import files\n"
        "class Denied(files.Files):\n"
        "    def make_folder(self, path): raise PermissionError(13, 'Permission denied', path)\n"
        "files.fs = Denied()\n" + TROUBLE,
        place.journal(), status=4,
    )  # fmt: skip
    assert len([line for line in done.warnings if "cannot write the spool" in line]) == 1
    (ring,) = place.rings.glob("*.ring")
    assert spooled.Held(ring.stem, None, ring).steps("a") == list(range(4000))


def test_without_shared_memory_logging_goes_on_and_a_warning_says_what_a_kill_would_cost(place: Place) -> None:
    on_disk = place.folder / "rings on disk"
    on_disk.mkdir(mode=0o700)
    none = "from trainspool.spool import ringfolder\nringfolder._candidates = lambda: iter(())\n"
    done = place.run(none + TROUBLE, place.journal(), status=4, TRAINSPOOL_RING_DIR=str(on_disk))
    (said,) = [line for line in done.warnings if "private memory" in line]
    assert "kill -9" in said and "TRAINSPOOL_RING_DIR" in said
    held = place.stream()
    assert held.steps("a") == list(range(4000)) and held.in_order and held.identity["ring"] is None
    assert list(on_disk.iterdir()) == []


def test_a_ring_folder_on_disk_is_not_used(place: Place) -> None:
    on_disk = place.folder / "rings on disk"
    on_disk.mkdir(mode=0o700)
    place.run(TROUBLE, place.journal(), status=4, TRAINSPOOL_RING_DIR=str(on_disk))
    assert place.stream().steps("a") == list(range(4000)) and list(on_disk.iterdir()) == []


UNLINKED = (
    HEAD
    + """
mlflow.start_run()
import glob
step = 0
deadline = time.monotonic() + 3
def rings(): return glob.glob(os.environ["TRAINSPOOL_RING_DIR"] + "/*.ring")
first = os.stat(rings()[0]).st_ino
os.unlink(rings()[0])
while time.monotonic() < deadline and not (rings() and os.stat(rings()[0]).st_ino != first and step > 20000):
    step += 1
    mlflow.log_metric("a", 1.0, step=step)
    journal[0] = step
for step in range(step + 1, step + 20001):
    mlflow.log_metric("a", 1.0, step=step)
    journal[0] = step
inode = os.stat(rings()[0]).st_ino
time.sleep(2.2)
assert os.stat(rings()[0]).st_ino == inode, "replaced again and again"
for step in range(step + 1, step + 1001):
    mlflow.log_metric("a", 1.0, step=step)
    journal[0] = step
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""
)


@pytest.mark.parametrize("end", ["killed", "in order"])
def test_a_ring_removed_under_us_is_replaced_once_and_nothing_is_lost(place: Place, end: str) -> None:
    journal = place.journal()
    done = place.run(UNLINKED, journal, end, status=-9 if end == "killed" else 0, TRAINSPOOL_RING_BYTES=str(32 << 20))
    held = place.stream()
    assert held.steps("a") == list(range(1, journal[0] + 1)) and not held.damage
    assert len([line for line in done.warnings if "removed under us" in line]) == 1


DISABLED = (
    HEAD
    + """
import json
mlflow.set_experiment("e")
with mlflow.start_run() as run:
    for step in range(100):
        mlflow.log_metric("a", 1.0, step=step); mlflow.log_metrics({"b": 1, "c": 2}, step=step)
    mlflow.log_param("p", 1); mlflow.log_params({"q": 2}); mlflow.set_tag("t", "x" * 100_000)
    mlflow.log_text("content", "file.txt"); mlflow.log_dict({}, "d.json"); mlflow.log_artifact(__file__)
    mlflow.log_artifacts(os.path.dirname(sys.argv[1])); mlflow.delete_tag("t")
    print(json.dumps([mlflow.flush(), mlflow.flush(durable=True), mlflow.wait(), bool(mlflow.active_run())]))
import threading
print([thread.name for thread in threading.enumerate()])
"""
)


def test_disabled_every_call_is_a_no_op(place: Place) -> None:
    done = place.run(DISABLED, place.journal(), TRAINSPOOL_DISABLED="1")
    first, threads = done.out.splitlines()
    assert json.loads(first) == [True] * 4 and threads == "['MainThread']" and done.err == ""
    assert place.streams() == [] and not place.spool.exists() and list(place.rings.iterdir()) == []
