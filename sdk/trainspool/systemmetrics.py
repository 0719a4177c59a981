"""Metrics of the machine beside those of the run: ``system/cpu_utilization_percentage`` and its like, every 10 s.

One thread a run that asked for it, which samples with psutil, and pynvml where there is a GPU; neither is a
dependency. Names, switches and environment variables are MLflow's, so a job that sets those is understood.

Source: mlflow-store.md 4, "Details"; mlflow/system_metrics of MLflow 3.17 for names and units.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from trainspool import active
from trainspool.complaints import warn
from trainspool.errors import TrainspoolException
from trainspool.reading import layout, runs
from trainspool.run import Run
from trainspool.settling import settle
from trainspool.stream import stream

ENABLED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
INTERVAL, SAMPLES, NODE_ID = (
    f"MLFLOW_SYSTEM_METRICS_{name}" for name in ("SAMPLING_INTERVAL", "SAMPLES_BEFORE_LOGGING", "NODE_ID")
)
INTERVAL_S, SAMPLES_BEFORE_LOGGING = 10.0, 1
PREFIX = "system/"
_TOTALS = ("network_receive_megabytes", "network_transmit_megabytes")  # since the start: the last counts, not the mean

Source = Callable[[], dict[str, float]]


def enable_system_metrics_logging() -> None:
    """Have every run that starts from now on log the machine's metrics, unless it is started with False."""
    os.environ[ENABLED] = "true"


def disable_system_metrics_logging() -> None:
    """Have no run that starts from now on log the machine's metrics, unless it is started with True."""
    os.environ[ENABLED] = "false"


def set_system_metrics_sampling_interval(interval: float | None) -> None:
    """Sample every *interval* seconds, for runs that start from now on; None: every 10."""
    _set(INTERVAL, interval)


def set_system_metrics_samples_before_logging(samples: int | None) -> None:
    """Log the mean of so many samples, for runs that start from now on; None: of each one."""
    _set(SAMPLES, samples)


def set_system_metrics_node_id(node_id: str | None) -> None:
    """Tell machines apart that log to one run: ``system/<node_id>/...``; for runs that start from now on."""
    _set(NODE_ID, node_id)


def watch(run: Run, *, resumed: bool) -> None:
    """Sample beside *run* until it ends; of a resumed one the steps go on. Without psutil: a warning, and no more."""
    try:
        monitor = Monitor(run, sources(), resumed=resumed)
    except ImportError:
        warn("system metrics of run %s are not logged: psutil is missing. Next: pip install psutil", run.run_id)
        return
    except ValueError as error:
        warn("system metrics of run %s are not logged: %s", run.run_id, error)
        return
    active.ending[run] = monitor.stop
    try:
        monitor.thread.start()
    except RuntimeError as error:  # the interpreter exits, and starts no thread any more
        warn("system metrics of run %s are not logged: %s", run.run_id, error)


class Monitor:
    """What samples beside one run; in a thread of its own, which a forked child has not."""

    def __init__(self, run: Run, sources: list[Source], *, resumed: bool) -> None:
        self.run, self.sources, self.resumed = run, sources, resumed
        self.interval_s = float(os.environ.get(INTERVAL) or INTERVAL_S)
        self.samples = int(os.environ.get(SAMPLES) or SAMPLES_BEFORE_LOGGING)
        node = os.environ.get(NODE_ID)
        self.prefix = f"{PREFIX}{node}/" if node else PREFIX
        self.thread = threading.Thread(target=self._work, name="trainspool system metrics", daemon=True)
        self._stopped = threading.Event()
        self._logging = threading.Lock()

    def stop(self) -> None:
        """Log nothing from now on. Waits no longer than a log call takes."""
        with self._logging:
            self._stopped.set()

    def _work(self) -> None:
        try:
            step = self._first_step()
            while self._log_next(step):
                step += 1
        except (OSError, RuntimeError, TrainspoolException) as error:
            warn("system metrics of run %s are no longer logged: %s", self.run.run_id, error)

    def _log_next(self, step: int) -> bool:
        """Sample for as long as one point needs, and log it; False once the run has ended."""
        taken: list[dict[str, float]] = []
        while len(taken) < self.samples:
            if self._stopped.wait(self.interval_s) or self.run.end_time is not None:
                return False
            taken.append(_sample(self.sources))
        with self._logging:
            if not self._stopped.is_set():
                self.run.log_metrics({f"{self.prefix}{key}": value for key, value in mean(taken).items()}, step)
        return not self._stopped.is_set()

    def _first_step(self) -> int:
        if not self.resumed:
            return 0
        settle()
        place = layout.find_run(stream.store, self.run.run_id)
        return 0 if place is None else runs.next_step(place, PREFIX)


def mean(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return what is logged of *samples*: means to one decimal, and what adds up as it is at last."""
    keys = dict.fromkeys(key for sample in samples for key in sample)
    return {key: samples[-1][key] if key in _TOTALS else _mean_of(key, samples) for key in keys}


def _mean_of(key: str, samples: list[dict[str, float]]) -> float:
    values = [sample[key] for sample in samples if key in sample]
    return round(sum(values) / len(values), 1)


def _sample(sources: list[Source]) -> dict[str, float]:
    return {key: value for source in sources for key, value in source().items()}


# -- the machine ----------------------------------------------------------------------------------------------------


def sources() -> list[Source]:
    """Return what can be sampled here.

    Raises:
        ImportError: psutil is not installed.
    """
    return [_machine(), *_gpus()]


def _machine() -> Source:
    import psutil  # not a dependency

    psutil.cpu_percent()  # the first call starts the first interval, and says 0
    begun = psutil.net_io_counters()

    def sample() -> dict[str, float]:
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - begun.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - begun.bytes_sent) / 1e6,
        }

    return sample


def _gpus() -> list[Source]:
    """Return a source for each of NVIDIA's GPUs; none where pynvml is missing or finds no driver."""
    try:
        import pynvml  # not a dependency
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    return [_gpu(pynvml, number, handle) for number, handle in enumerate(handles)]


def _gpu(pynvml: Any, number: int, handle: Any) -> Source:
    def memory() -> dict[str, float]:
        found = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return {"memory_usage_percentage": found.used / found.total * 100, "memory_usage_megabytes": found.used / 1e6}

    def utilization() -> dict[str, float]:
        return {"utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu}

    def power() -> dict[str, float]:
        used, limit = pynvml.nvmlDeviceGetPowerUsage(handle), pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
        return {"power_usage_watts": used / 1000, "power_usage_percentage": used / limit * 100}

    def sample() -> dict[str, float]:
        found: dict[str, float] = {}
        for part in (memory, utilization, power):
            try:
                found.update(part())
            except pynvml.NVMLError:  # not every card tells everything
                continue
        return {f"gpu_{number}_{key}": value for key, value in found.items()}

    return sample


def _set(variable: str, value: object) -> None:
    """In the environment, as MLflow does: child processes start runs, too."""
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = str(value)


os.register_at_fork(after_in_child=active.ending.clear)
