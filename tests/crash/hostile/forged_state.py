"""Attacks by what the agent wrote down for itself: cursors and checkpoints with valid checksums and hostile content."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import msgpack
from crash.hostile.attack import Corpus
from crash.hostile.scene import Scene, replace_by

from trainspool_agent.liveness import boot_id

CORPUS = Corpus()
LONG = 2**63


def _cursor(scene: Scene, fields: dict[str, Any]) -> None:
    pen = scene.hostile()
    text = msgpack.packb(fields, unicode_errors="surrogateescape").decode("latin-1")
    found = msgpack.unpackb(text.encode("latin-1"), strict_map_key=False)
    for row in found.get("runs", ()) if isinstance(found.get("runs"), list) else ():
        if isinstance(row, list) and len(row) > 1 and row[1] == "STORE":
            row[1] = str(scene.store)
    pen.forge_cursor(**found)


CORPUS.each(
    "cursor with",
    _cursor,
    {
        "an offset without end": {"offset": 2**64 - 1},
        "an offset beyond the end": {"offset": 1 << 30},
        "an offset inside a frame": {"offset": 50},
        "a negative offset": {"offset": -5},
        "a text for an offset": {"offset": "x"},
        "a list for an offset": {"offset": [1]},
        "damage without end": {"damaged_events": 2**64 - 1, "damaged_points": 2**64 - 1},
        "a text for damage": {"damaged_events": "many"},
        "a run that leads elsewhere": {"runs": [["../../canary/run", "STORE", None, None, True, 0]], "offset": 1},
        "a run that leads elsewhere, at the end": {
            "runs": [["../../canary/run", "STORE", None, None, True, 0]],
            "offset": 700,
        },
        "a run that is a number": {"runs": [[7, "STORE", None, None, True, 0]]},
        "a run that is a list": {"runs": [[[], "STORE", None, None, True, 0]]},
        "a run without fields": {"runs": [[]]},
        "runs that are a number": {"runs": 5},
        "runs that are a text": {"runs": "abcdefg"},
        "a store by NUL": {"runs": [["abc", "/a\0b", None, None, True, 0]]},
        "a store that is a number": {"runs": [["abc", 5, None, None, True, 0]]},
        "an experiment that is a list": {"runs": [["abc", "STORE", [], [], True, 0]]},
        "a hundred thousand runs": {"runs": [[f"r{n}", "STORE", None, "e", True, 0] for n in range(100_000)]},
        "a field of its own": {"evil": 1},
        "a map for a boot": {"boot": {"a": []}},
        "a text for finished": {"finished": "yes"},
    },
    harmless=True,
)


def _raw_cursor(scene: Scene, body: bytes) -> None:
    pen = scene.hostile()
    (pen.folder / "cursor").write_bytes(b"TSC1" + zlib.crc32(body).to_bytes(4, "little") + body)


RAW = {
    "nesting": b"\x91" * 100_000,
    "a list": b"\x93\x01\x02\x03",
    "a list for a key": b"\x81\x91\x01\x01",
    "nothing": b"",
    "arrays of four billion": b"\xdd\xff\xff\xff\xff",
    "an ext": b"\xc7\x04\x01abcd",
    "numbers for keys": b"\x81\x01\x02",
    "arrays of millions, nested": b"\xdd\x00\x40\x00\x00" * 200,
}
CORPUS.each("cursor that is", _raw_cursor, dict(RAW), harmless=True)


def _run_folder(scene: Scene) -> Path:
    """A run in the store, as we would make it, for the hostile stream to come."""
    run_id = os.urandom(16).hex()
    scene.hostile(run_id=run_id)
    folder = scene.store / "0" / run_id
    for name in ("metrics", "params", "tags", "artifacts"):
        (folder / name).mkdir(parents=True)
    (scene.store / ".trash").mkdir()
    (scene.store / "models").mkdir()
    (scene.store / "0/meta.yaml").write_text(
        f'artifact_location: "{scene.store}/0"\nexperiment_id: "0"\nlifecycle_stage: "active"\nname: "Default"\n'
    )
    (folder / "meta.yaml").write_text(
        f'artifact_uri: "{folder}/artifacts"\nend_time: null\nexperiment_id: "0"\nlifecycle_stage: active\n'
        f'run_id: "{run_id}"\nrun_name: r\nrun_uuid: "{run_id}"\nstart_time: 5\nstatus: 1\nuser_id: u\ntags: []\n'
    )
    return folder


def forge_checkpoint(path: Path, **fields: Any) -> None:
    state = {
        "version": 1,
        "boot": boot_id(),
        "serial": 5,
        "streams": {},
        "counted": {},
        "metrics": {},
        "params": {},
        "tags": {},
        "sessions": [],
        "gaps": {},
        "artifacts": {},
        "problems": [],
        "counts": {},
        "name": None,
        "published": [None, None, None, None, None],
        "provisional": False,
        **fields,
    }
    body = msgpack.packb({key: value for key, value in state.items() if value != "LEFT OUT"})
    path.write_bytes(b"TSCHK1\n" + zlib.crc32(body).to_bytes(4, "little") + body)


def _checkpoint(scene: Scene, fields: dict[str, Any]) -> None:
    forge_checkpoint(_run_folder(scene) / "trainspool.applied", **fields)


_UP = "metrics/../../../../canary/metrics/loss"
CORPUS.each(
    "checkpoint with",
    _checkpoint,
    {
        "a file elsewhere": {"metrics": {"loss": [_UP, 0, "-1", "0", []]}},
        "an absolute file": {"metrics": {"loss": ["/etc/passwd", 0, "0", "0", []]}},
        "another file than the key's": {"metrics": {"loss": ["metrics/x y\n", 0, "0", "0", []]}},
        "a length without end": {"metrics": {"loss": ["metrics/loss", LONG, "0", "0", []]}},
        "a negative length": {"metrics": {"loss": ["metrics/loss", -5, "0", "0", []]}},
        "stretches without end": {"metrics": {"loss": ["metrics/loss", 0, "0", "0", [0, LONG, LONG, 0]]}},
        "half a stretch": {"metrics": {"loss": ["metrics/loss", 0, "0", "0", [0]]}},
        "a top of many digits": {"metrics": {"loss": ["metrics/loss", 0, "9" * 5000, "0", []]}},
        "a top of text": {"metrics": {"loss": ["metrics/loss", 0, "x", "0", []]}},
        "a serial of text": {"serial": "x"},
        "no serial": {"serial": "LEFT OUT"},
        "no streams": {"streams": "LEFT OUT"},
        "streams that are a list": {"streams": [1, 2]},
        "positions of text": {"streams": {"a": "b"}},
        "metrics that are a list": {"metrics": [1]},
        "params that are a text": {"params": "abc"},
        "tags that are numbers": {"tags": {"a": 5}},
        "sessions of other fields": {"sessions": [{"evil": 1}]},
        "sessions of text": {"sessions": [{"stream": 1, "offset": "x", "start": "y"}]},
        "counts of text": {"counts": {"accepted": "x"}},
        "counts without end": {"counts": {"accepted": 2**64 - 1, "damaged": 2**64 - 1}},
        "problems that are numbers": {"problems": [1, 2]},
        "a name that is a list": {"name": [1]},
        "published that is short": {"published": [1]},
        "published of text": {"published": ["x", "y", "z", 5, 6]},
        "gaps of text": {"gaps": {"s": ["x", "y"]}},
        "artifacts of text": {"artifacts": {"a": "bcd"}},
    },
    harmless=True,
)


def _raw_checkpoint(scene: Scene, body: bytes) -> None:
    path = _run_folder(scene) / "trainspool.durable"
    path.write_bytes(b"TSCHK1\n" + zlib.crc32(body).to_bytes(4, "little") + body)


CORPUS.each("checkpoint that is", _raw_checkpoint, dict(RAW), harmless=True)


def _instead(scene: Scene, how: str) -> None:
    target = scene.canary / "run" / "trainspool.applied"
    for name in ("trainspool.applied", "trainspool.durable"):
        replace_by(_run_folder_of(scene) / name, how, target)


def _run_folder_of(scene: Scene) -> Path:
    found = [path.parent for path in scene.store.glob("0/*/meta.yaml")]
    return found[0] if found else _run_folder(scene)


CORPUS.each("checkpoint that is a", _instead, {how: how for how in ("symlink", "fifo", "device")}, harmless=True)
