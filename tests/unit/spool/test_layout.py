from __future__ import annotations

from pathlib import Path

import pytest

from trainspool.spool import layout
from trainspool.spool.layout import SegmentName


def test_a_segment_name_is_what_it_parses_to() -> None:
    name = SegmentName(0x1FED4, 1)
    assert str(name) == "000000000001fed4.01.seg"
    assert layout.parse_segment_name(str(name)) == name


@pytest.mark.parametrize(
    "name",
    ["", "0.0.seg", "000000000001FED4.01.seg", "000000000001fed4.01.seg\n", "000000000001fed4.1.seg", "lock",
     "000000000001fed4.01.seg.damaged", "x000000000001fed4.01.seg", "staging"],
)  # fmt: skip
def test_other_names_are_no_segments(name: str) -> None:
    assert layout.parse_segment_name(name) is None


def test_segments_come_in_order_of_offset_then_attempt(tmp_path: Path) -> None:
    names = [SegmentName(256, 0), SegmentName(16, 2), SegmentName(16, 10), SegmentName(0, 0), SegmentName(2**63 - 1, 0)]
    for name in names:
        (tmp_path / str(name)).touch()
    (tmp_path / "lock").touch()
    (tmp_path / "staging").mkdir()
    assert layout.segments(tmp_path) == sorted(names)
    assert sorted(map(str, names)) == list(map(str, sorted(names)))  # by name is by meaning


def test_an_absent_stream_has_no_segments(tmp_path: Path) -> None:
    assert layout.segments(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["a", "node-07.cluster_x", "...", "A" * 64])
def test_a_plain_component_is_safe(name: str) -> None:
    assert layout.is_safe_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\\b", "a\0", "A" * 65, "é", "a\n", "a b"])
def test_what_could_leave_the_folder_is_not_safe(name: str) -> None:
    assert not layout.is_safe_name(name)


def test_a_stream_is_32_lower_case_hex_digits() -> None:
    assert layout.is_stream_name("0123456789abcdef" * 2)
    assert not any(map(layout.is_stream_name, ["0123456789ABCDEF" * 2, "0" * 31, "0" * 33, "0" * 32 + "\n", ".."]))


def test_the_host_can_be_set_and_is_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINSPOOL_HOST", "pod/../节点 1")
    assert layout.host_name() == "pod-..----1"
    monkeypatch.setenv("TRAINSPOOL_HOST", "..")
    assert layout.host_name() == "localhost"


def test_a_stream_lies_under_its_host() -> None:
    assert layout.stream_folder("/spool", "box", "a" * 32) == Path("/spool/streams/box", "a" * 32)
