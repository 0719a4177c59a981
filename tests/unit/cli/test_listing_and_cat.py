"""`ls` and `cat` over the format's vectors, and over what the real SDK wrote."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from trainspool.spool import layout

from .conftest import Box

VECTORS = Path(__file__).parents[2] / "data" / "v1"
ORDERLY, KILLED = "0123456789abcdef0123456789abcdef", "feedfacecafebeeffeedfacecafebeef"
TEN_POINTS = "with ts.start_run(run_name='ten'):\n  for i in range(10): ts.log_metric('loss', i / 3, step=i)"


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def expected(stream: str) -> list[dict[str, Any]]:
    found = map(json.loads, (VECTORS / "expected.jsonl").read_text().splitlines())
    return [one for one in found if one["stream"] == stream]


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    return Path(shutil.copytree(VECTORS, tmp_path / "vectors"))


def segment(spool: Path, index: int = 0) -> Path:
    folder = spool / "streams" / "vector-host" / ORDERLY
    return folder / str(layout.segments(folder)[index])


def test_ls_lists_every_stream_with_its_counts(box: Box) -> None:
    found = box.call("ls", str(VECTORS))
    assert found.exit_code == 0
    assert [(row[0], row[2], row[7], row[8]) for row in rows(found.stdout)] == [
        (ORDERLY, "ended", "19", "10"),
        (KILLED, "unknown", "1002", "902"),
    ]


def test_ls_tells_a_sealed_segment_from_a_torn_tail(box: Box) -> None:
    states = {row[0]: row[8] for row in rows(box.call("ls", "-l", str(VECTORS)).stdout)}
    assert states == {ORDERLY: "sealed", KILLED: "open, torn tail of 121 bytes"}


def test_ls_names_a_flipped_bit_and_ends_with_1(box: Box, vectors: Path) -> None:
    path = segment(vectors)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = box.call("ls", "-l", str(vectors), "--json")
    assert found.exit_code == 1
    damage = json.loads(found.stdout)["streams"][0]["segments"][0]["damage"]
    assert len(damage) == 1 and damage[0].startswith("checksum mismatch at byte ")


def test_ls_of_an_unknown_stream_says_what_to_do(box: Box) -> None:
    found = box.call("ls", "ffff")
    assert found.exit_code == 1 and "Next: trainspool ls" in found.stderr


def test_ls_of_nothing_is_nothing(box: Box) -> None:
    found = box.call("ls")
    assert (found.exit_code, found.stdout) == (0, "")


def test_cat_shows_what_the_vectors_hold(box: Box) -> None:
    found = box.lines("cat", str(VECTORS / "streams" / "vector-host" / ORDERLY))
    wanted = [one for one in expected(ORDERLY) if one["event"][0] not in (2, 3, 4)]
    assert [one["offset"] for one in found] == [one["offset"] for one in wanted]
    points = [one for one in found if one["kind"] == "point"]
    raw = [one["event"] for one in wanted if one["event"][0] == 0]
    assert [(one["time"], one["step"], one["value"]) for one in points] == [tuple(event[3:6]) for event in raw]
    assert math.copysign(1, next(one["value"] for one in points if one["value"] == 0)) == -1


def test_cat_resolves_keys_and_runs_in_each_segment_alone(box: Box) -> None:
    whole = box.lines("cat", str(VECTORS / "streams" / "vector-host" / ORDERLY))
    ones = [one for index in range(3) for one in box.lines("cat", str(segment(VECTORS, index)))]
    unique = {one["offset"]: one for one in ones}  # one frame stands in two segments
    assert list(unique.values()) == whole


def test_cat_of_a_killed_stream_begins_where_retention_left_it(box: Box) -> None:
    found = box.call("cat", str(VECTORS / "streams" / "vector-host" / KILLED))
    assert found.exit_code == 0 and found.stderr == ""
    assert [json.loads(line)["value"] for line in found.stdout.splitlines()] == [1.0, 0.5]


def test_cat_filters_by_run_kind_and_offset(box: Box) -> None:
    folder = str(VECTORS / "streams" / "vector-host" / ORDERLY)
    assert [one["offset"] for one in box.lines("cat", folder, "--run", "2222")] == [587]
    assert {one["kind"] for one in box.lines("cat", folder, "--kind", "points")} == {"points"}
    assert [one["kind"] for one in box.lines("cat", folder, "--after", "940")] == ["end", "epitaph"]
    assert [one["key"] for one in box.lines("cat", folder, "--kind", "define-key")] == ["loss", "val/准确率", "lr"]


def test_cat_loses_one_damaged_frame_and_says_how_much_that_was(box: Box, vectors: Path) -> None:
    path = segment(vectors)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = box.call("cat", str(path))
    assert found.exit_code == 1
    assert "checksum mismatch" in found.stderr and "lost" in found.stderr
    assert found.stdout.startswith('{"stream": "0123')


def test_cat_includes_what_a_live_ring_alone_holds(box: Box) -> None:
    program = (
        "import sys, trainspool as ts\nfrom trainspool.stream import stream\nfrom trainspool import pump\n"
        "pump.TURN_INTERVAL_S = 3600\nts.start_run(run_name='live')\n"
        "ts.log_metric('loss', float('inf'), step=7)\nprint(stream.id.hex(), flush=True)\nsys.stdin.readline()"
    )
    with box.start(sys.executable, "-c", program) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        last = box.lines("cat", name[:6])[-1]
        process.communicate("\n")
    assert (last["kind"], last["key"], last["step"], last["value"]) == ("point", "loss", 7, "Infinity")


def test_cat_shows_what_is_said_of_media_whatever_it_is(box: Box) -> None:
    """Bytes of a palette, and what a hostile stream could say, are no JSON."""
    box.log(
        "with ts.start_run() as run:\n"
        "  about = {'form': 'image', 'palette': ['RGB', b'\\x01\\xff'], b'k': float('nan')}\n"
        "  run._log_media(b'x', [('a.png', about)])\n"
        "  deep = []\n  for _ in range(300): deep = [deep]\n"
        "  run._log_media(b'x', [('b.png', {'form': 'image', 'shape': deep})])"
    )
    (name,) = [row[0] for row in rows(box.call("ls").stdout)]
    first, second = box.lines("cat", name, "--kind", "media")
    assert first["about"] == {"form": "image", "palette": ["RGB", "01ff"], "b'k'": "NaN"}
    assert second["path"] == "b.png" and str(second["about"]["shape"]).count("[") > 300


def test_cat_ends_quietly_when_its_reader_leaves(box: Box) -> None:
    box.log("with ts.start_run():\n  for i in range(20000): ts.log_metric('loss', i)")
    (name,) = [row[0] for row in rows(box.call("ls").stdout)]
    command = " ".join(box.trainspool("cat", name))
    done = box.process("bash", "-c", f"set -o pipefail; {command} | head -n 1")
    assert (done.returncode, done.stderr) == (141, "") and done.stdout.count("\n") == 1


def test_ls_counts_what_the_sdk_wrote(box: Box) -> None:
    box.log(TEN_POINTS)
    ((_, _, life, _, _, _, _, _, points, waiting),) = rows(box.call("ls").stdout)
    assert (life, points) == ("ended", "10") and int(waiting) > 0
    box.sync()
    assert rows(box.call("ls").stdout)[0][9] == "0"
