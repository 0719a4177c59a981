"""Data-parallel PyTorch on CPUs or GPUs: every rank logs to one run, each by a stream of its own.

    pip install trainspool[agent] torch scikit-learn
    torchrun --standalone --nproc-per-node 2 pytorch_ddp.py --epochs 5

Rank 0 begins the run and tells the others its id; they join it with ``start_run(run_id=...)``. The run ends when the
last of them does. If one is killed, the run is FAILED or KILLED, whatever the others say.
"""

import argparse
import os
import sys

try:
    import torch
    import torch.distributed as dist
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader, TensorDataset
    from torch.utils.data.distributed import DistributedSampler
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install torch scikit-learn")

import trainspool as mlflow


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network on scikit-learn's digits, data-parallel.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        sys.exit("Next: torchrun --standalone --nproc-per-node 2 pytorch_ddp.py")

    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    mlflow.set_experiment("PyTorch DDP")
    with joined_run(rank) as run:
        if rank == 0:
            mlflow.log_params({**vars(options), "world_size": dist.get_world_size()})
        train(options, rank, device)
    if rank == 0:
        print("Next: trainspool status", run.info.run_id)
    dist.destroy_process_group()


def joined_run(rank: int) -> mlflow.Run:
    """Begin the run on rank 0, join it on the others."""
    shared = [mlflow.start_run().info.run_id if rank == 0 else None]
    dist.broadcast_object_list(shared, src=0)
    return mlflow.active_run() if rank == 0 else mlflow.start_run(run_id=shared[0])


def train(options: argparse.Namespace, rank: int, device: torch.device) -> None:
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    sampler: DistributedSampler = DistributedSampler(data, seed=0)
    step = 0
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        for batch in DataLoader(data, options.batch, sampler=sampler):
            pixels, wanted = (one.to(device) for one in batch)
            loss = nn.functional.cross_entropy(model(pixels), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mlflow.log_metric(f"rank{rank}/loss", loss.item(), step=step)
            step += 1
        mean = torch.tensor([loss.item()], device=device)
        dist.all_reduce(mean)
        if rank == 0:
            mlflow.log_metric("loss", mean.item() / dist.get_world_size(), step=step)
            with mlflow.artifact_path(f"checkpoints/epoch-{epoch:03d}.pt") as path:
                torch.save(network.state_dict(), path)


if __name__ == "__main__":
    main()
