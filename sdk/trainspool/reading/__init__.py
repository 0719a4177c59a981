"""What a store holds, read from its files alone: MLflow's layout, whoever wrote it, and no MLflow needed.

Loaded when something is read: logging needs none of it. Where MLflow gives up a whole experiment for one bad file,
that file is left out and told of once.

Source: mlflow-store.md 1.
"""
