"""How the SDK speaks up: Python's logging, under the name ``trainspool``, loaded when there is something to say."""

from __future__ import annotations


def warn(message: str, *arguments: object, traceback: bool = False) -> None:
    """Log a warning: odd, or counted; training goes on. *traceback*: with the exception being handled."""
    import logging  # importing trainspool has a budget of 50 ms, and most processes have nothing to say

    logging.getLogger("trainspool").warning(message, *arguments, exc_info=traceback)
