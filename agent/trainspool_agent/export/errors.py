"""Why a store is not exported."""

from __future__ import annotations

from trainspool.errors import TrainspoolError


class ExportFailed(TrainspoolError):
    """Nothing was exported; the message says what to do. The store is as it was."""
