"""Whole scripts, switched by MLFLOW_TRACKING_URI alone: autologging, models, traces, fork, kill -9, failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import FAILED, FINISHED, KILLED, SHARED_MEMORY, Box, until
from conformance.plugin import sameness, scripts
from conformance.plugin.switched import OURS, run, said

pytestmark = [
    pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory here"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with Box(tmp_path_factory.mktemp("scripts")) as made:
        made.start_agent()
        yield made


def test_models_tables_images_inputs_and_traces_are_read_by_the_process_itself_and_by_a_fresh_one(box: Box) -> None:
    told = json.loads(said(run(box, scripts.EVERYTHING), "DONE"))
    read = json.loads(said(run(box, scripts.READS, json.dumps(told)), "READ"))
    assert read == {
        "status": "FINISHED",
        "metrics": ["accuracy", "async"],
        "system": True,
        "datasets": ["iris"],
        "models": [told["model"]],
        "artifacts": ["images", "picture.png", "table.json", "文本"],
        "images": 2,
        "found": [told["run"]],
    }


def test_autologging_a_grid_search_gives_what_it_gives_on_mlflows_own_store(box: Box) -> None:
    theirs = box.folder / "stock"
    run(box, scripts.AUTOLOG)
    run(box, scripts.AUTOLOG, MLFLOW_TRACKING_URI=str(theirs), MLFLOW_ALLOW_FILE_STORE="true")
    seen, found = (sameness.runs_of(root, "grid") for root in (theirs, box.store))
    assert len(seen) == 4
    assert seen == found


def test_what_the_calls_returned_for_is_there_after_kill_9(box: Box) -> None:
    witness = box.witness()
    process = box.start(scripts.KILLED, witness.path, **OURS)
    until(lambda: witness[0] > 300 and witness[1] == 1, "300 points")
    process.kill()
    process.wait()
    logged, run_id = witness[0], witness.text
    witness.close()
    until(lambda: box.status_of(run_id) == KILLED, "the run is marked")
    stored = box.stored()[run_id]
    until(stored.artifacts, "its artifact, which comes beside the points")
    assert [step for _, _, step in stored.points("loss")][:logged] == list(range(logged))
    assert stored.artifacts() == {"kept.txt": b"kept"}
    assert stored.texts("tags")["mlflow.source.type"] == "LOCAL"


def test_a_script_that_fails_has_a_failed_run(box: Box) -> None:
    done = box.run(scripts.FAILS, **OURS)
    assert done.returncode == 1
    run_id = said(done.stdout, "RUN")
    until(lambda: box.status_of(run_id) == FAILED, "the run is FAILED")
    assert "of the script" in box.stored()[run_id].texts("tags")["trainspool.end_reason"]


def test_forked_children_log_to_the_parents_run(box: Box) -> None:
    run_id = said(run(box, scripts.FORKS), "RUN")

    def whole() -> bool:
        stored = box.stored_run(run_id)
        return stored is not None and len(stored.artifacts()) == 3

    until(lambda: box.status_of(run_id) == FINISHED and whole(), "the run ends")
    stored = box.stored()[run_id]
    until(lambda: all(len(stored.points(f"child{number}")) == 100 for number in range(3)), "every child's points")
    assert len(stored.points("parent")) == 2


def test_threads_log_to_runs_of_no_thread_which_end_with_their_process(box: Box) -> None:
    run_ids = said(run(box, scripts.THREADS), "RUNS").split()
    until(lambda: all(box.status_of(run_id) == FINISHED for run_id in run_ids), "the runs end")
    until(box.is_quiet, "their checkpoints are written")
    for run_id in run_ids:
        box.stored()[run_id].check_account()


def test_a_second_process_logs_to_a_run_sees_it_end_and_resumes_it(box: Box) -> None:
    signal = box.folder / "end it"
    owner = box.start(scripts.OWNER, signal, **OURS)
    output = Path(f"{list(owner.args)[1]}.out")  # type: ignore[arg-type]
    until(output.read_text, "the run has begun")
    run_id = said(output.read_text(), "RUN")
    run(box, scripts.GUEST, run_id, signal, MLFLOW_ALLOW_FILE_STORE="true")
    assert owner.wait(60) == 0
    until(lambda: box.status_of(run_id) == FAILED, "the second attempt's status")
    stored = box.stored()[run_id]
    assert {key: len(stored.points(key)) for key in ("guest", "resumed")} == {"guest": 2, "resumed": 1}
    until(lambda: stored.points("restored"), "the point of the restored run")
    until(lambda: "seen" not in stored.texts("tags"), "the tag is deleted")
    assert stored.texts("params") == {"lr": "0.1"}


def test_without_an_agent_training_goes_on_and_a_read_says_what_to_do(tmp_path: Path) -> None:
    with Box(tmp_path) as alone:
        output = run(alone, scripts.NOBODY_CARRIES)
        message = said(output, "SAID")
        assert "trainspool sync" in message and "Kept: everything" in message
        assert not alone.store.exists()
        alone.sync()
        stored = alone.stored()[said(output, "RUN")]
        assert stored.status == FINISHED
        assert stored.texts("params") == {"lr": "0.1"} and stored.artifacts() == {"x.txt": b"x"}
