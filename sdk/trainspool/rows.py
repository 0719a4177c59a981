"""Tables as ``log_table`` takes them, as rows of JSON; pandas is used where the table is pandas'.

Source: log_table of mlflow/tracking/client.py, MLflow 3.17; pandas' JSON of ``orient="split"``.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import posixpath
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainspool import arrays, images
from trainspool.errors import TrainspoolException

PART_BYTES = 8 << 20  # of one event; the agent takes 32 MiB
DIGITS = 15  # pandas' most; MLflow leaves it at ten and loses the rest
FORBIDDEN = "\"',:[]{}"
NestedLog = Callable[[Any, str, str], None]


def check_table_path(artifact_file: str) -> str:
    """Return *artifact_file* if MLflow takes it for a table.

    Raises:
        ValueError: it does not.
    """
    for character in FORBIDDEN:
        if character in artifact_file:
            raise ValueError(f"The artifact_file contains forbidden character: {character}")
    if not artifact_file.endswith((".json", ".parquet")):
        raise ValueError(
            f"Invalid artifact file path '{artifact_file}'. Please ensure the file you are trying to log as a table "
            "has a file name with either '.json' or '.parquet' extension."
        )
    return artifact_file


def parts(data: Any, artifact_file: str, log_image: NestedLog) -> list[bytes]:
    """Return the rows of *data* as JSON, in as many parts as their size asks for.

    Args:
        log_image: called with each image in a cell and the paths of its file and its small copy.

    Raises:
        TrainspoolException: no table, or a cell that JSON has nothing for.
        ValueError: a column of images and other things.
    """
    if arrays.is_from(data, "pandas", "DataFrame"):
        return _of_frame(data, artifact_file, log_image)
    if not isinstance(data, dict):
        raise TrainspoolException("data must be a pandas.DataFrame or a dictionary")
    if any(arrays.is_from(value, "pandas", "Series") for value in data.values()):
        return _of_frame(sys.modules["pandas"].DataFrame(data), artifact_file, log_image)
    columns, table = _of_mapping(data)
    for index, name in enumerate(columns):
        cells = _with_images(name, [row[index] for row in table], artifact_file, log_image)
        for row, cell in zip(table, cells, strict=True):
            row[index] = _cell(cell)
    return _cut(columns, table)


# -- without pandas -------------------------------------------------------------------------------------------------


def _of_mapping(data: Mapping[Any, Any]) -> tuple[list[Any], list[list[Any]]]:
    """Return columns and rows as pandas would make them: lists are columns, what stands beside them is repeated."""
    columns = list(data)
    lists = {name: _list_of(value) for name, value in data.items()}
    lengths = {len(one) for one in lists.values() if one is not None}
    if len(lengths) != 1 or any(isinstance(value, dict) for value in data.values()):
        return columns, [list(data.values())]  # MLflow's way with all else: one row
    (count,) = lengths
    return columns, [
        [one[at] if (one := lists[name]) is not None else data[name] for name in columns] for at in range(count)
    ]


def _list_of(value: Any) -> Sequence[Any] | None:
    if isinstance(value, (list, tuple, range)):
        return value
    array = None if isinstance(value, (str, bytes)) or arrays.is_from(value, "PIL", "Image") else arrays.array_of(value)
    return list(array) if array is not None and array.ndim > 0 else None


def _cell(value: Any) -> Any:  # noqa: PLR0911  a line for each kind of value
    """Return *value* as pandas puts it into JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _cell(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_cell(one) for one in value]
    if isinstance(value, datetime.date):
        return _iso(value)
    if isinstance(value, decimal.Decimal):
        return _cell(float(value))
    if arrays.is_from(value, "numpy", "generic"):
        return _cell(value.item())
    array = arrays.array_of(value)
    if array is not None:
        return _cell(array.tolist())
    raise TrainspoolException(
        f"Failed to save {str(value)[:100]} as table as the data is not JSON serializable. Error: {type(value)}"
    )


def _iso(value: datetime.date) -> str:
    if not isinstance(value, datetime.datetime):
        return f"{value.isoformat()}T00:00:00.000"
    if value.tzinfo is None:
        return value.isoformat(timespec="milliseconds")
    return value.astimezone(datetime.timezone.utc).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _cut(columns: list[Any], table: list[list[Any]]) -> list[bytes]:
    text = json.dumps({"columns": columns, "data": table}, separators=(",", ":"), allow_nan=False)
    if len(text) <= PART_BYTES or len(table) < 2:
        return [_checked(text.encode())]
    half = len(table) // 2
    return _cut(columns, table[:half]) + _cut(columns, table[half:])


# -- pandas' --------------------------------------------------------------------------------------------------------


def _of_frame(frame: Any, artifact_file: str, log_image: NestedLog) -> list[bytes]:
    frame = frame.copy(deep=False)
    for name in [name for name, kind in frame.dtypes.items() if str(kind) == "object"]:
        cells = _with_images(name, list(frame[name]), artifact_file, log_image)
        if cells and cells[0] is not frame[name].iloc[0]:
            frame[name] = cells
    return _cut_frame(frame)


def _cut_frame(frame: Any) -> list[bytes]:
    try:
        text = frame.to_json(orient="split", index=False, date_format="iso", double_precision=DIGITS)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TrainspoolException(
            f"Failed to save a table of {frame.shape} as table as the data is not JSON serializable. Error: {error}"
        ) from error
    if len(text) <= PART_BYTES or len(frame) < 2:
        return [_checked(text.encode(errors="replace"))]
    half = len(frame) // 2
    return _cut_frame(frame.iloc[:half]) + _cut_frame(frame.iloc[half:])


def _checked(part: bytes) -> bytes:
    if len(part) > 4 * PART_BYTES:
        raise TrainspoolException(f"a row of {len(part):,} bytes is more than a table may have: {4 * PART_BYTES:,}")
    return part


# -- images in cells ------------------------------------------------------------------------------------------------


def _with_images(name: Any, cells: list[Any], artifact_file: str, log_image: NestedLog) -> list[Any]:
    """Return the cells of a column; images are logged, and said where they are."""
    found = [_is_image(cell) for cell in cells]
    if not any(found):
        return cells
    if not all(found):
        raise ValueError(
            f"Column `{name}` contains a mix of images and non-images. "
            "Please ensure that all elements in the column are of the same type."
        )
    return [_logged(cell, artifact_file, log_image) for cell in cells]


def _is_image(cell: Any) -> bool:
    has_verbs = callable(getattr(cell, "save", None)) and callable(getattr(cell, "resize", None))
    return has_verbs and hasattr(cell, "size")


def _logged(image: Any, artifact_file: str, log_image: NestedLog) -> dict[str, str]:
    table = posixpath.splitext(artifact_file)[0]
    path = posixpath.join("table_images", table, images.random_uuid())
    log_image(image, f"{path}.png", f"{path}.webp")
    return {"type": "image", "filepath": f"{path}.png", "compressed_filepath": f"{path}.webp"}
