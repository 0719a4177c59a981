"""`gc`: what it says, what it does, with and without asking for it."""

from __future__ import annotations

import pytest

from .conftest import Box

LOG = "with ts.start_run() as run:\n  for i in range(100): ts.log_metric('a', i)\n"


def streams(box: Box) -> int:
    return len(list(box.spool.glob("streams/*/*/cursor")))


def test_of_nothing_nothing_goes(box: Box) -> None:
    done = box.call("gc")
    assert done.exit_code == 0
    assert "freed 0 B of 0 B" in done.stdout


def test_what_is_not_carried_stays_and_gc_says_why(box: Box) -> None:
    box.log(LOG)
    done = box.call("gc", "--days", "0")
    assert done.exit_code == 0
    assert "nobody has finished the stream" in done.stdout
    assert list(box.spool.glob("streams/*/*/*.seg"))


def test_gc_dry_run_then_gc(box: Box) -> None:
    box.log(LOG)
    box.sync()
    young = box.json("gc", "--json")["spools"][0]
    assert (young["freed"], young["kept"][0]["needed"]) == ([], False)
    said = box.json("gc", "--dry-run", "--days", "0", "--json")
    assert said["dry_run"]
    assert streams(box) == 1
    done = box.json("gc", "--days", "0", "--json")["spools"][0]
    assert done["freed"] == said["spools"][0]["freed"]
    assert {one["why"] for one in done["freed"]} == {"old"}
    assert (streams(box), done["left"]) == (0, {"bytes": 0, "files": 0})


def test_settings_rank_as_everywhere(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.log(LOG)
    box.sync()
    config = box.folder / "config" / "trainspool"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('[retention]\ndays = 0\n[quota]\nbytes = "3 MB"\n')
    monkeypatch.setenv("TRAINSPOOL_RETENTION_DAYS", "5")
    kept = box.json("gc", "--dry-run", "--json")["spools"][0]
    assert (kept["freed"], kept["quota"]["bytes"]) == ([], 3_000_000)
    monkeypatch.delenv("TRAINSPOOL_RETENTION_DAYS")
    assert box.json("gc", "--dry-run", "--json")["spools"][0]["freed"]


def test_a_setting_that_means_nothing_is_refused(box: Box) -> None:
    done = box.call("gc", "--bytes", "a lot")
    assert done.exit_code == 2
    assert "it takes a size" in done.output


def test_status_shows_how_full_the_spool_is(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.log(LOG)
    [usage] = box.json("status", "--json")["usage"]
    assert 0 < usage["bytes"] < usage["quota_bytes"]
    monkeypatch.setenv("TRAINSPOOL_SPOOL_QUOTA", "1")
    found = box.call("status", "--json")
    assert found.exit_code == 1
    assert "its quota is 1" in found.stdout
