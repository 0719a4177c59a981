"""Who started a run, and from which program: the tags that MLflow's fluent API sets on every run.

Source: mlflow-store.md §1.7.
"""

from __future__ import annotations

import functools
import json
import os
import sys


@functools.lru_cache(maxsize=1)
def user() -> str:
    """Return the user's name, as MLflow's ``mlflow.user`` has it."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        name = os.environ.get(variable)
        if name:
            return name
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return str(os.getuid())


def tags() -> dict[str, str]:
    """Return the tags of a new run: user, program, and MLFLOW_RUN_CONTEXT's if it holds a JSON object."""
    program = sys.argv[0] if sys.argv and sys.argv[0] else "<console>"
    found = {"mlflow.user": user(), "mlflow.source.name": program, "mlflow.source.type": "LOCAL"}
    context = os.environ.get("MLFLOW_RUN_CONTEXT")
    if context:
        try:
            found.update({str(key): str(value) for key, value in json.loads(context).items()})
        except (ValueError, AttributeError):
            return found
    return found
