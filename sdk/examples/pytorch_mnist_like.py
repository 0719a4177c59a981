"""A PyTorch training loop, logged step by step. The data is scikit-learn's 8x8 digits, so nothing is downloaded.

    pip install trainspool torch scikit-learn
    python pytorch_mnist_like.py --epochs 5

Per step: loss, accuracy of the batch, gradient norm, learning rate. Per epoch: validation, and a checkpoint.
"""

import argparse
import sys

import trainspool as mlflow

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset, random_split
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install torch scikit-learn")


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    train_batches, val_batches = load(options.batch)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * len(train_batches)
    )

    mlflow.set_experiment("PyTorch digits")
    with mlflow.start_run() as run:
        mlflow.log_params(vars(options))
        step = 0
        for epoch in range(options.epochs):
            for images, labels in train_batches:
                mlflow.log_metrics(train_step(model, optimizer, schedule, images, labels), step=step)
                step += 1
            mlflow.log_metrics(validate(model, val_batches), step=step)
            log_checkpoint(model, optimizer, epoch)
    print("Next: trainspool status", run.info.run_id)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small convolutional network on scikit-learn's digits.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(batch: int) -> tuple[DataLoader, DataLoader]:
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    train, val = random_split(TensorDataset(pixels, torch.tensor(labels)), [0.8, 0.2])
    return DataLoader(train, batch_size=batch, shuffle=True), DataLoader(val, batch_size=256)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, float]:
    model.train()
    scores = model(images)
    loss = nn.functional.cross_entropy(scores, labels)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    rate = schedule.get_last_lr()[0]
    optimizer.step()
    schedule.step()
    accuracy = (scores.argmax(1) == labels).float().mean()
    return {"loss": loss.item(), "accuracy": accuracy.item(), "gradient_norm": norm.item(), "learning_rate": rate}


@torch.no_grad()
def validate(model: nn.Module, batches: DataLoader) -> dict[str, float]:
    model.eval()
    loss, right, count = 0.0, 0, 0
    for images, labels in batches:
        scores = model(images)
        loss += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        right += int((scores.argmax(1) == labels).sum())
        count += len(labels)
    return {"val/loss": loss / count, "val/accuracy": right / count}


def log_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Log what is needed to go on from here, written straight to where it is logged: no copy is made."""
    with mlflow.artifact_path(f"checkpoints/epoch-{epoch:03d}.pt") as path:
        torch.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


if __name__ == "__main__":
    main()
