"""Optuna: a run per trial, live from its beginning, below the run of the whole search; two trials at a time.

pip install trainspool[agent] optuna scikit-learn
python optuna_study.py --trials 12
"""

import argparse
import sys

try:
    import optuna
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}. Next: pip install optuna scikit-learn")

import trainspool as mlflow
from trainspool.integrations.optuna import Trials

EPOCHS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a linear classifier's settings on scikit-learn's digits.")
    parser.add_argument("--trials", type=int, default=12)
    options = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(images / 16, labels, test_size=0.25, random_state=0)
    trials = Trials("accuracy")

    @trials.track
    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        alpha = trial.suggest_float("alpha", 1e-6, 1e-1, log=True)
        model = SGDClassifier(learning_rate="constant", eta0=rate, alpha=alpha, random_state=0)
        accuracy = 0.0
        for epoch in range(EPOCHS):
            model.partial_fit(x_train, y_train, classes=range(10))
            accuracy = model.score(x_val, y_val)
            mlflow.log_metric("val_accuracy", accuracy, step=epoch)  # to this trial's run, at once
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="Optuna digits",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    mlflow.set_experiment("Optuna digits")
    with mlflow.start_run(run_name="search") as search:
        study.optimize(objective, n_trials=options.trials, n_jobs=2, callbacks=[trials])
        mlflow.log_params({f"best_{key}": value for key, value in study.best_params.items()})
        mlflow.log_metric("best_accuracy", study.best_value)
    print("best:", study.best_params, round(study.best_value, 3))
    print("Next: trainspool status", search.info.run_id)


if __name__ == "__main__":
    main()
