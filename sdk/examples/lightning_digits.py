"""Lightning, with trainspool's logger: every step's loss, each epoch's validation, and the checkpoints.

    pip install trainspool[agent] lightning scikit-learn
    python lightning_digits.py --epochs 5

Several processes (``Trainer(strategy="ddp", devices=2)``) need nothing more: rank 0 logs.
"""

import argparse
import sys

try:
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset, random_split
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install lightning scikit-learn")

from trainspool.integrations.lightning import TrainspoolLogger


class Digits(L.LightningModule):
    def __init__(self, hidden: int = 64, lr: float = 5e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        pixels, labels = batch
        loss = nn.functional.cross_entropy(self.layers(pixels), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        pixels, labels = batch
        scores = self.layers(pixels)
        self.log("val_loss", nn.functional.cross_entropy(scores, labels))
        self.log("val_accuracy", (scores.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network on scikit-learn's digits with Lightning.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=64)
    options = parser.parse_args()

    L.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    train, val = random_split(data, [0.8, 0.2])

    logger = TrainspoolLogger("Lightning digits", log_model="all")
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        callbacks=[ModelCheckpoint(monitor="val_loss", save_top_k=1, save_last=True)],
    )
    trainer.fit(Digits(options.hidden), DataLoader(train, 32, shuffle=True), DataLoader(val, 256))
    print("Next: trainspool status", logger.run_id)


if __name__ == "__main__":
    main()
