"""Runs sequences of fluent calls with the library it is told: ``python fluent_worker.py mlflow|trainspool``.

Reads one JSON object a line: root, calls. Answers one: the outcome of each call, and the ids of the runs as they came.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from typing import Any


class Failed(Exception):
    """What a training loop raises in a ``with`` block."""


class Player:
    """Plays one sequence."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.runs: list[str] = []

    def play(self, root: str, calls: list[list[Any]]) -> dict[str, Any]:
        self.library.set_tracking_uri(root)
        self.library.set_experiment("base")
        outcomes = [self.outcome(*call) for call in calls]
        while self.library.active_run() is not None:
            self.library.end_run()
        return {"outcomes": outcomes, "runs": self.runs}

    def outcome(self, name: str, *arguments: Any) -> str:
        *positional, named = arguments
        try:
            call = getattr(self, f"do_{name}", None) or getattr(self.library, name)
            call(*positional, **named)
        except Failed:
            return "failed"
        except Exception as error:  # noqa: BLE001  whatever it raises is compared
            return f"raised {type(error).__name__}: {error}"
        finally:
            self.learn()
        return "done"

    def learn(self) -> None:
        """Number the runs in the order in which they become active."""
        run = self.library.active_run()
        if run is not None and run.info.run_id not in self.runs:
            self.runs.append(run.info.run_id)

    def do_resume(self, number: int, **named: Any) -> None:
        self.library.start_run(run_id=self.runs[number % len(self.runs)], **named)

    def do_failing_block(self, key: str, **named: Any) -> None:
        with self.library.start_run(**named):
            self.learn()
            self.library.log_metric(key, 1.5, step=1)
            raise Failed("of the script")

    def do_block(self, key: str, **named: Any) -> None:
        with self.library.start_run(**named) as run:
            self.learn()
            self.library.log_param(key, run.info.run_name is not None)

    def do_log_artifact(self, name: str, content: str, folder: str | None, **named: Any) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = os.path.join(scratch, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            self.library.log_artifact(path, folder, **named)

    def do_log_artifacts(self, files: dict[str, str], folder: str | None, **named: Any) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                path = os.path.join(scratch, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
            self.library.log_artifacts(scratch, folder, **named)


def main() -> None:
    library = importlib.import_module(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow greets there
    for line in sys.stdin:
        asked = json.loads(line)
        answer = Player(library).play(asked["root"], asked["calls"])
        if hasattr(library, "wait"):
            answer["stored"] = library.wait(timeout=20)
        print(json.dumps(answer), file=answers, flush=True)


main()
