"""The first steps with MLflow, on trainspool: the import is the only line that differs.

    python tutorial.py

Then look at the run with the command that the script prints.
"""

import math
from pathlib import Path

import trainspool as mlflow

mlflow.set_experiment("我的首个ML项目")

with mlflow.start_run() as run:
    mlflow.log_param("learning_rate", 0.1)
    mlflow.log_param("epochs", 20)

    for epoch in range(20):
        loss = math.exp(-0.2 * epoch)
        mlflow.log_metric("loss", loss, step=epoch)
        mlflow.log_metric("accuracy", 1 - 0.9 * loss, step=epoch)

    outputs = Path("outputs")
    outputs.mkdir(exist_ok=True)
    (outputs / "训练总结.txt").write_text(f"最终损失：{loss:.4f}\n", encoding="utf-8")
    mlflow.log_artifacts("outputs")

if mlflow.wait(timeout=10):
    print("The store has everything of run", run.info.run_id)
else:
    print("Logged, and on its way to the store. Next: trainspool status", run.info.run_id)
