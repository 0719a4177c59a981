"""How a person here would type a command of this environment: by its name if their PATH finds it, else by its path."""

from __future__ import annotations

import os
import shlex
import shutil
import sys


def typed(command: str) -> str:
    """Return *command* as it can be typed in this shell and folder, such as ``.venv/bin/trainspool``.

    A command that this Python's environment does not have keeps its plain name.
    """
    beside = os.path.join(os.path.dirname(sys.executable), command)
    found = shutil.which(command)
    if not os.path.exists(beside) or (found and os.path.realpath(found) == os.path.realpath(beside)):
        return command
    relative = os.path.relpath(beside)
    return shlex.quote(beside if relative.startswith("..") else relative)
