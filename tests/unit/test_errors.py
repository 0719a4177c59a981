from __future__ import annotations

import inspect
import pickle

import pytest

from trainspool import errors

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
SPOOL_ERRORS = [cls for cls in CLASSES if issubclass(cls, errors.SpoolError)]


def test_a_spool_error_answers_the_four_questions() -> None:
    error = errors.ChecksumMismatch("checksum mismatch", "a/0.00.seg", 81920, "frames 0-411", "trainspool verify a")
    assert str(error) == (
        "checksum mismatch in a/0.00.seg at byte 81920. Kept: frames 0-411. Next: trainspool verify a."
    )


@pytest.mark.parametrize("cls", SPOOL_ERRORS)
def test_a_spool_error_crosses_processes(cls: type[errors.SpoolError]) -> None:
    error = pickle.loads(pickle.dumps(cls("what", "path", 5, "kept", "next")))
    assert type(error) is cls and error.offset == 5 and str(error) == "what in path at byte 5. Kept: kept. Next: next."


def test_misuse_can_be_caught_as_mlflow_code_does() -> None:
    error = errors.TrainspoolException("no such run", errors.RESOURCE_DOES_NOT_EXIST)
    assert isinstance(error, ValueError) and str(error) == error.message == "no such run"
    assert pickle.loads(pickle.dumps(error)).error_code == "RESOURCE_DOES_NOT_EXIST"


def test_every_error_is_a_trainspool_error_and_stands_in_the_tree() -> None:
    for cls in CLASSES:
        assert issubclass(cls, errors.TrainspoolError) and cls.__name__ in (errors.__doc__ or "")
