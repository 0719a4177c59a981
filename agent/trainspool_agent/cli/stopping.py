"""A command that tidies up when it is told to stop."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., Any])


def tidily(command: Command) -> Command:
    """Have SIGTERM leave a command as Ctrl-C does: through its ``finally`` blocks, with the shell's exit status."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        except ValueError:  # called by a thread of a program: its signals are its own
            return command(*args, **kwargs)
        try:
            return command(*args, **kwargs)
        finally:
            signal.signal(signal.SIGTERM, before)

    return wrapper  # type: ignore[return-value]
