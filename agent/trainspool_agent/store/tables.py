"""Tables that grow by ``log_table``: each call's rows are a part, the table is all parts in order, so that applying
twice or in any order gives the same.

Parts lie in the work folder, ``tables/<run>/<hash of path>/``: two lines each, the columns and the rows as JSON.
What stood at the path before the first part of ours is part zero. A part is on the device before the table that has
it: a table whose parts a power cut took would be taken for a part zero, and its rows come twice.

Source: _log_table of mlflow/tracking/client.py; pandas' JSON of ``orient="split"``.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from trainspool.spool.events import shown
from trainspool_agent import files
from trainspool_agent.store import placed
from trainspool_agent.store.changes import Artifact
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.files import publish
from trainspool_agent.store.layout import artifact_parts, refuse_links
from trainspool_agent.store.limits import TABLE_BYTES_MAX, TABLE_COLUMNS_MAX, TABLE_PART_BYTES_MAX, TABLE_PARTS_MAX

FOLDER = "tables"
_ZERO = "0.json"
_TIME_END = 1 << 64


class Part(NamedTuple):
    """Rows in their form in a file: *columns* and the inside of *data* as JSON text."""

    columns: str
    rows: str

    @property
    def bytes(self) -> bytes:
        return f"{self.columns}\n{self.rows}\n".encode()


def append(rows: Sequence[Artifact], stream: str, run_folder: str, staging: str, work: str) -> int:
    """Add the rows of media events of one path to its table, whether or not they are in it already. May take long.

    Returns the table's size in bytes.

    Raises:
        Refused: the path, a staged file or what stands in the table's place is no such thing; the others are in it.
        OSError: the store could not take it.
    """
    path = rows[0].path
    if not path.endswith((".json", ".parquet")):
        raise Refused(f"table {path!r:.200} is neither .json nor .parquet")
    artifact_parts(path)
    folder = folder_of(run_folder, work, path)
    refused: Refused | None = None
    for one in rows:
        try:
            _keep(one, f"{folder}/{_name(one, stream)}", run_folder, staging, work)
        except Refused as error:
            refused = error
    try:
        size = _publish(path, folder, run_folder, work)
    except Refused as error:
        refused = refused or error
    if refused is not None:
        raise refused
    return size


def has(artifact: Artifact, stream: str, run_folder: str, work: str) -> bool:
    """Whether the table's parts include these rows."""
    return os.path.exists(f"{folder_of(run_folder, work, artifact.path)}/{_name(artifact, stream)}")


def folder_of(run_folder: str, work: str, path: str) -> str:
    """Return the folder of a table's parts; no link on the way."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    below = (FOLDER, os.path.basename(run_folder), digest)
    refuse_links(work, below)
    return "/".join((work, *below))


def with_table(tag: str, path: str) -> str:
    """Return the value of MLflow's tag of logged tables, *path* being one of them: in order, whichever came first."""
    try:
        known = json.loads(tag or "[]")
    except (ValueError, RecursionError):
        known = []
    entries = [one for one in known if isinstance(one, dict)] if isinstance(known, list) else []
    entry = {"path": path, "type": "table"}
    if entry not in entries:
        entries.append(entry)
    return json.dumps(sorted(entries, key=json.dumps))


def _name(artifact: Artifact, stream: str) -> str:
    """Names sort as the events do."""
    if not 0 <= artifact.time < _TIME_END:
        raise Refused(f"table {artifact.path!r:.200}: rows of no time there is")
    return f"{artifact.time:020d}-{stream}-{artifact.offset:016x}.json"


def _keep(artifact: Artifact, path: str, run_folder: str, staging: str, work: str) -> None:
    if os.path.exists(path):
        return
    content = placed.read_staged(artifact.staged, staging, artifact.size, TABLE_PART_BYTES_MAX)
    part = part_of(content, artifact.path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        before = placed.read_placed(artifact.path, run_folder, TABLE_BYTES_MAX)
        if before is not None:
            _write(f"{folder}/{_ZERO}", _foreign(before, artifact.path), work)
    elif len(os.listdir(folder)) >= TABLE_PARTS_MAX:
        raise Refused(f"table {artifact.path!r:.200} was logged in more than {TABLE_PARTS_MAX} parts")
    _write(path, part, work)


def _write(path: str, part: Part, work: str) -> None:
    folder = os.path.dirname(path)
    is_new = not os.path.isdir(folder)
    publish(path, part.bytes, work, sync=True)
    files.fs.sync_path(folder)
    while is_new and len(folder) > len(work):
        folder = os.path.dirname(folder)
        files.fs.sync_path(folder)


def part_of(content: bytes, path: str) -> Part:
    """Return staged rows in their form.

    Raises:
        Refused: they are no table.
    """
    try:
        columns, data = _checked(json.loads(content))
        return Part(_json(columns), ",".join(map(_json, data)))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Refused(f"table {path!r:.200}: its rows are none: {shown(str(error))}") from error


def _checked(found: Any) -> tuple[list[Any], list[Any]]:
    columns, data = found["columns"], found["data"]
    if type(columns) is not list or len(columns) > TABLE_COLUMNS_MAX or type(data) is not list:
        raise ValueError("no columns and rows")
    if any(type(name) not in (str, int, float) for name in columns):
        raise ValueError("a column without a name")
    if any(type(row) is not list or len(row) != len(columns) for row in data):
        raise ValueError("a row of another length")
    return columns, data


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _foreign(content: bytes, path: str) -> Part:
    """Return as rows what someone else put where a table is to be."""
    if path.endswith(".parquet"):
        content = _pandas(path).read_parquet(io.BytesIO(content)).to_json(
            orient="split", index=False, date_format="iso", double_precision=15
        ).encode()  # fmt: skip
    return part_of(content, path)


def _publish(path: str, folder: str, run_folder: str, work: str) -> int:
    """Make the table anew of its parts; return its size."""
    try:
        parts = list(_parts(folder))
        if not parts:
            return 0
        if sum(len(part.rows) for part in parts) > TABLE_BYTES_MAX:
            raise Refused(f"table {path!r:.200} is larger than {TABLE_BYTES_MAX} bytes; it stays as it was")
        whole = parts[0] if len(parts) == 1 else joined(parts)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Refused(f"table {path!r:.200}: {folder} has parts that are none: {shown(str(error))}") from error
    content = f'{{"columns":{whole.columns},"data":[{whole.rows}]}}'.encode()
    if path.endswith(".parquet"):
        content = _parquet(content, path)
    placed.put(content, path, run_folder, work)
    return len(content)


def _parts(folder: str) -> Iterable[Part]:
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        try:
            fd = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise Refused(f"{folder}/{name} is no part of a table") from error
        with open(fd, encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Refused(f"{folder}/{name} is no part of a table")
            columns, rows = file.readline(), file.readline()
        yield Part(columns.rstrip("\n"), rows.rstrip("\n"))


def joined(parts: Sequence[Part]) -> Part:
    """Return all parts as one: with every column, in the order in which they came; null where a part has none."""
    if all(part.columns == parts[0].columns for part in parts):
        return Part(parts[0].columns, ",".join(part.rows for part in parts if part.rows))
    names = [json.loads(part.columns) for part in parts]
    columns = list(dict.fromkeys(name for some in names for name in some))
    rows = []
    for part, some in zip(parts, names, strict=True):
        at = [some.index(name) if name in some else -1 for name in columns]
        for row in json.loads(f"[{part.rows}]"):
            rows.append(_json([row[index] if index >= 0 else None for index in at]))
    return Part(_json(columns), ",".join(rows))


def _parquet(content: bytes, path: str) -> bytes:
    pandas, file = _pandas(path), io.BytesIO()
    try:
        table = json.loads(content)
        pandas.DataFrame(table["data"], columns=table["columns"]).to_parquet(file, index=False)
    except ImportError as error:  # pandas leaves the format to pyarrow
        raise Refused(_without(path, error)) from error
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise Refused(f"table {path!r:.200} cannot be written as Parquet: {shown(str(error))}") from error
    return file.getvalue()


def _pandas(path: str) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise Refused(_without(path, error)) from error
    return pandas


def _without(path: str, error: ImportError) -> str:
    reason = str(error).splitlines()[0][:100] if str(error) else "not there"
    return f"table {path!r:.200} was not made: {reason}. Kept: its rows. Next: pip install pandas pyarrow, log on"
