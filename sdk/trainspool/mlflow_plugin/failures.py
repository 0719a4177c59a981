"""What the plugin raises: MLflow's exceptions, with what to do next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import NOT_IMPLEMENTED, RESOURCE_DOES_NOT_EXIST, ErrorCode

from trainspool.errors import TrainspoolException

Call = TypeVar("Call", bound=Callable[..., Any])

try:
    from mlflow.exceptions import MlflowNotImplementedException as _NotImplemented
except ImportError:  # MLflow 2
    _NotImplemented = MlflowException


class NotInFileStores(_NotImplemented, NotImplementedError):
    """A file store has no such thing. Both of MLflow's ways to find that out, and to do without, meet it."""

    def __init__(self, what: str) -> None:
        MlflowException.__init__(
            self,
            f"{what} is not supported by trainspool, nor by any file store. Next: take the finished runs to a database "
            "(mlflow migrate-filestore --source <store> --target sqlite:///mlflow.db) and use it there",
            NOT_IMPLEMENTED,
        )


def as_mlflow(error: TrainspoolException) -> MlflowException:
    """Return what trainspool raised as MLflow would have raised it."""
    return MlflowException(error.message, ErrorCode.Value(error.error_code))


def does_not_exist(message: str) -> MlflowException:
    return MlflowException(message, RESOURCE_DOES_NOT_EXIST)


def in_mlflows_terms(call: Call) -> Call:
    """Have *call* raise MlflowException where trainspool would raise its own."""

    @functools.wraps(call)
    def calling(*arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except TrainspoolException as error:
            raise as_mlflow(error) from error

    return cast(Call, calling)
