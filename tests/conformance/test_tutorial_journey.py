"""The tutorial, run four times as its reader would: MLflow's client, server and migration see all of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from box import SHARED_MEMORY, Box, until
from conformance import recipe

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]

TUTORIAL = Path(__file__).parents[2] / "sdk/examples/tutorial.py"
TIMES = 4


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    with Box(tmp_path_factory.mktemp("journey")) as made:
        agent = made.start_agent()
        for _ in range(TIMES):
            done = made.run(TUTORIAL.read_text("utf-8"))
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert done.stdout.startswith("The store has everything of run"), done.stdout
        until(made.is_quiet, "everything is carried and durable")
        made.stop(agent)
    return made


@pytest.fixture(scope="module")
def seen(box: Box) -> recipe.Snapshot:
    return recipe.snapshot(box.store)


def test_four_runs_are_there_with_everything_that_was_logged(box: Box, seen: recipe.Snapshot) -> None:
    losses = [math.exp(-0.2 * epoch) for epoch in range(20)]
    assert len(seen) == TIMES and len({run["info"]["run_name"] for run in seen.values()}) == TIMES
    for run_id, run in seen.items():
        assert (run["exp"], run["info"]["status"]) == ("我的首个ML项目", "FINISHED")
        assert run["params"] == {"learning_rate": "0.1", "epochs": "20"}
        history = {key: [(step, float(value)) for _, step, value in points] for key, points in run["hist"].items()}
        assert history == {
            "loss": list(enumerate(losses)),
            "accuracy": [(step, 1 - 0.9 * loss) for step, loss in enumerate(losses)],
        }
        assert box.stored()[run_id].artifacts() == {"训练总结.txt": f"最终损失：{losses[-1]:.4f}\n".encode()}


def test_each_account_says_that_nothing_was_lost(box: Box) -> None:
    for run in box.stored().values():
        account = run.check_account()
        assert (account["accepted"], account["stored"], account["dropped"], account["damaged"]) == (40, 40, 0, 0)


def test_mlflow_client_server_and_migration_agree(box: Box, seen: recipe.Snapshot, tmp_path: Path) -> None:
    recipe.check_bytes(box.store, seen)
    assert all(paths == ["训练总结.txt"] for paths in recipe.check_artifacts(box.store, seen).values())
    recipe.check_migration(box.store, seen, tmp_path)
    recipe.check_rest(box.store, seen)
