"""Keras 3, with trainspool's callback: every batch's loss, each epoch's validation, and the model.

    pip install trainspool[agent] keras torch scikit-learn
    KERAS_BACKEND=torch python keras_digits.py --epochs 5

Any backend will do; without the variable Keras takes TensorFlow.
"""

import argparse
import sys

try:
    import keras
    from sklearn.datasets import load_digits
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install keras torch scikit-learn")

import trainspool as mlflow
from trainspool.integrations.keras import TrainspoolCallback


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network on scikit-learn's digits with Keras.")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    mlflow.set_experiment("Keras digits")
    with mlflow.start_run() as run:
        callback = TrainspoolCallback(log_every_n_steps=1, log_model=True)
        model.fit(
            images[:1500] / 16, labels[:1500], batch_size=64, epochs=options.epochs, verbose=0,
            validation_data=(images[1500:] / 16, labels[1500:]), callbacks=[callback],
        )  # fmt: skip
    print("Next: trainspool status", run.info.run_id)


if __name__ == "__main__":
    main()
