"""What a log call is compared with: the empty call, and the other ways of logging a metric point.

Each is a context that yields a function (key, value, step). Worker processes only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator

from bench.harness import Call


@contextlib.contextmanager
def empty() -> Iterator[Call]:
    """A call that does nothing: what the clock, the loop and a call of three arguments cost."""
    yield lambda key, value, step: None


@contextlib.contextmanager
def deque_append() -> Iterator[Call]:
    kept: deque[tuple[str, float, int, int]] = deque(maxlen=100_000)
    append, now = kept.append, time.time_ns
    yield lambda key, value, step: append((key, now(), step, value))


@contextlib.contextmanager
def os_write() -> Iterator[Call]:
    """The simplest logger that survives kill -9: msgpack and one write to a file on the spool's disk."""
    import msgpack

    fd = os.open("points.msgpack", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    write, pack, now = os.write, msgpack.packb, time.time_ns
    yield lambda key, value, step: write(fd, pack((key, now(), step, value)))
    os.close(fd)


@contextlib.contextmanager
def mlflow_synchronous() -> Iterator[Call]:
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with mlflow.start_run():
        yield mlflow.log_metric


@contextlib.contextmanager
def mlflow_asynchronous() -> Iterator[Call]:
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with mlflow.start_run() as run:
        yield lambda key, value, step: mlflow.log_metric(key, value, step, synchronous=False)
        del run
        mlflow.flush_async_logging()


@contextlib.contextmanager
def tensorboardx() -> Iterator[Call]:
    from tensorboardX import SummaryWriter

    writer = SummaryWriter("events")
    yield writer.add_scalar
    writer.close()


@contextlib.contextmanager
def trainspool_function() -> Iterator[Call]:
    """``trainspool.log_metric``: what a script calls."""
    import trainspool

    with trainspool.start_run():
        yield trainspool.log_metric


@contextlib.contextmanager
def trainspool_run() -> Iterator[Call]:
    """``run.log_metric``: without the look for the active run."""
    import trainspool

    with trainspool.start_run() as run:
        yield run.log_metric


TARGETS: dict[str, Callable[[], contextlib.AbstractContextManager[Call]]] = {
    "empty call": empty,
    "deque.append": deque_append,
    "msgpack + os.write": os_write,
    "MLflow, synchronous": mlflow_synchronous,
    "MLflow, asynchronous": mlflow_asynchronous,
    "tensorboardX": tensorboardx,
    "trainspool.log_metric": trainspool_function,
    "run.log_metric": trainspool_run,
}


def drops() -> int:
    """Return how many points the stream of this process has dropped."""
    from trainspool.stream import stream

    return sum(stream.ring.dropped(run_id)[0] for run_id in list(getattr(stream.ring, "drop_slots", ())))
