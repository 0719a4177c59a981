"""MLflow's own file store on our folder: it reads, and does what no event can say.

MLflow 3.13 and later open a file store only if the user asked for it by MLFLOW_ALLOW_FILE_STORE. Whoever asked for
``trainspool:`` did.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_ALLOW = "MLFLOW_ALLOW_FILE_STORE"
_lock = threading.Lock()

Made = TypeVar("Made")


def tracking(root: str) -> Any:
    """Return MLflow's file store of runs in *root*, which is there and complete."""
    from mlflow.store.tracking.file_store import FileStore

    return _allowed(lambda: FileStore(root, root))


def registry(root: str) -> Any:
    """Return MLflow's file store of registered models in *root*."""
    from mlflow.store.model_registry.file_store import FileStore

    return _allowed(lambda: FileStore(root))


def _allowed(make: Callable[[], Made]) -> Made:
    with _lock:
        said = os.environ.get(_ALLOW)
        os.environ[_ALLOW] = "true"
        try:
            return make()
        finally:
            if said is None:
                del os.environ[_ALLOW]
            else:
                os.environ[_ALLOW] = said


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
