"""Every exception a user of trainspool can meet.

    TrainspoolError
    ├── TrainspoolException     misuse of the logging API, in MLflow's terms (also a ValueError)
    ├── AbsentFeature           a name of MLflow's that trainspool does not have (also an AttributeError)
    └── SpoolError              a spool file is not as the format says
        ├── ChecksumMismatch    complete, but not as written
        ├── MalformedFrame      no valid header where one should be
        ├── MalformedEvent      the frame is sound, an event in it is not
        ├── UnknownFormatVersion    written by a newer trainspool
        └── UnsafeSpool         wrong owner, a link where a file should be, a name that attacks

Source: sdk/docs/spool-format.md for the conditions, MLflow's messages for misuse.
"""

from __future__ import annotations

from pathlib import Path

INVALID_PARAMETER_VALUE = "INVALID_PARAMETER_VALUE"
RESOURCE_DOES_NOT_EXIST = "RESOURCE_DOES_NOT_EXIST"
RESOURCE_ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"


class TrainspoolError(Exception):
    """Whatever trainspool raises on purpose."""


class TrainspoolException(TrainspoolError, ValueError):
    """Misuse of the logging API: raised at the call, nothing was logged.

    Has MLflow's ``error_code`` and ``message``, so code that handles ``MlflowException`` by its fields keeps working.
    """

    def __init__(self, message: str, error_code: str = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(message, error_code)
        self.message, self.error_code = message, error_code

    def __str__(self) -> str:
        return self.message


class AbsentFeature(TrainspoolError, AttributeError):
    """A name that MLflow has and trainspool has not; the message says how to get it."""


class SpoolError(TrainspoolError):
    """A spool file is not as the format says; the message names what survived."""

    def __init__(self, what: str, path: Path | str, offset: int, kept: str, next_step: str) -> None:
        super().__init__(what, path, offset, kept, next_step)  # positional, so it crosses processes by pickle
        self.what, self.path, self.offset, self.kept, self.next_step = what, path, offset, kept, next_step

    def __str__(self) -> str:
        return f"{self.what} in {self.path} at byte {self.offset}. Kept: {self.kept}. Next: {self.next_step}."


class ChecksumMismatch(SpoolError):
    """A frame is complete, but not as it was written."""


class MalformedFrame(SpoolError):
    """No valid frame header stands where one should."""


class MalformedEvent(SpoolError):
    """The frame is sound, but an event in it breaks the format."""


class UnknownFormatVersion(SpoolError):
    """A newer trainspool wrote this; it is kept for an agent that can read it."""


class UnsafeSpool(SpoolError):
    """A spool that must not be trusted: wrong owner, a link, a name that attacks."""
