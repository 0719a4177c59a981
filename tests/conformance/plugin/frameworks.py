"""Trainings as their users write them, with the MLflow loggers that the frameworks bring; where the runs go is the
environment's."""

from __future__ import annotations

# Loads the model in a process of its own to see what it imports: half a minute, and nothing of the store.
QUICK = """
import os, sys, warnings; warnings.filterwarnings("ignore")
import mlflow
mlflow.models.infer_pip_requirements = lambda *_, fallback=None, **__: fallback
"""

LIGHTNING = (
    QUICK
    + """
import lightning as L, torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from torch.utils.data import DataLoader, TensorDataset

class Linear(L.LightningModule):
    def __init__(self, lr=0.1, optimizer={"name": "adam"}):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)
    def forward(self, x):
        return self.layer(x)
    def training_step(self, batch, index):
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss
    def validation_step(self, batch, index):
        self.log("val_loss", self.layer(batch[0]).square().mean())
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams["lr"])

def batches():
    return DataLoader(TensorDataset(torch.arange(64.0).reshape(16, 4) / 64), 4)

def fit(logger, *callbacks, **others):
    L.seed_everything(0)
    trainer = L.Trainer(**{
        "max_epochs": 4, "accelerator": "cpu", "logger": logger, "log_every_n_steps": 1, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": "lightning", "callbacks": [*callbacks, ModelCheckpoint()],
        **others})
    trainer.fit(Linear(), batches(), batches())
    return trainer
"""
)

LIGHTNING_AUTOLOG = (
    LIGHTNING
    + """
mlflow.set_experiment("lightning autolog")
mlflow.pytorch.autolog(checkpoint_save_best_only=False, log_every_n_step=2)
fit(False, EarlyStopping("val_loss", patience=1, min_delta=10.0))
with mlflow.start_run(run_name="around", tags={"team": "a"}):
    fit(False)
mlflow.pytorch.autolog(disable=True)
"""
)

LIGHTNING_LOGGER = (
    LIGHTNING
    + """
for log_model in (False, True, "all"):
    logger = MLFlowLogger("lightning logger", f"models {log_model}", os.environ["MLFLOW_TRACKING_URI"],
                          tags={"team": "a"}, log_model=log_model, prefix="p")
    trainer = fit(logger)
    logger.experiment.log_text(logger.run_id, "after", "after.txt")
"""
)

LIGHTNING_KILLED = (
    LIGHTNING
    + """
import mmap
fd = os.open(sys.argv[1], os.O_RDWR)
words = memoryview(mmap.mmap(fd, 4096)).cast("Q")
class Counts(MLFlowLogger):
    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step)
        words[0] += "train_loss_step" in metrics
fit(Counts("lightning killed"), max_epochs=-1)
"""
)

HUGGING_FACE = (
    QUICK
    + """
import torch
os.environ["HF_MLFLOW_LOG_ARTIFACTS"] = "1"
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return {"input_ids": torch.arange(8) + index % 20, "labels": index % 2}
torch.manual_seed(0)
config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                    max_position_embeddings=8, num_labels=2)
arguments = TrainingArguments(output_dir="trained", report_to="mlflow", max_steps=12, logging_steps=1, save_steps=6,
                              eval_strategy="steps", eval_steps=6, use_cpu=True, disable_tqdm=True, run_name="named")
model = BertForSequenceClassification(config)
trainer = Trainer(model, arguments, train_dataset=Words(), eval_dataset=Words())
trainer.train()
trainer.evaluate(metric_key_prefix="final")
mlflow.flush_async_logging()  # at its exit stock MLflow may lose what is in its queue
"""
)

OPTUNA = (
    QUICK
    + """
import optuna
from optuna_integration.mlflow import MLflowCallback
optuna.logging.set_verbosity(optuna.logging.ERROR)
def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    trial.set_user_attr("seen", trial.number)
    if mlflow.active_run() is not None and trial.study.study_name == "optuna tracked":
        mlflow.log_metric("inside", x, step=trial.number)
    if trial.number == 2:
        raise optuna.TrialPruned
    return x * x
def study(name):
    return optuna.create_study(study_name=name, sampler=optuna.samplers.RandomSampler(seed=0))
here = os.environ["MLFLOW_TRACKING_URI"]
study("optuna plain").optimize(objective, n_trials=4, callbacks=[MLflowCallback(here, "score")])
tracked = MLflowCallback(here, tag_study_user_attrs=True)
study("optuna tracked").optimize(tracked.track_in_mlflow()(objective), n_trials=4, callbacks=[tracked])
mlflow.set_experiment("optuna nested")
with mlflow.start_run(run_name="search"):
    nested = MLflowCallback(here, create_experiment=False, mlflow_kwargs={"nested": True})
    study("optuna nested").optimize(objective, n_trials=3, callbacks=[nested])
    mlflow.log_param("trials", 3)
"""
)

RAY = (
    QUICK
    + """
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback, setup_mlflow
def train(config):
    for step in range(3):
        tune.report({"loss": config["lr"] * step})
def train_inside(config):
    mlflow = setup_mlflow(config, tracking_uri=os.environ["MLFLOW_TRACKING_URI"], experiment_name="ray inside",
                          create_experiment_if_not_exists=True)
    for step in range(3):
        mlflow.log_metric("loss", config["lr"] * step, step=step)
    tune.report({"loss": 0.0})
here = os.environ["MLFLOW_TRACKING_URI"]
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
folder = os.path.abspath("ray results")
def search(trainable, space, *callbacks):
    tuner = tune.Tuner(trainable, param_space=space, run_config=tune.RunConfig(
        storage_path=folder, verbose=0, callbacks=list(callbacks)))
    assert not tuner.fit().errors
search(train, {"lr": tune.grid_search([0.5, 1.0])},
       MLflowLoggerCallback(here, experiment_name="ray", tags={"team": "a"}, save_artifact=True))
mlflow.create_experiment("ray inside")  # Ray looks and then creates: of two trials at once, one finds it made
search(train_inside, {"lr": tune.grid_search([0.5, 1.0])})
ray.shutdown()
"""
)

KERAS_AUTOLOG = (
    QUICK
    + """
import keras, numpy
keras.utils.set_random_seed(0)
X, y = numpy.arange(256, dtype="float32").reshape(64, 4) / 256, numpy.arange(64) % 2
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
mlflow.set_experiment("keras")
mlflow.keras.autolog()
model.fit(X, y, batch_size=16, epochs=3, verbose=0, validation_data=(X, y))
"""
)

# Logs a model of PyTorch and says where they are and what they predict.
MODELS = (
    QUICK
    + """
import json, numpy, torch
torch.manual_seed(0)
X = numpy.arange(12, dtype="float32").reshape(3, 4)
network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
mlflow.set_experiment("models")
with mlflow.start_run() as run:
    logged = mlflow.pytorch.log_model(network, name="network", pip_requirements=["torch"], input_example=X)
    mlflow.log_metric("loss", 0.5, step=1, model_id=logged.model_id)
print("DONE", json.dumps([run.info.run_id, logged.model_id, network(torch.tensor(X)).tolist()]))
"""
)

LOADS = """
import json, sys, warnings; warnings.filterwarnings("ignore")
import mlflow, numpy
run_id, model_id, predicted = json.loads(sys.argv[1])
X = numpy.arange(12, dtype="float32").reshape(3, 4)
for address in (f"models:/{model_id}", f"runs:/{run_id}/network"):
    loaded = mlflow.pyfunc.load_model(address)
    assert numpy.array(loaded.predict(X)).tolist() == predicted, address
assert [(one.key, one.step, one.value) for one in mlflow.get_logged_model(model_id).metrics] == [("loss", 1, 0.5)]
"""
