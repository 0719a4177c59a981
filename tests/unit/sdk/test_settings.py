"""Settings: environment beats config file beats default, for every setting alike; where rings live; who we are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from spooled import Place

from trainspool import identity, settings, source
from trainspool.spool import ringfile, ringfolder

EVERY = {
    "spool": ("TRAINSPOOL_DIR", "/env/spool", "/config/spool", Path("/env/spool"), Path("/config/spool")),
    "experiment": ("TRAINSPOOL_EXPERIMENT", "env", "config", "env", "config"),
    "run_id": ("TRAINSPOOL_RUN_ID", "e1", "c1", "e1", "c1"),
    "run_name": ("TRAINSPOOL_RUN_NAME", "env", "config", "env", "config"),
    "ring_bytes": ("TRAINSPOOL_RING_BYTES", "1048576", 2097152, 1048576, 2097152),
    "exit_wait_s": ("TRAINSPOOL_EXIT_WAIT", "1.5", 2, 1.5, 2.0),
    "autostart": ("TRAINSPOOL_AUTOSTART", "1", False, True, False),
    "disabled": ("TRAINSPOOL_DISABLED", "0", True, False, True),
}
IN_FILE = {"exit_wait_s": "exit_wait"}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in [name for name in os.environ if name.startswith(("TRAINSPOOL_", "SLURM_", "KUBERNETES_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def write_config(bare: dict[str, str], **values: Any) -> None:
    folder = Path(bare["XDG_CONFIG_HOME"], "trainspool")
    folder.mkdir(parents=True, exist_ok=True)
    shown = {True: "true", False: "false"}
    lines = [f"{key} = {shown[v] if isinstance(v, bool) else repr(v)}\n" for key, v in values.items()]
    (folder / "config.toml").write_text("".join(lines))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="config files need tomllib")
@pytest.mark.parametrize("name", EVERY)
def test_environment_beats_config_beats_default(bare: dict[str, str], name: str) -> None:
    variable, said, written, from_environment, from_config = EVERY[name]
    default = getattr(settings.load(bare), name)
    assert default not in (from_environment, from_config) or isinstance(default, bool)
    write_config(bare, **{IN_FILE.get(name, name): written})
    assert getattr(settings.load(bare), name) == from_config
    assert getattr(settings.load({**bare, variable: said}), name) == from_environment
    assert getattr(settings.load({**bare, variable: ""}), name) == from_config, "set to nothing is not set"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="config files need tomllib")
def test_the_store_follows_the_same_order(bare: dict[str, str]) -> None:
    assert settings.said_store(bare) is None
    write_config(bare, store="/config/store")
    assert settings.said_store(bare) == "/config/store"
    assert settings.said_store({**bare, "TRAINSPOOL_STORE": "/env/store"}) == "/env/store"


MLFLOWS = {
    "MLFLOW_EXPERIMENT_NAME": ("experiment", "TRAINSPOOL_EXPERIMENT"),
    "MLFLOW_EXPERIMENT_ID": ("experiment_id", "TRAINSPOOL_EXPERIMENT"),
    "MLFLOW_RUN_ID": ("run_id", "TRAINSPOOL_RUN_ID"),
}


@pytest.mark.parametrize("variable", MLFLOWS)
def test_mlflows_own_names_count_where_ours_are_not_set(bare: dict[str, str], variable: str) -> None:
    name, ours = MLFLOWS[variable]
    assert getattr(settings.load({**bare, variable: "x"}), name) == "x"
    assert getattr(settings.load({**bare, variable: ""}), name) is None
    assert getattr(settings.load({**bare, variable: "x", ours: "y"}), name) in ("y", None)
    if sys.version_info >= (3, 11):
        write_config(bare, experiment="config", run_id="config")
        told = settings.load({**bare, variable: "x"})
        assert getattr(told, name) == "x" and (told.experiment is None) == (name == "experiment_id")


def test_an_experiments_name_beats_its_id(bare: dict[str, str]) -> None:
    told = settings.load({**bare, "MLFLOW_EXPERIMENT_NAME": "mnist", "MLFLOW_EXPERIMENT_ID": "7"})
    assert (told.experiment, told.experiment_id) == ("mnist", None)


FOLDERS = {
    "/data/mlruns": "/data/mlruns", "runs": "runs", "file:///data/ml%20runs": "/data/ml runs", "file:runs": "runs",
    "trainspool:": "", "trainspool:///data/mlruns": "/data/mlruns", "C:/runs": "C:/runs",
}  # fmt: skip
SERVERS = [
    "http://localhost:5000", "https://x", "databricks", "databricks://profile", "sqlite:///a.db", "postgresql://u:p@h/d",
    "http://[", "trainspool://host/x", "s3://bucket", "localhost:5000",
]  # fmt: skip


@pytest.mark.parametrize("uri", FOLDERS)
def test_mlflows_tracking_address_names_the_store_below_ours_and_above_the_config_file(
    bare: dict[str, str], uri: str
) -> None:
    told = {**bare, "MLFLOW_TRACKING_URI": uri}
    assert settings.said_store(told) == FOLDERS[uri] and settings.unusable_scheme(told) is None
    assert settings.said_store(told, by_mlflow=False) is None
    assert settings.said_store({**told, "TRAINSPOOL_STORE": "/ours"}) == "/ours"
    if sys.version_info >= (3, 11):
        write_config(bare, store="/config")
        assert settings.said_store(told) == (FOLDERS[uri] or "/config")


@pytest.mark.parametrize("uri", SERVERS)
def test_the_address_of_a_server_names_no_store_and_no_password_is_told(bare: dict[str, str], uri: str) -> None:
    told = {**bare, "MLFLOW_TRACKING_URI": uri}
    assert settings.said_store(told) is None
    assert settings.unusable_scheme(told) == uri.partition(":")[0]
    assert settings.unusable_scheme({**told, "TRAINSPOOL_STORE": "/ours"}) is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TRAINSPOOL_RING_BYTES", "large"), ("TRAINSPOOL_RING_BYTES", "inf"), ("TRAINSPOOL_RING_BYTES", "nan"),
     ("TRAINSPOOL_EXIT_WAIT", "soon"), ("TRAINSPOOL_AUTOSTART", "maybe"), ("TRAINSPOOL_DISABLED", "2")],
)  # fmt: skip
def test_a_setting_without_meaning_is_named_with_its_value(bare: dict[str, str], variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{variable}.*{value}"):
        settings.load({**bare, variable: value})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="config files need tomllib")
def test_a_config_file_that_cannot_be_read_is_named(bare: dict[str, str]) -> None:
    folder = Path(bare["XDG_CONFIG_HOME"], "trainspool")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("= nonsense")
    with pytest.raises(ValueError, match=r"config\.toml"):
        settings.load(bare)


@pytest.mark.parametrize("said", ["1", "true", "YES", "On"])
def test_flags_are_said_in_several_ways(bare: dict[str, str], said: str) -> None:
    assert settings.load({**bare, "TRAINSPOOL_DISABLED": said}).disabled is True
    assert (
        settings.load({**bare, "TRAINSPOOL_AUTOSTART": {"1": "0", "true": "FALSE"}.get(said, "off")}).autostart is False
    )


def test_exit_waits_for_the_store_where_the_agent_would_die_with_us(bare: dict[str, str]) -> None:
    assert settings.load({**bare, "SLURM_JOB_ID": "1"}).exit_wait_s == 10
    assert settings.load({**bare, "KUBERNETES_SERVICE_HOST": "x"}).exit_wait_s == 10


def test_a_relative_spool_becomes_absolute(bare: dict[str, str]) -> None:
    assert settings.load({**bare, "TRAINSPOOL_DIR": "here"}).spool == Path.cwd() / "here"


# -- where rings live


def test_the_chosen_ring_folder_is_made_private(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_RING_DIR", str(place.rings / "new"))
    assert ringfolder.ring_folder() == place.rings / "new"
    assert (place.rings / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("wrong", ["open to others", "a link", "a file", "on disk", "of another user"])
def test_a_ring_folder_that_cannot_be_trusted_is_passed_over(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    folder = place.rings / "chosen"
    if wrong == "a link":
        (place.rings / "target").mkdir(mode=0o700)
        folder.symlink_to(place.rings / "target")
    elif wrong == "a file":
        folder.write_text("")
    elif wrong == "on disk":
        folder = tmp_path / "rings"
        folder.mkdir(mode=0o700)
    else:
        folder.mkdir(mode=0o700)
    if wrong == "open to others":
        folder.chmod(0o750)
    if wrong == "of another user":
        if os.getuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 12345, 12345)
    monkeypatch.setenv("TRAINSPOOL_RING_DIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert ringfolder.ring_folder() == Path(f"/dev/shm/trainspool-{os.getuid()}")


# -- who we are


def test_the_identity_tells_this_process(place: Place) -> None:
    about = identity.identity("ab" * 16, place.spool, "1.2")
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    assert about["pid"] == os.getpid() and about["uid"] == os.getuid() and about["started"] == int(fields[19])
    assert about["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert about["pidns"] == os.stat("/proc/self/ns/pid").st_ino and about["spool"] == str(place.spool)


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, None),
        ({"RANK": "3"}, 3),
        ({"SLURM_PROCID": "0"}, 0),
        ({"OMPI_COMM_WORLD_RANK": "7"}, 7),
        ({"RANK": "x"}, None),
    ],
)
def test_the_rank_is_what_the_launcher_says(
    variables: dict[str, str], rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert identity.rank() == rank


def test_an_identity_with_long_names_still_fits_the_rings_header(
    place: Place, here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring whose identity were cut off could not be read after a kill."""
    import trainspool as mlflow

    monkeypatch.setattr(sys, "argv", ["程序" * 400])
    deep = place.folder
    for _ in range(12):
        deep = deep / ("实验数据" * 20)
    monkeypatch.setenv("TRAINSPOOL_DIR", str(deep))
    mlflow.log_metric("a", 1)
    (path,) = place.rings.glob("*.ring")
    with ringfile.read_ring(path) as seen:
        assert seen.identity["spool"] == str(deep) and seen.identity["pid"] == os.getpid()
        assert len(msgpack.packb(seen.identity)) <= ringfile.IDENTITY_BYTES_MAX and seen.drops == {}


def test_a_spool_whose_path_no_ring_can_name_is_still_written(
    place: Place, here: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import trainspool as mlflow

    monkeypatch.setenv("TRAINSPOOL_DIR", str(place.folder) + "/" + "/".join(["x" * 250] * 15))
    mlflow.log_metric("a", 1)
    assert list(place.rings.glob("*.ring")) == [] and "private memory" in caplog.text


def test_a_run_carries_who_started_it_from_which_program(monkeypatch: pytest.MonkeyPatch) -> None:
    source.user.cache_clear()
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "1"])
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"team": "vision", "n": 1}')
    assert source.tags() == {
        "mlflow.user": "ada", "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL",
        "team": "vision", "n": "1",
    }  # fmt: skip
    for broken in ("[1]", "{", "null"):
        monkeypatch.setenv("MLFLOW_RUN_CONTEXT", broken)
        assert source.tags()["mlflow.user"] == "ada"
    source.user.cache_clear()
