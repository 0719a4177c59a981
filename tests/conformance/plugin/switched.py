"""Scripts switched to the plugin by MLFLOW_TRACKING_URI alone."""

from __future__ import annotations

from box import Box

OURS = {"MLFLOW_TRACKING_URI": "trainspool:", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}


def run(box: Box, program: str, *arguments: object, **environment: str) -> str:
    """Run a script to its end, which is to be a good one; return what it printed."""
    done = box.run(program, *arguments, **{**OURS, **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def said(output: str, word: str) -> str:
    """Return what a script printed after *word*."""
    found = [line.partition(" ")[2] for line in output.splitlines() if line.startswith(f"{word} ")]
    assert len(found) == 1, output
    return found[0]
