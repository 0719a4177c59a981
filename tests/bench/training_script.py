"""A training script as its user writes it, with clocks around the log calls: ``one_script`` runs it on every back end.

    python training_script.py STEPS WITNESS

The line ``import mlflow`` is all that ``one_script`` replaces. *WITNESS* is a file of ``box.Witness``: the run's id is
its text, its counters say how many calls of each kind have returned. Prints what each call took, in ns, and when the
loop began and was left.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from array import array

import mlflow
import numpy as np

STEPS = int(sys.argv[1])
WARM_UP = 100  # steps before those that count
HIDDEN, BATCH, RATE = 512, 256, 0.1

clock = time.perf_counter_ns
witness = os.open(sys.argv[2], os.O_RDWR)
returned = memoryview(mmap.mmap(witness, 4096)).cast("Q")
random = np.random.default_rng(7)
inputs = random.normal(size=(4096, 64)).astype(np.float32)
labels = (inputs @ random.normal(size=(64, 10)).astype(np.float32)).argmax(axis=1)
first, second = (random.normal(scale=0.1, size=size).astype(np.float32) for size in ((64, HIDDEN), (HIDDEN, 10)))


def train(step: int) -> tuple[float, dict[str, float]]:
    """One step of gradient descent, about a millisecond of NumPy; return the loss, and what else is logged."""
    chosen = random.integers(0, len(inputs), BATCH)
    x, y, rows = inputs[chosen], labels[chosen], np.arange(BATCH)
    hidden = np.maximum(x @ first, 0)
    scores = hidden @ second
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    loss = -np.log(odds[rows, y] + 1e-9).mean()
    accuracy = (odds.argmax(axis=1) == y).mean()
    odds[rows, y] -= 1
    back = (odds @ second.T) * (hidden > 0)
    to_first, to_second = x.T @ back / BATCH, hidden.T @ odds / BATCH
    rate = RATE / (1 + step / 1000)
    first[...] -= rate * to_first
    second[...] -= rate * to_second
    return float(loss), {
        "train/accuracy": float(accuracy),
        "train/rate": rate,
        "grad/first": float(np.linalg.norm(to_first)),
        "grad/second": float(np.linalg.norm(to_second)),
        "weight/first": float(np.linalg.norm(first)),
        "weight/second": float(np.linalg.norm(second)),
    }


single, batches, begun = array("q"), array("q"), 0.0
mlflow.set_experiment("one script")
with mlflow.start_run() as run:
    os.pwrite(witness, run.info.run_id.encode(), 2048)
    mlflow.log_params({"hidden": HIDDEN, "batch": BATCH, "rate": RATE})
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            begun = time.monotonic()
        loss, metrics = train(step)

        before = clock()
        mlflow.log_metric("loss", loss, step=step)
        single.append(clock() - before)
        returned[0] = step + 1

        before = clock()
        mlflow.log_metrics(metrics, step=step)
        batches.append(clock() - before)
        returned[1] = step + 1

        if step % 100 == 0:
            mlflow.set_tag("reached", step)
    left = time.monotonic()

taken = {"log_metric": single.tolist()[WARM_UP:], "log_metrics": batches.tolist()[WARM_UP:]}
print(json.dumps({"begun": begun, "left": left, **taken}), flush=True)
