"""How the SDK speaks up: Python's logging, under the name ``trainspool``, loaded when there is something to say."""

from __future__ import annotations


def warn(message: str, *arguments: object, traceback: bool = False) -> None:
    """Log a warning: odd, or counted; training goes on. *traceback*: with the exception being handled."""
    import logging  # importing trainspool has a budget of 50 ms, and most processes have nothing to say

    # As text: whoever keeps the record of an exception keeps its traceback, and with it a pump, a ring, descriptors.
    texts = [str(one) if isinstance(one, BaseException) else one for one in arguments]
    logging.getLogger("trainspool").warning(message, *texts, exc_info=traceback)
