"""What is fuzzed, and what must hold of each."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgpack
from crash import fuzz_inputs as inputs

from trainspool.errors import SpoolError
from trainspool.spool import events as ev
from trainspool.spool import frame
from trainspool.spool.items import Damage, Frame, Opened
from trainspool.spool.reader import StreamReader
from trainspool.spool.ringfile import HEADER_BYTES, read_ring
from trainspool_agent import checkpoint, cursor
from trainspool_agent.compact import Dictionary, EventFrame, compact
from trainspool_agent.store import meta
from trainspool_agent.store.errors import Refused
from trainspool_agent.store.experiments import Experiment
from trainspool_agent.store.layout import artifact_parts, file_of_key, is_key, is_run_id
from trainspool_agent.store.points import DecodedBlocks
from trainspool_agent.store.state import restored

Target = Callable[[Random, Path], None]
_MALFORMED = (ValueError, TypeError, LookupError, msgpack.exceptions.UnpackException)


def header(random: Random, folder: Path) -> None:
    data = inputs.mutated(random, random.choice(inputs.FRAMES)[:72])
    if random.random() < 0.5:
        data = inputs.resealed(random, random.choice(inputs.FRAMES))
    try:
        found = frame.parse_header(data)
    except frame.UnknownVersion:
        return
    if found is not None:
        assert found.body_length <= frame.BODY_BYTES_MAX and 0 <= found.kind <= frame.HEARTBEAT
        assert max(found.end, found.events_before + found.events, found.points_before + found.points) < 2**63


def segments(random: Random, folder: Path) -> None:
    """The reader's accounts fit: frames and damages follow each other without a hole, whatever stands there."""
    names = [f"{offset:016x}.{attempt:02x}.seg" for offset in (0, random.randrange(400)) for attempt in range(2)]
    written = {name: inputs.segment(random) for name in names[: random.randint(1, 4)]}
    for name, data in written.items():
        (folder / name).write_bytes(data)
    alive = random.random() < 0.2
    reader = StreamReader(folder, inputs.STREAM, random.choice((0, 0, 0, 100)), writer_alive=lambda: alive)
    try:
        _check_reading(reader, written)
    except (SpoolError, OSError):
        pass  # another version, a name out of reach
    finally:
        reader.close()
        for name in written:
            (folder / name).unlink()


def _check_reading(reader: StreamReader, written: dict[str, bytes]) -> None:
    sound = [body for data in written.values() for body in _sound_bodies(data)]
    at, reads = reader.offset, 0
    while items := reader.read(1 << 12):
        reads += 1
        assert reads < 10_000, "it never ends"
        for item in items:
            if isinstance(item, Opened):
                continue
            begin = item.begin if isinstance(item, Damage) else item.offset
            if isinstance(item, Damage) and item.begin == item.end:
                continue
            assert begin == at, f"a hole between {at} and {begin}"
            at = item.end
            if isinstance(item, Frame):
                assert any(item.events in body for body in sound), "bytes whose checksum was wrong"
                assert len(item.events) == item.end - item.offset
            assert 0 <= (item.events if isinstance(item, Damage) else item.event_count) < 2**63
    assert at == reader.offset


def _sound_bodies(data: bytes) -> list[bytes]:
    found, at = [], data.find(frame.MAGIC)
    while at >= 0:
        try:
            one = frame.parse_header(data, at)
        except frame.UnknownVersion:
            one = None
        body = data[at + frame.HEADER_BYTES : at + frame.HEADER_BYTES + one.body_length] if one else b""
        if one and len(body) == one.body_length and zlib.crc32(body) == one.body_crc:
            found.append(body)
        at = data.find(frame.MAGIC, at + 1)
    return found


def events(random: Random, folder: Path) -> None:
    data = b"".join(inputs.event(random) for _ in range(random.randint(1, 12)))
    if random.random() < 0.5:
        data = inputs.mutated(random, data)
    with contextlib.suppress(ValueError, msgpack.exceptions.UnpackException):
        assert all(type(event[0]) is int for event in ev.decode(data))
    try:
        pieces = list(ev.pieces(data, random.choice((1, 64, 1 << 20))))
        assert b"".join(piece.data for piece in pieces) == data
    except _MALFORMED:
        pass


def compaction(random: Random, folder: Path) -> None:
    """Nothing that names a file comes through unless a store may open it."""
    dictionary = Dictionary()
    offset, frames = 0, []
    for _ in range(random.randint(1, 3)):
        data = b"".join(inputs.event(random) for _ in range(random.randint(1, 30)))
        data = inputs.mutated(random, data) if random.random() < 0.3 else data
        frames.append(EventFrame(offset, offset + len(data), data))
        offset += len(data)
    batch = compact(frames, dictionary, "5" * 32, lambda run: random.choice((0, 0, 40)))
    assert batch.end == offset and batch.points == batch.points
    for run, changes in batch.runs.items():
        assert is_run_id(run.run_id) and type(run.store) is str
        for key, points in changes.points.items():
            _check_key(str(folder), key)
            assert all(type(ms) is int and type(step) is int and type(value) is float for ms, step, value in points)
            assert all(-(2**63) <= step < 2**63 for _, step, _ in points)
        for text in (*changes.params, *changes.tags, *changes.staged_tags):
            _check_key(str(folder), text.key)
            assert type(text.time) is int
        for artifact in changes.artifacts:
            _check_artifact(artifact.path)


def _check_key(folder: str, key: str) -> None:
    path = file_of_key(folder, key)
    name = path[len(folder) + 1 :]
    assert path.startswith(f"{folder}/") and is_key(name), name
    assert os.path.normpath(path) == path


def _check_artifact(path: str) -> None:
    try:
        parts = artifact_parts(path)
    except Refused:
        return
    assert all(part not in ("", ".", "..") and "/" not in part and "\0" not in part for part in parts)


def _packed_or_mutated(random: Random, found: Any) -> bytes:
    body: bytes = msgpack.packb(found, unicode_errors="surrogateescape")
    return inputs.mutated(random, body) if random.random() < 0.5 else body


def cursors(random: Random, folder: Path) -> None:
    about: dict[str, Any] = {
        "offset": 700,
        "runs": [["r" * 32, "/s", None, "exp", True, 0]],
        "finished": False,
        "damaged_events": 0,
        "damaged_points": 0,
        "unknown_tail": False,
        "boot": "b",
    }
    for _ in range(random.randint(0, 2)):
        about[random.choice(list(about))] = inputs.value(random)
    if (
        random.random() < 0.5
        and isinstance(about["runs"], list)
        and about["runs"]
        and isinstance(about["runs"][0], list)
    ):
        row = about["runs"][0]
        if row:
            row[random.randrange(len(row))] = inputs.value(random)
    body = _packed_or_mutated(random, about)
    found = cursor.decode(b"TSC1" + zlib.crc32(body).to_bytes(4, "little") + body)
    if found is not None:
        assert 0 <= found.offset < 2**63 and 0 <= found.damaged_points < 2**63
        assert all(is_run_id(run.run_id) and type(run.store) is str for run in found.runs)
        assert type(found.finished) is bool


def checkpoints(random: Random, folder: Path) -> None:
    state: dict[str, Any] = {
        "version": 1,
        "boot": "b",
        "serial": 5,
        "streams": {"5" * 32: 70},
        "counted": {},
        "metrics": {"loss": ["metrics/loss", 30, "170", "5", [0, 30]]},
        "params": {"lr": {"0.1": [1, "s", 5]}},
        "tags": {"a": [[1, "s", 5], b"12345678"]},
        "gaps": {"s": [1, 2]},
        "artifacts": {"a/b": [1, "s", 5]},
        "problems": ["x"],
        "sessions": [
            {
                "stream": "s",
                "offset": 1,
                "start": 5,
                "end": None,
                "status": 1,
                "reason": None,
                "end_offset": 0,
                "by_epitaph": False,
            }
        ],
        "counts": {"accepted": 5},
        "name": "n",
        "published": [1, 2, None, None, "n"],
        "provisional": False,
    }
    for _ in range(random.randint(0, 3)):
        key = random.choice(list(state))
        inner = state[key]
        if random.random() < 0.5 and isinstance(inner, dict) and inner:
            inner[random.choice((*inner, "loss", "../x"))] = inputs.value(random)
        elif random.random() < 0.5 and isinstance(inner, list) and inner:
            inner[random.randrange(len(inner))] = inputs.value(random)
        else:
            state[key] = inputs.value(random)
    body = _packed_or_mutated(random, state)
    found = checkpoint.decode(checkpoint.MAGIC + zlib.crc32(body).to_bytes(4, "little") + body)
    made = restored("r" * 32, Experiment("0", "/s/0", deleted=False), found, DecodedBlocks())
    for file in made.files.values():
        assert file.path.startswith(f"{made.folder}/metrics/") and is_key(file.path[len(made.folder) + 9 :]), file.path
    assert checkpoint.decode(made.encode("b")) is not None, "it cannot be written again"


def rings(random: Random, folder: Path) -> None:
    data = bytearray(random.choice(inputs.RINGS))
    for _ in range(random.randint(1, 4)):
        at = random.choice(
            (0, 8, 12, 16, 32, 36, 40, 64, 72, 128, 136, 144, 152, 4096, 8192, 8224, random.randrange(len(data)))
        )
        part = inputs.mutated(random, bytes(data[at : at + 16]), 2)[:16].ljust(16, b"\0")
        data[at : at + 16] = part
    if random.random() < 0.5:  # the identity's checksum right again, and its content changed
        length = int.from_bytes(data[36:40], "little") % 4096
        data[40:44] = zlib.crc32(bytes(data[4096 : 4096 + length])).to_bytes(4, "little")
        data[36:40] = length.to_bytes(4, "little")
    path = folder / "x.ring"
    path.write_bytes(bytes(data[: random.choice((len(data), len(data), random.randrange(len(data))))]))
    path.chmod(0o600)
    try:
        with read_ring(path) as view:
            assert isinstance(view.identity, dict) and view.chunks <= 64
            held = list(view.committed(random.choice((0, view.head, 2**63))))
            assert sum(map(len, held)) <= len(data) - HEADER_BYTES
            assert view.end >= 0 and view.stored >= 0 and len(view.drops) <= 1024
    except (SpoolError, OSError):
        pass


def metas(random: Random, folder: Path) -> None:
    text = meta.render(meta.run_meta("r" * 32, "0", "/s", user="u", name="n", start_ms=5, lifecycle="active"))
    if random.random() < 0.3:
        text += random.choice(
            (b"a: &a [*a]\n", b"b: " + b"[" * 3000, b"<<: {x: 1}\n", b"? [1]\n: 2\n", b"a: !!python/name:os.system x\n")
        )
    path = folder / "meta.yaml"
    path.write_bytes(inputs.mutated(random, text))
    try:
        values = meta.read(path)
    except meta.UnreadableMeta:
        return
    path.write_bytes(meta.render(values))
    assert isinstance(meta.read(path), dict), "what was read cannot be written"


TARGETS: list[Target] = [header, segments, events, compaction, cursors, checkpoints, rings, metas]
