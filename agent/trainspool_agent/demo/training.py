"""The demo's training script: what a user would write, with ``import trainspool as mlflow``.

This file is training code that ships with the agent, so it alone in this package uses the public logging API.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

import trainspool as mlflow
from trainspool_agent.demo.model import CLASSES, Digits, Network, load

EXPERIMENT = "trainspool demo: handwritten digits"
BATCH = 64
METRICS_PER_STEP = 6


class Setting(NamedTuple):
    """Hyper-parameters of one run."""

    name: str
    hidden: int
    rate: float
    schedule: str = "constant"


SETTINGS = (
    Setting("narrow, careful", 16, 0.05),
    Setting("wider", 32, 0.2),
    Setting("wide, cosine", 64, 0.5, "cosine"),
    Setting("widest, cosine", 128, 0.5, "cosine"),
    Setting("too hot", 32, 6.0),
    Setting("warm, cosine", 64, 1.5, "cosine"),
)


class Progress(NamedTuple):
    """Where a run is; made after every step."""

    name: str
    step: int
    steps: int
    val_accuracy: float
    log_call_us: float


class Result(NamedTuple):
    """What a run gave, and what the store should hold of it."""

    name: str
    run_id: str
    artifact_uri: str
    setting: Setting
    val_accuracy: float
    best_val_accuracy: float
    points_logged: int
    log_call_us_p50: float
    log_call_us_p99: float


def train_all(store: str | None, runs: int, steps: int, report: Callable[[Progress], None]) -> list[Result]:
    """Train the first *runs* settings one after the other, *steps* batches each; None is the configured store."""
    if store:
        mlflow.set_tracking_uri(store)
    mlflow.set_experiment(EXPERIMENT)
    digits = load()
    return [_train(setting, number, digits, steps, report) for number, setting in enumerate(SETTINGS[:runs])]


def wait(timeout_s: float) -> bool:
    """Wait until the store has all that was logged; whether it has."""
    return mlflow.wait(timeout_s)


def _train(setting: Setting, seed: int, digits: Digits, steps: int, report: Callable[[Progress], None]) -> Result:
    rng = np.random.default_rng(seed)
    network = Network(setting.hidden, rng)
    call_us, best, accuracy = [], 0.0, 0.0
    with mlflow.start_run(run_name=setting.name) as run:
        mlflow.log_params({**setting._asdict(), "steps": steps, "batch": BATCH, "seed": seed})
        mlflow.set_tags({"dataset": "scikit-learn digits", "model": "two-layer network in NumPy"})
        for step in range(steps):
            metrics = _step(network, digits, rng.integers(0, len(digits.labels), BATCH), _rate(setting, step, steps))
            begin = time.perf_counter()
            mlflow.log_metrics(metrics, step=step)
            call_us.append((time.perf_counter() - begin) * 1e6)
            accuracy = metrics["val/accuracy"]
            best = max(best, accuracy)
            report(Progress(setting.name, step + 1, steps, accuracy, call_us[-1]))
        _log_files(network, digits)
    p50, p99 = np.percentile(call_us, [50, 99])
    points = METRICS_PER_STEP * steps
    identity = (setting.name, run.info.run_id, run.info.artifact_uri, setting)
    return Result(*identity, accuracy, best, points, float(p50), float(p99))


def _rate(setting: Setting, step: int, steps: int) -> float:
    if setting.schedule == "cosine":
        return setting.rate * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
    return setting.rate


def _step(network: Network, digits: Digits, chosen: np.ndarray, rate: float) -> dict[str, float]:
    """Learn from one batch; return the METRICS_PER_STEP metrics of this step."""
    images, labels = digits.images[chosen], digits.labels[chosen]
    gradient_norm = network.step(images, labels, rate)
    loss, accuracy = network.score(images, labels)
    val_loss, val_accuracy = network.score(digits.val_images, digits.val_labels)
    return {
        "train/loss": loss,
        "train/accuracy": accuracy,
        "val/loss": val_loss,
        "val/accuracy": val_accuracy,
        "learning_rate": rate,
        "gradient_norm": gradient_norm,
    }


def _log_files(network: Network, digits: Digits) -> None:
    with tempfile.TemporaryDirectory(prefix="trainspool-demo-") as folder:
        picture = Path(folder, "confusion_matrix.png")
        _draw_confusions(network.predict(digits.val_images), digits.val_labels, picture)
        mlflow.log_artifact(str(picture), "plots")
        weights = Path(folder, "weights.npz")
        network.save(str(weights))
        mlflow.log_artifact(str(weights), "model")


def _draw_confusions(predicted: np.ndarray, labels: np.ndarray, path: Path) -> None:
    figure = Figure(figsize=(5, 5), layout="tight")  # no pyplot: no global state, no window
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    matrix = confusion_matrix(labels, predicted, labels=range(CLASSES))
    ConfusionMatrixDisplay(matrix).plot(ax=axes, colorbar=False)
    axes.set_title("digits of the validation set")
    figure.savefig(path, dpi=100)
