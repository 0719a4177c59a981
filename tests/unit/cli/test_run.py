"""`run`: the command does not notice, and the run says how it went."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Box

WAITING = "import signal, time; print('ready', flush=True); time.sleep(60)"


def outcome(box: Box, name: str = "w") -> dict[str, Any]:
    box.sync()
    found: dict[str, Any] = box.json("status", name, "--json")
    return found


def tag(facts: dict[str, Any], key: str) -> str:
    return Path(facts["path"], "tags", key).read_text()


@pytest.mark.parametrize(
    ("script", "status", "result"),
    [("exit 0", 0, "FINISHED"), ("exit 7", 7, "FAILED"), ("kill -9 $$", 137, "KILLED")],
)
def test_the_status_is_the_commands_own_and_the_run_has_it(box: Box, script: str, status: int, result: str) -> None:
    done = box.process(*box.trainspool("run", "-n", "w", "--", "sh", "-c", script))
    assert done.returncode == status
    assert "in the spool" in done.stderr and "trainspool sync" in done.stderr
    assert outcome(box)["status"] == result


def test_what_the_command_logs_at_any_depth_goes_to_its_run(box: Box) -> None:
    inner = "import trainspool as ts\nwith ts.start_run(): ts.log_metric('a', 1)"
    script = f'{sys.executable} -c "{inner}"; {sys.executable} -c "{inner.replace(chr(39) + "a", chr(39) + "b")}"'
    done = box.process(*box.trainspool("run", "-e", "deep", "-n", "w", "--tag", "gpu=a100", "--", "sh", "-c", script))
    assert done.returncode == 0 and "2 points accepted" in done.stderr
    facts = outcome(box)
    assert (facts["status"], facts["experiment"], facts["account"]["stored"]) == ("FINISHED", "deep", 2)
    assert len(facts["streams"]) == 3
    assert tag(facts, "gpu") == "a100" and tag(facts, "trainspool.command").startswith("sh -c")


def test_input_output_and_errors_pass_through_untouched(box: Box) -> None:
    with box.start(*box.trainspool("run", "--", "sh", "-c", "cat; echo oops >&2")) as process:
        output, errors = process.communicate("hello\n")
    assert output == "hello\n" and errors.startswith("oops\ntrainspool: run ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reaches_the_command(box: Box, number: signal.Signals) -> None:
    # Whoever runs the tests under nohup has one of these ignored, and the command would inherit that.
    command = "env", "--default-signal", *box.trainspool("run", "-n", "w", "--", sys.executable, "-c", WAITING)
    with box.start(*command) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode in (128 + number, 1) and (process.returncode != 1 or number == signal.SIGINT)
    assert outcome(box)["status"] in ("KILLED", "FAILED")


def test_ctrl_c_at_a_terminal_reaches_the_command_once(box: Box) -> None:
    program = (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nprint('ready', flush=True)\n"
        "signal.sigtimedwait([signal.SIGINT], 30)\nagain = signal.sigtimedwait([signal.SIGINT], 0.5)\n"
        "print('once' if again is None else 'twice', flush=True)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        command = box.trainspool("run", "--", sys.executable, "-c", program)
        os.execve(command[0], command, box.all)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    try:
        while part := os.read(terminal, 1000):
            seen += part
    except OSError:
        pass  # the terminal's other end is closed: Linux says so with EIO
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"once\r\n" in seen


def test_a_command_that_is_not_there_is_127(box: Box) -> None:
    done = box.process(*box.trainspool("run", "-n", "w", "--", "no-such-command"))
    assert done.returncode == 127 and "cannot run no-such-command" in done.stderr
    assert outcome(box)["status"] == "FAILED"


def test_a_broken_setting_of_ours_does_not_stop_the_command(box: Box) -> None:
    done = box.process(*box.trainspool("run", "--", "sh", "-c", "echo done; exit 3"), TRAINSPOOL_RING_BYTES="many")
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert "not tracked" in done.stderr and "trainspool doctor" in done.stderr


def test_a_spool_that_cannot_be_made_does_not_stop_the_command(box: Box) -> None:
    done = box.process(*box.trainspool("run", "--", "sh", "-c", "echo done; exit 3"), TRAINSPOOL_DIR="/proc/nowhere")
    assert (done.returncode, done.stdout) == (3, "done\n")


def test_an_impossible_experiment_is_a_usage_error_before_anything_runs(box: Box) -> None:
    done = box.process(*box.trainspool("run", "-e", "", "--", "echo", "hi"))
    assert (done.returncode, done.stdout) == (2, "")


def test_descriptors_of_the_shell_reach_the_command(box: Box) -> None:
    command = " ".join(box.trainspool("run", "--", "cat"))
    done = box.process("bash", "-c", f"{command} <(echo from the shell)")
    assert done.stdout == "from the shell\n"


def test_with_an_agent_run_waits_for_the_store(box: Box) -> None:
    inner = "import trainspool as ts\nwith ts.start_run(): ts.log_metric('a', 1)"
    with box.start(*box.trainspool("daemon")) as agent:
        try:
            while box.json("status", "--json")["agent"]["running"] is False:
                assert agent.poll() is None
            done = box.process(
                *box.trainspool("run", "-n", "w", "--", sys.executable, "-c", inner), TRAINSPOOL_EXIT_WAIT="30"
            )
        finally:
            agent.terminate()
            agent.communicate(timeout=30)
    assert "w FINISHED: 1 points accepted, 1 stored, 0 dropped. It is in " in done.stderr


def test_what_mlflow_is_told_is_for_the_command_alone(box: Box) -> None:
    told = {
        "MLFLOW_TRACKING_URI": "http://tracking:5000", "MLFLOW_EXPERIMENT_ID": "7", "MLFLOW_RUN_ID": "ab" * 16,
    }  # fmt: skip
    inner = (
        "import os, trainspool as ts; print(os.environ['MLFLOW_RUN_ID'], ts.start_run().run_id); ts.log_metric('a', 1)"
    )
    del box.all["TRAINSPOOL_STORE"]
    done = box.process(*box.trainspool("run", "-n", "w", "--", sys.executable, "-c", inner), **told)
    assert done.returncode == 0 and "1 points accepted" in done.stderr and "MLFLOW_TRACKING_URI" not in done.stderr
    handed, run_id = done.stdout.split()
    assert handed == "ab" * 16 != run_id
    box.all["TRAINSPOOL_STORE"] = str(box.folder / "mlruns")
    facts = outcome(box)
    assert (facts["run_id"], facts["experiment"]) == (run_id, "Default")
