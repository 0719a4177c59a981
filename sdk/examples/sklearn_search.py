"""scikit-learn: a grid search whose scores are there as they come, from every worker, and a run for each candidate.

    pip install trainspool[agent] scikit-learn
    python sklearn_search.py

Kill it in the middle: what was scored is in the run's table cv_scores.json.
"""

import sys

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install scikit-learn")

import trainspool as mlflow
from trainspool.integrations.sklearn import LiveScoring, fit


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    model = MLPClassifier(max_iter=400, early_stopping=True, random_state=0)
    grid = {"hidden_layer_sizes": [(16,), (32,)], "learning_rate_init": [1e-3, 1e-2]}
    search = GridSearchCV(model, grid, scoring=LiveScoring("accuracy"), cv=3, n_jobs=2)

    mlflow.set_experiment("scikit-learn search")
    with mlflow.start_run() as run:
        fit(search, images / 16, labels)
    print("best:", search.best_params_, round(search.best_score_, 3))
    print("Next: trainspool status", run.info.run_id)


if __name__ == "__main__":
    main()
