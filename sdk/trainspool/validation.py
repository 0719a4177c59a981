"""What may be logged, and what misuse is told: MLflow's rules in MLflow's words.

Source: mlflow/utils/validation.py of MLflow 3.17 for rules and wording; mlflow-store.md §1.4-1.7.
"""

from __future__ import annotations

import numbers
import posixpath
import re
from typing import Any

from trainspool.errors import TrainspoolException

KEY_CHARACTERS_MAX = 250
KEY_COMPONENT_BYTES_MAX = 255
PARAM_CHARACTERS_MAX = 6000
TAG_CHARACTERS_MAX = 8000
EXPERIMENT_NAME_CHARACTERS_MAX = 500
STEP_MIN, STEP_MAX = -(1 << 63), (1 << 63) - 1

_KEY = re.compile(r"[/\w.\- :]*\Z")
_RUN_ID = re.compile(r"[a-zA-Z0-9][A-Za-z0-9_\-]{0,31}\Z")
_EXPERIMENT_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,63}\Z")
_BAD_CHARACTERS = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) "
    "and slashes (/)."
)


def invalid(parameter: str, value: object, message: str = "") -> TrainspoolException:
    """Return MLflow's exception for a value that a parameter does not take."""
    import json  # only where something is refused: importing trainspool has a budget

    try:
        shown = json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError):
        shown = repr(value)
    end = f": {message}" if message else "."
    return TrainspoolException(f"Invalid value {shown[:250]} for parameter '{parameter}' supplied{end}")


def check_key(key: Any, parameter: str = "name") -> str:
    """Return *key* if it can name a metric, param or tag.

    Raises:
        TrainspoolException: it is no string, has other characters, is too long, or means another name as a path.
    """
    if key is None:
        raise TrainspoolException(f"Missing value for required parameter '{parameter}'.")
    if not isinstance(key, str) or not _KEY.match(key):
        raise invalid(parameter, key, _BAD_CHARACTERS)
    if key == "" or key.startswith(("/", "..")) or posixpath.normpath(key) != key or key == ".":
        resolved = posixpath.normpath(key)
        raise invalid(
            parameter,
            key,
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as such. "
            f"This name would resolve to {resolved!r}",
        )
    if len(key) > KEY_CHARACTERS_MAX:
        raise TrainspoolException(f"'{parameter}' exceeds the maximum length of {KEY_CHARACTERS_MAX} characters")
    if not key.isascii() and any(len(part.encode()) > KEY_COMPONENT_BYTES_MAX for part in key.split("/")):
        raise invalid(parameter, key, f"A part of a name may take {KEY_COMPONENT_BYTES_MAX} bytes in UTF-8.")
    return str(key)


def metric_value(key: str, value: Any, timestamp: Any) -> float:
    """Return *value* as the float that is logged: anything ``float()`` takes, NaN and infinities included.

    Raises:
        TrainspoolException: it is no number.
    """
    if value is None:
        raise TrainspoolException("Missing value for required parameter 'value'.")
    try:
        # NumPy 2 has no float() of an array of one element and one dimension; torch warns of one that has a gradient.
        is_array = getattr(value, "size", None) == 1 or hasattr(value, "requires_grad")
        item = getattr(value, "item", None) if is_array else None
        return float(value if item is None else item())
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: torch, more than one element
        message = (
            f"(metric '{key}', timestamp={timestamp}). Please specify value as a valid double (64-bit floating point)"
        )
        raise invalid("value", value, message) from error


def step_number(key: str, value: object, step: Any) -> int:
    """Return *step* as the int that is logged; None is 0, and a float without a fraction is that int.

    Raises:
        TrainspoolException: it is no whole number of 64 bits; MLflow writes such steps and cannot read them back.
    """
    if step is None:
        return 0
    if isinstance(step, numbers.Number) or hasattr(step, "__index__") or hasattr(step, "item"):
        try:
            number = int(step)
            if number == step and STEP_MIN <= number <= STEP_MAX:
                return number
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    raise invalid("step", step, f"metric '{key}' (value={value}). Step must be a valid long (64-bit integer).")


def time_ns_from_ms(key: str, value: object, timestamp: Any) -> int:
    """Return a timestamp given in ms as ns.

    Raises:
        TrainspoolException: it is no number, or negative.
    """
    try:
        milliseconds = int(timestamp)
    except (TypeError, ValueError, OverflowError):
        milliseconds = -1
    if 0 <= milliseconds < 1 << 43:
        return milliseconds * 1_000_000
    message = f"metric '{key}' (value={value}). Timestamp must be a nonnegative long (64-bit integer) "
    raise invalid("timestamp", timestamp, message)


def check_run_id(run_id: Any) -> str:
    """Return *run_id* if it can be one: MLflow's characters, and 32 of them at most, which its databases take."""
    if not isinstance(run_id, str) or not _RUN_ID.match(run_id):
        raise invalid("run_id", run_id)
    return run_id


def check_experiment_id(experiment_id: Any) -> str:
    text = str(experiment_id)
    if not isinstance(experiment_id, (str, int)) or not _EXPERIMENT_ID.match(text):
        raise invalid("experiment_id", experiment_id)
    return text


def check_experiment_name(name: Any) -> str:
    """Return *name* if an experiment may have it; a single quote breaks MLflow's own lookup by name."""
    if name is None or name == "":
        raise TrainspoolException(f"Invalid experiment name: '{name}'")
    if not isinstance(name, str):
        raise TrainspoolException(f"Invalid experiment name: {name}. Expects a string.")
    if len(name) > EXPERIMENT_NAME_CHARACTERS_MAX:
        raise TrainspoolException(f"'name' exceeds the maximum length of {EXPERIMENT_NAME_CHARACTERS_MAX} characters")
    if "'" in name:
        raise invalid("name", name, "MLflow cannot look up an experiment by a name with a single quote in it.")
    return name
