"""Scripts switched to the plugin by MLFLOW_TRACKING_URI alone."""

from __future__ import annotations

from box import LONG_WAIT_S, Box

OURS = {"MLFLOW_TRACKING_URI": "trainspool:", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}


def run(box: Box, program: str, *arguments: object, **environment: str) -> str:
    """Run a script to its end, which is to be a good one; return what it printed."""
    process = box.start(program, *arguments, **{**OURS, **environment})
    done = box.finish(process, 4 * LONG_WAIT_S)  # Ray alone starts a dozen processes
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def said(output: str, word: str) -> str:
    """Return what a script printed after *word*."""
    found = [line.partition(" ")[2] for line in output.splitlines() if line.startswith(f"{word} ")]
    assert len(found) == 1, output
    return found[0]
