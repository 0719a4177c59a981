"""Hugging Face's Trainer, with trainspool's callback: a tiny BERT, made here, learns which of two words comes first.

    pip install trainspool[agent] transformers accelerate torch
    python huggingface_trainer.py --steps 60

Nothing is downloaded. ``report_to="none"`` keeps the Trainer's own reporting off.
"""

import argparse
import sys
import tempfile

try:
    import torch
    from torch.utils.data import Dataset
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install transformers accelerate torch")

from trainspool.integrations.huggingface import TrainspoolCallback


class WhichIsFirst(Dataset):
    """Eight words each; the label says whether word 1 comes before word 2."""

    def __init__(self, count: int, seed: int) -> None:
        numbers = torch.Generator().manual_seed(seed)
        self.words = torch.randint(3, 32, (count, 8), generator=numbers)
        places = torch.stack([torch.randperm(8, generator=numbers)[:2] for _ in range(count)])
        self.words[torch.arange(count), places[:, 0]] = 1
        self.words[torch.arange(count), places[:, 1]] = 2
        self.labels = (places[:, 0] < places[:, 1]).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a tiny BERT with Hugging Face's Trainer.")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    config = BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=8, num_labels=2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, report_to="none", max_steps=options.steps, per_device_train_batch_size=32,
            learning_rate=1e-3, logging_steps=1, eval_strategy="steps", eval_steps=20, save_steps=20,
            save_total_limit=1, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            BertForSequenceClassification(config),
            arguments,
            train_dataset=WhichIsFirst(2000, seed=0),
            eval_dataset=WhichIsFirst(200, seed=1),
            callbacks=[TrainspoolCallback("Hugging Face", log_checkpoints=True)],
        )
        trainer.train()


if __name__ == "__main__":
    main()
