"""A small neural network in NumPy and the digits it learns: the part of the demo that knows nothing of logging.

Two layers, ReLU, softmax, plain gradient descent; ``images`` are float64 of shape (n, 64) in 0..1, ``labels`` ints of
shape (n,) in 0..9.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CLASSES = 10


class Digits(NamedTuple):
    """Scikit-learn's handwritten digits, four fifths to learn from and one fifth to be judged by."""

    images: Any
    labels: Any
    val_images: Any
    val_labels: Any


def load() -> Digits:
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16.0, labels, test_size=0.2, random_state=0, stratify=labels)
    return Digits(split[0], split[2], split[1], split[3])


class Network:
    """Weights of both layers; ``step`` learns from one batch."""

    def __init__(self, hidden: int, rng: Any) -> None:
        self.w1 = rng.normal(0, np.sqrt(2 / 64), (64, hidden))
        self.b1 = np.zeros(hidden)
        self.w2 = rng.normal(0, np.sqrt(1 / hidden), (hidden, CLASSES))
        self.b2 = np.zeros(CLASSES)

    def step(self, images: Any, labels: Any, rate: float) -> float:
        """Descend by *rate* on one batch; return the norm of the gradient."""
        hidden, probabilities = self._forward(images)
        error = (probabilities - np.eye(CLASSES)[labels]) / len(labels)
        back = (error @ self.w2.T) * (hidden > 0)
        gradients = (images.T @ back, back.sum(0), hidden.T @ error, error.sum(0))
        for parameter, gradient in zip((self.w1, self.b1, self.w2, self.b2), gradients, strict=True):
            np.subtract(parameter, rate * gradient, out=parameter)
        return float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))

    def score(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return mean cross-entropy and accuracy."""
        probabilities = self._forward(images)[1]
        loss = -np.log(probabilities[np.arange(len(labels)), labels] + 1e-12).mean()
        return float(loss), float((probabilities.argmax(1) == labels).mean())

    def predict(self, images: Any) -> Any:
        return self._forward(images)[1].argmax(1)

    def _forward(self, images: Any) -> tuple[Any, Any]:
        hidden = np.maximum(images @ self.w1 + self.b1, 0)
        scores = hidden @ self.w2 + self.b2
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return hidden, odds / odds.sum(1, keepdims=True)

    def save(self, path: str) -> None:
        """Write the weights as .npz, which loads without running anything."""
        np.savez(path, w1=self.w1, b1=self.b1, w2=self.w2, b2=self.b2)
