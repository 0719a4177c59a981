"""The machine's metrics beside a run's, by a machine that the test makes up."""

from __future__ import annotations

import logging
import os
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import spooled

import trainspool as mlflow
from trainspool import active, systemmetrics

VARIABLES = (systemmetrics.ENABLED, systemmetrics.INTERVAL, systemmetrics.SAMPLES, systemmetrics.NODE_ID)


class Machine(types.ModuleType):
    """Stands in for psutil: all it says grows by one with each question."""

    def __init__(self) -> None:
        super().__init__("psutil")
        self.asked = 0
        self.breaks_at = 0

    def cpu_percent(self) -> float:
        self.asked += 1
        if self.asked == self.breaks_at:
            raise OSError("no /proc")
        return float(self.asked - 1)

    def virtual_memory(self) -> Any:
        return types.SimpleNamespace(used=2e9, total=8e9)

    def disk_usage(self, path: str) -> Any:
        return types.SimpleNamespace(percent=50.0, used=1e9, free=3e9)

    def net_io_counters(self) -> Any:
        return types.SimpleNamespace(bytes_recv=1e6 * self.asked, bytes_sent=2e6 * self.asked)


@pytest.fixture
def machine(here: spooled.Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine()
    monkeypatch.setitem(sys.modules, "psutil", made)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    mlflow.set_system_metrics_sampling_interval(0.001)
    yield made


def points(place: spooled.Place) -> dict[str, list[tuple[int, float]]]:
    """What was logged, by key: steps and values."""
    assert mlflow.flush(timeout=20)
    found: dict[str, list[tuple[int, float]]] = {}
    for _, key, step, value in place.stream().points:
        found.setdefault(key, []).append((step, value))
    return found


def sampled(place: spooled.Place, count: int) -> dict[str, list[tuple[int, float]]]:
    return spooled.until(
        lambda: len(next(iter(found.values()), [])) >= count and found if (found := points(place)) else None
    )  # type: ignore[no-any-return]


def test_a_run_that_asks_for_it_logs_the_machine_under_mlflows_names(machine: Machine, here: spooled.Place) -> None:
    with mlflow.start_run(log_system_metrics=True):
        found = sampled(here, 3)
    assert set(found) == {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_usage_megabytes",
        "system/disk_available_megabytes",
        "system/network_receive_megabytes",
        "system/network_transmit_megabytes",
    }
    assert found["system/cpu_utilization_percentage"][:3] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert found["system/system_memory_usage_percentage"][0] == (0, 25.0)
    assert found["system/network_receive_megabytes"][:2] == [(0, 0.0), (1, 1.0)]
    assert found["system/network_transmit_megabytes"][:2] == [(0, 0.0), (1, 2.0)]


def test_samples_are_averaged_and_what_adds_up_is_not() -> None:
    samples = [
        {"cpu": 1.0, "network_receive_megabytes": 1.0},
        {"cpu": 2.26, "network_receive_megabytes": 5.25, "gpu": 1.0},
    ]
    assert systemmetrics.mean(samples) == {"cpu": 1.6, "network_receive_megabytes": 5.25, "gpu": 1.0}


def test_several_samples_make_a_point_and_machines_are_told_apart(machine: Machine, here: spooled.Place) -> None:
    mlflow.set_system_metrics_samples_before_logging(4)
    mlflow.set_system_metrics_node_id("node-7")
    with mlflow.start_run(log_system_metrics=True):
        found = sampled(here, 2)
    assert found["system/node-7/cpu_utilization_percentage"][:2] == [(0, 2.5), (1, 6.5)]


def test_nothing_is_logged_once_the_run_has_ended(machine: Machine, here: spooled.Place) -> None:
    with mlflow.start_run(log_system_metrics=True) as run:
        sampled(here, 1)
        (stop,) = active.ending.values()
        thread = stop.__self__.thread  # type: ignore[attr-defined]
    thread.join(20)
    assert not thread.is_alive() and not active.ending
    kinds = [event[0] for event in here.stream().events if event[0] in (0, 1, 6)]
    assert kinds[-1] == 6, "the end comes after every point"
    assert run.status == "FINISHED"


@pytest.mark.parametrize(
    ("switch", "wanted", "samples"),
    [
        (mlflow.enable_system_metrics_logging, None, True),
        (mlflow.enable_system_metrics_logging, False, False),
        (mlflow.disable_system_metrics_logging, None, False),
        (mlflow.disable_system_metrics_logging, True, True),
        (lambda: None, None, False),
    ],
)
def test_the_switch_holds_for_runs_that_do_not_say(
    machine: Machine, switch: Any, wanted: bool | None, samples: bool
) -> None:
    switch()
    with mlflow.start_run(log_system_metrics=wanted):
        assert bool(active.ending) == samples


def test_without_psutil_the_run_goes_on_and_it_is_told(
    machine: Machine, here: spooled.Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with mlflow.start_run(log_system_metrics=True) as run:
        mlflow.log_metric("loss", 1.0)
    assert (
        f"system metrics of run {run.run_id} are not logged: psutil is missing. Next: pip install psutil" in caplog.text
    )
    assert set(points(here)) == {"loss"}


def test_a_machine_that_cannot_be_asked_ends_the_sampling_not_the_run(
    machine: Machine, here: spooled.Place, caplog: pytest.LogCaptureFixture
) -> None:
    machine.breaks_at = 3
    with caplog.at_level(logging.WARNING, "trainspool"), mlflow.start_run(log_system_metrics=True):
        spooled.until(lambda: "are no longer logged: no /proc" in caplog.text)
        mlflow.log_metric("loss", 1.0)
    assert points(here)["loss"] == [(0, 1.0)]


@pytest.mark.parametrize("name", ["SAMPLING_INTERVAL", "SAMPLES_BEFORE_LOGGING"])
def test_a_setting_without_meaning_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(f"MLFLOW_SYSTEM_METRICS_{name}", "often")
    with mlflow.start_run(log_system_metrics=True) as run:
        assert not active.ending
    assert f"system metrics of run {run.run_id} are not logged" in caplog.text and "often" in caplog.text


def test_a_forked_child_samples_nothing_and_stops_nothing(machine: Machine, here: spooled.Place) -> None:
    with mlflow.start_run(log_system_metrics=True) as run:
        sampled(here, 1)
        (stop,) = active.ending.values()
        with stop.__self__._logging:  # type: ignore[attr-defined]  # as if the thread were just logging
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                active.end(run, "FINISHED")
                os._exit(bool(active.ending))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        count = len(points(here)["system/cpu_utilization_percentage"])
        assert sampled(here, count + 1)


class Gpu(types.ModuleType):
    """Stands in for pynvml: two cards, of which one does not tell its power."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return types.SimpleNamespace(used=20e9, total=80e9)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return types.SimpleNamespace(gpu=90 + handle)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if handle:
            raise self.NVMLError
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000


def test_each_gpu_is_sampled_as_far_as_it_tells(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Gpu())
    _, first, second = systemmetrics.sources()
    assert first() == {
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_memory_usage_megabytes": 20e3,
        "gpu_0_utilization_percentage": 90,
        "gpu_0_power_usage_watts": 350.0,
        "gpu_0_power_usage_percentage": 50.0,
    }
    assert set(second()) == {
        f"gpu_1_{key}" for key in ("memory_usage_percentage", "memory_usage_megabytes", "utilization_percentage")
    }


def test_this_machine_says_what_mlflow_says_of_it() -> None:
    pytest.importorskip("psutil")
    monitors = (
        pytest.importorskip("mlflow.system_metrics.metrics.cpu_monitor"),
        pytest.importorskip("mlflow.system_metrics.metrics.disk_monitor"),
        pytest.importorskip("mlflow.system_metrics.metrics.network_monitor"),
    )
    theirs: set[str] = set()
    for module, name in zip(monitors, ("CPUMonitor", "DiskMonitor", "NetworkMonitor"), strict=True):
        monitor = getattr(module, name)()
        monitor.collect_metrics()
        theirs |= set(monitor.aggregate_metrics())
    sample = systemmetrics.sources()[0]()
    assert set(sample) == theirs and 0 < sample["system_memory_usage_percentage"] < 100
