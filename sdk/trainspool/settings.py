"""The SDK's settings: argument beats environment beats config file beats default, for every setting alike.

Within the environment our own names beat MLflow's, which a script that was switched still has around it.

Source: design.md §3.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainspool.spool.quota import parse_size
from trainspool.spool.ring import RING_BYTES
from trainspool.spool.ringfolder import state_folder

_TRUE, _FALSE = frozenset(("1", "true", "yes", "on")), frozenset(("0", "false", "no", "off", ""))
EXIT_WAIT_MANAGED_S = 10.0
TRACKING_URI = "MLFLOW_TRACKING_URI"
OF_MLFLOW = (TRACKING_URI, "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
_SERVERS = frozenset(("databricks", "databricks-uc"))  # as addresses, without a colon


class Settings(NamedTuple):
    """What this process was told; made once, at the first use of the SDK."""

    spool: Path
    experiment: str | None
    run_id: str | None
    run_name: str | None
    ring_bytes: int
    exit_wait_s: float
    autostart: bool
    disabled: bool
    quota_bytes: int | None = None
    quota_files: int | None = None
    experiment_id: str | None = None  # where no name is said


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings as environment and config files say.

    Raises:
        ValueError: a setting has no meaning; the message names it and its source.
    """
    get = _Source(environment, read_config(environment))
    is_named = environment.get("TRAINSPOOL_EXPERIMENT") or environment.get("MLFLOW_EXPERIMENT_NAME")
    experiment_id = None if is_named else environment.get("MLFLOW_EXPERIMENT_ID") or None
    return Settings(
        spool=Path(get.text("spool", "TRAINSPOOL_DIR") or default_spool()).absolute(),
        experiment=None if experiment_id else get.text("experiment", "TRAINSPOOL_EXPERIMENT", "MLFLOW_EXPERIMENT_NAME"),
        run_id=get.text("run_id", "TRAINSPOOL_RUN_ID", "MLFLOW_RUN_ID"),
        run_name=get.text("run_name", "TRAINSPOOL_RUN_NAME"),
        ring_bytes=int(get.number("ring_bytes", "TRAINSPOOL_RING_BYTES", RING_BYTES)),
        exit_wait_s=get.number("exit_wait", "TRAINSPOOL_EXIT_WAIT", _default_exit_wait(environment)),
        autostart=get.flag("autostart", "TRAINSPOOL_AUTOSTART", True),
        disabled=get.flag("disabled", "TRAINSPOOL_DISABLED", False),
        quota_bytes=get.size("quota", "bytes", "TRAINSPOOL_SPOOL_QUOTA"),
        quota_files=get.size("quota", "files", "TRAINSPOOL_SPOOL_FILES"),
        experiment_id=experiment_id,
    )


def said_store(environment: Mapping[str, str] = os.environ, *, by_mlflow: bool = True) -> str | None:
    """Return where runs land as someone said, "" for the default; None if nobody did.

    Args:
        by_mlflow: MLFLOW_TRACKING_URI counts; not where MLflow itself reads it.
    """
    uri = environment.get(TRACKING_URI) if by_mlflow else None
    named = folder_of(uri) if uri else None
    found = environment.get("TRAINSPOOL_STORE") or named or read_config(environment).get("store")
    return named if found is None else str(found)


def unusable_scheme(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return how MLFLOW_TRACKING_URI begins, no password in it, if it would count and names no folder."""
    uri = environment.get(TRACKING_URI)
    if not uri or environment.get("TRAINSPOOL_STORE") or folder_of(uri) is not None:
        return None
    return uri.partition(":")[0]


def folder_of(uri: str) -> str | None:
    """Return the folder that a tracking address names: a path, ``file:`` or ``trainspool:``.

    Returns:
        "" if it leaves that to trainspool (``trainspool:``); None if it is of a server or database.
    """
    if uri in _SERVERS:
        return None
    import urllib.parse  # where there is an address at all: importing trainspool has a budget

    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme == "file":
        return urllib.parse.unquote(parts.path)
    if parts.scheme == "trainspool":
        return None if parts.netloc or parts.query or parts.fragment else urllib.parse.unquote(parts.path)
    return None if len(parts.scheme) > 1 else uri


def default_spool() -> Path:
    """Return the system's spool for this user if it exists and is theirs, else the one under their state folder."""
    system = Path(f"/var/spool/trainspool/{os.getuid()}")
    try:
        info = system.lstat()
    except OSError:
        return state_folder() / "spool"
    return system if info.st_uid == os.getuid() and system.is_dir() else state_folder() / "spool"


def read_config(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the merged config files: the user's over the system's; needs Python ≥ 3.11, else files are not read."""
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    merged: dict[str, Any] = {}
    for path in ("/etc/trainspool/config.toml", f"{home}/trainspool/config.toml"):
        if os.path.exists(path):
            merged.update(_read_toml(path))
    return merged


def _read_toml(path: str) -> dict[str, Any]:
    if sys.version_info < (3, 11):
        return {}
    import tomllib  # only where a config file exists: importing the SDK has a budget

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Next: mend it, or move it away") from error


class _Source:
    def __init__(self, environment: Mapping[str, str], config: dict[str, Any]) -> None:
        self.environment, self.config = environment, config

    def text(self, key: str, variable: str, mlflows: str = "") -> str | None:
        value = self.environment.get(variable) or self.environment.get(mlflows) or self.config.get(key)
        return str(value) if value is not None else None

    def number(self, key: str, variable: str, default: float) -> float:
        value = self.text(key, variable)
        if value is None:
            return default
        try:
            number = float(value)
            if math.isfinite(number):
                return number
        except ValueError:
            pass
        raise ValueError(f"{variable} (or {key} in the config file) is {value!r}; it takes a number")

    def size(self, table: str, key: str, variable: str) -> int | None:
        """Return a number of bytes or files from a table of the config file; None if nothing is said."""
        section = self.config.get(table)
        value = self.environment.get(variable) or (section.get(key) if isinstance(section, dict) else None)
        try:
            return None if value is None else parse_size(value)
        except ValueError:
            raise ValueError(f"{variable} ({key} in [{table}]) is {value!r}; it takes a size: 20 GiB") from None

    def flag(self, key: str, variable: str, default: bool) -> bool:
        value = self.text(key, variable)
        if value is None:
            return default
        if value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise ValueError(f"{variable} (or {key} in the config file) is {value!r}; it takes 1 or 0")


def _default_exit_wait(environment: Mapping[str, str]) -> float:
    """Where the agent will die with us, exit waits for the store: containers and Slurm jobs."""
    managed = "SLURM_JOB_ID" in environment or "KUBERNETES_SERVICE_HOST" in environment
    contained = os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv")
    return EXIT_WAIT_MANAGED_S if managed or contained else 0.0
