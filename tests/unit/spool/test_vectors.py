"""tests/data/v1 stays what the script writes and frame.py and events.py read; so does the document's example."""

from __future__ import annotations

import gzip
import json
import re
import runpy
from pathlib import Path

import pytest

from trainspool.spool import events as ev
from trainspool.spool import frame
from trainspool.spool.ringfile import read_ring

TESTS = Path(__file__).parents[2]
VECTORS = TESTS / "data" / "v1"
DOCUMENT = TESTS.parent / "sdk" / "docs" / "spool-format.md"
STREAM = bytes.fromhex("0123456789abcdef0123456789abcdef")
FILES = sorted(path.relative_to(VECTORS).as_posix() for path in VECTORS.rglob("*") if path.is_file())


def content(path: Path) -> bytes:
    """Return the bytes of *path*; zlib versions compress differently, so what is compressed is compared unpacked."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def test_the_script_writes_the_vectors_as_they_are(tmp_path: Path) -> None:
    runpy.run_path(str(TESTS / "data" / "make_v1.py"))["write"](tmp_path)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert written == FILES
    assert [name for name in FILES if content(tmp_path / name) != content(VECTORS / name)] == []


@pytest.mark.parametrize("name", [name for name in FILES if "0123456789abcdef" in name])
def test_frame_and_events_read_the_vectors(name: str) -> None:
    data, at = content(VECTORS / name), 0
    while at < len(data):
        header = frame.parse_header(data, at)
        assert header is not None
        body = data[at + frame.HEADER_BYTES :][: header.body_length]
        assert frame.body_is_sound(header, body)
        if header.kind == frame.DATA:
            cut = list(ev.pieces(body[header.definitions_length :], 1 << 20))
            assert [(piece.events, piece.points) for piece in cut] == [(header.events, header.points)]
        at += frame.HEADER_BYTES + header.body_length
    assert at == len(data)


def test_the_ring_of_the_vector_is_read_from_any_offset(tmp_path: Path) -> None:
    [packed] = VECTORS.glob("*.ring.gz")
    (tmp_path / "a.ring").write_bytes(content(packed))
    lines = (VECTORS / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [line for line in map(json.loads, lines) if packed.name.startswith(line["stream"])]
    with read_ring(tmp_path / "a.ring") as ring:
        for i, line in enumerate(expected):
            events = [event for data in ring.committed(line["offset"]) for event in ev.decode(data)]
            assert events == [later["event"] for later in expected[i:]]
        assert ring.drops == {"1" * 32: (7, 2)}
        assert ring.identity["host"] == "vector-host" and ring.head == expected[0]["offset"]


def test_the_end_of_a_ring_is_found_whichever_chunk_comes_first_in_the_file(tmp_path: Path) -> None:
    [packed] = VECTORS.glob("*.ring.gz")
    (tmp_path / "a.ring").write_bytes(content(packed))
    with read_ring(tmp_path / "a.ring") as ring:
        assert ring.end == ring.head + sum(map(len, ring.committed(ring.head)))


def worked_example() -> tuple[str, bytes]:
    """Return section 9 and the bytes of its dump; each line must begin where the one before it ends."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## 9. Worked example")[2]
    data = b""
    for line in re.finditer(r"^ *(\d+)  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", section, re.MULTILINE):
        assert int(line[1]) == len(data), line[0]
        data += bytes.fromhex(line[2])
    return section, data


def test_the_example_in_the_document_is_what_its_text_says() -> None:
    section, data = worked_example()
    identity = frame.parse_header(data, 0)
    assert identity is not None and (identity.kind, identity.offset, identity.events_length) == (frame.IDENTITY, 0, 16)
    assert list(ev.unpacker(data[72:88])) == [{"format": 1, "pid": 4242}]
    header = frame.parse_header(data, 88)
    assert header is not None and frame.body_is_sound(header, data[160:])
    assert (header.kind, header.offset, header.end, header.definitions_length) == (frame.DATA, 0, 74, 0)
    assert (header.events, header.points, header.events_before, header.points_before) == (1, 1, 0, 0)
    assert list(ev.decode(data[160:])) == [
        [ev.DEFINE_KEY, 0, "loss"],
        [ev.DEFINE_RUN, 0, "1" * 32, True, "/m", None, None],
        [ev.POINT, 0, 0, 1_700_000_000_000_000_000, 5, 0.25],
    ]
    for bounds in ("0-71 and 88-159", "72-87 and 160-233", "offsets 0-73", "definitions length 51"):
        assert bounds in section
    assert len(data) == 234 and data[160 + 51 :][:4].hex(" ") == "96 00 00 00"


def test_the_example_in_the_document_is_what_we_would_write() -> None:
    _, data = worked_example()
    identity = frame.encode(frame.IDENTITY, STREAM, 0, events=data[72:88])
    assert data == identity + frame.encode(frame.DATA, STREAM, 0, events=data[160:], event_count=1, point_count=1)
