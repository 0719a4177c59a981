"""The agent's frozen settings: argument beats environment beats config file beats default, for every setting alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainspool.errors import TrainspoolError
from trainspool.spool.quota import parse_size
from trainspool.spool.ringfolder import state_folder

SYSTEM_CONFIG = Path("/etc/trainspool/config.toml")
LOG_LEVELS = ("debug", "info", "warning", "error")


class BadSetting(TrainspoolError):
    """A setting has no meaning; the message names it, its source and what it takes."""


@dataclass(frozen=True)
class Retention:
    """How long what the stores have stays in the spool, and how much a spool may hold.

    Attributes:
        days: a segment goes when it was last written so long ago.
        bytes: how much of what the stores have is kept; beyond that the oldest goes.
        quota_bytes, quota_files: the most that this host's part of a spool may hold; None: see agent/docs/retention.md.
    """

    days: float = 7.0
    bytes: int = 5 << 30
    quota_bytes: int | None = None
    quota_files: int | None = None


@dataclass(frozen=True)
class Settings:
    """What this agent was told.

    Attributes:
        spool: the spool watched from the start; others are found by their rings.
        store: where runs go whose recorded store this agent can neither see nor make; None: they are refused.
        idle_exit_s: leave after so long without a living stream or unfinished work; None: stay.
        log_level: one of LOG_LEVELS.
        retention: how long and how much is kept.
    """

    spool: Path
    store: Path | None = None
    idle_exit_s: float | None = None
    log_level: str = "info"
    retention: Retention = Retention()


def load(
    *,
    spool: str | Path | None = None,
    store: str | Path | None = None,
    idle_exit: float | str | None = None,
    log_level: str | None = None,
    retention_days: float | str | None = None,
    retention_bytes: int | str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Return the settings; an argument that is None was not given.

    Raises:
        BadSetting: a value has no meaning, or a config file cannot be read.
    """
    config = read_config(environment)

    def first(argument: Any, variable: str, key: str) -> Any:
        return next((value for value in (argument, environment.get(variable), config.get(key)) if value), None)

    level = str(first(log_level, "TRAINSPOOL_LOG_LEVEL", "log_level") or "info").lower()
    if level not in LOG_LEVELS:
        raise BadSetting(f"TRAINSPOOL_LOG_LEVEL is {level!r}; it takes one of {', '.join(LOG_LEVELS)}")
    chosen_store = first(store, "TRAINSPOOL_STORE", "store")
    idle = idle_exit if idle_exit is not None else first(None, "TRAINSPOOL_IDLE_EXIT", "idle_exit")
    return Settings(
        spool=Path(first(spool, "TRAINSPOOL_DIR", "spool") or default_spool()).expanduser().absolute(),
        store=Path(chosen_store).expanduser().absolute() if chosen_store else None,
        idle_exit_s=None if idle is None else _seconds("TRAINSPOOL_IDLE_EXIT", idle),
        log_level=level,
        retention=_retention(environment, config, retention_days, retention_bytes),
    )


def _retention(
    environment: Mapping[str, str], config: dict[str, Any], days: float | str | None, size: int | str | None
) -> Retention:
    def told(argument: Any, variable: str, table: str, key: str) -> Any:
        section = config.get(table)
        values = argument, environment.get(variable) or None, section.get(key) if isinstance(section, dict) else None
        return next((value for value in values if value is not None), None)

    days = told(days, "TRAINSPOOL_RETENTION_DAYS", "retention", "days")
    size = told(size, "TRAINSPOOL_RETENTION_BYTES", "retention", "bytes")
    quota = told(None, "TRAINSPOOL_SPOOL_QUOTA", "quota", "bytes")
    count = told(None, "TRAINSPOOL_SPOOL_FILES", "quota", "files")
    return Retention(
        days=Retention.days if days is None else _number("TRAINSPOOL_RETENTION_DAYS", days, "days"),
        bytes=Retention.bytes if size is None else _size("TRAINSPOOL_RETENTION_BYTES", size),
        quota_bytes=None if quota is None else _size("TRAINSPOOL_SPOOL_QUOTA", quota),
        quota_files=None if count is None else int(_number("TRAINSPOOL_SPOOL_FILES", count, "a number of files")),
    )


def default_spool() -> Path:
    """Return ``/var/spool/trainspool/<uid>`` if it exists and is ours, else the spool in the user's state folder."""
    system = Path(f"/var/spool/trainspool/{os.getuid()}")
    try:
        ours = system.lstat().st_uid == os.getuid() and system.is_dir()
    except OSError:
        ours = False
    return system if ours else state_folder() / "spool"


def read_config(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the config files merged, the user's over the system's."""
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    merged: dict[str, Any] = {}
    for path in (SYSTEM_CONFIG, Path(home, "trainspool", "config.toml")):
        if path.is_file():
            merged.update(_read_toml(path))
    return merged


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib  # only where a config file exists, and Python 3.10 has none of its own
    except ModuleNotFoundError:
        import tomli as tomllib  # type: ignore[import-not-found, no-redef, unused-ignore]
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadSetting(f"{path} cannot be read: {error}. Next: mend it, or move it away") from error
    return found


def _seconds(name: str, value: float | str) -> float:
    return _number(name, value, "seconds")


def _number(name: str, value: float | str, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < float("inf"):
        raise BadSetting(f"{name} is {value!r}; it takes {what}, 0 or more")
    return number


def _size(name: str, value: float | str) -> int:
    try:
        return parse_size(value)
    except ValueError:
        raise BadSetting(f"{name} is {value!r}; it takes a size: 5 GiB, 500 MB, 1048576") from None
