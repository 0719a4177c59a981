"""MLflow's own migration of a file store, run as a program of its own in a folder of ours.

The folder is where a user's ``queue.py`` cannot shadow Python's, and the database's name there holds no character that
an SQLite address gives another meaning: the folders above it may.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainspool_agent.export.errors import ExportFailed

LINES_SHOWN = 15
TOO_OLD = 87
DATABASE = "mlflow.db"
PROGRAM = f"""
import sys
from pathlib import Path
try:
    from mlflow.store.fs2db import migrate
except ImportError:
    sys.exit({TOO_OLD})
migrate(Path(sys.argv[1]), "sqlite:///{DATABASE}", progress=False)
"""


def migrate(store: str, folder: Path, lock: int) -> Path:
    """Make a database of *store* in *folder*, and return its file; *lock* is held as long as that goes on.

    Raises:
        ExportFailed: MLflow cannot; what it says is in the message.
    """
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, store], check=False, capture_output=True, text=True, errors="replace",
        cwd=folder, env=environment, pass_fds=(lock,), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == 0:
        return folder / DATABASE
    said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-LINES_SHOWN:])
    if done.returncode == TOO_OLD:
        raise ExportFailed("this MLflow cannot migrate a file store. Next: pip install --upgrade 'mlflow>=3.10'")
    if "disk is full" in said or "No space left" in said:
        raise ExportFailed(
            f"there is not enough space in {folder.parent}; nothing was exported. "
            "Next: make room there, or name a target elsewhere"
        )
    raise ExportFailed(
        f"MLflow refuses {store}; nothing was exported. It says:\n{said}\n"
        "Next: mend or move out what it names; if it names nothing, and nothing logs there, report it with these lines"
    )
