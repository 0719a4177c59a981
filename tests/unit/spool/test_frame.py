from __future__ import annotations

import struct
import zlib

import pytest

from trainspool.spool import frame

STREAM = bytes(range(16))
SMALL = frame.encode(
    frame.DATA, STREAM, 1 << 40, definitions=b"\x93\x02\x00\xa1k", events=b"\xc0" * 9,
    events_before=7, points_before=5, event_count=2, point_count=1,
)  # fmt: skip


def body_of(data: bytes, header: frame.Header) -> bytes:
    return data[frame.HEADER_BYTES : frame.HEADER_BYTES + header.body_length]


def with_header_bytes(at: int, replacement: bytes) -> bytes:
    """Return SMALL with some header bytes changed and its header CRC made to fit."""
    header = bytearray(SMALL[: frame.HEADER_BYTES])
    header[at : at + len(replacement)] = replacement
    header[68:] = struct.pack("<I", zlib.crc32(header[:68]))
    return bytes(header) + SMALL[frame.HEADER_BYTES :]


def test_a_frame_says_what_was_put_in() -> None:
    header = frame.parse_header(SMALL)
    assert header == frame.Header(frame.DATA, STREAM, 1 << 40, 5, 9, 7, 5, 2, 1, zlib.crc32(SMALL[72:]))
    assert frame.body_is_sound(header, body_of(SMALL, header))


def test_only_data_frames_occupy_stream_offsets() -> None:
    ends = []
    for kind in range(5):
        header = frame.parse_header(frame.encode(kind, STREAM, 100, definitions=b"ab", events=b"abc"))
        assert header is not None
        ends.append(header.end)
    assert ends == [103, 100, 100, 100, 100]


def test_a_frame_is_found_in_the_middle_of_a_buffer_and_of_a_memoryview() -> None:
    shifted = b"before" + SMALL + b"behind"
    assert frame.parse_header(shifted, 6) == frame.parse_header(SMALL)
    assert frame.parse_header(memoryview(shifted), 6) == frame.parse_header(SMALL)


def test_a_header_cut_at_every_byte_is_no_header() -> None:
    assert all(frame.parse_header(SMALL[:cut]) is None for cut in range(frame.HEADER_BYTES))


def test_a_body_cut_at_every_byte_is_not_sound() -> None:
    header = frame.parse_header(SMALL)
    assert header is not None
    body = body_of(SMALL, header)
    assert not any(frame.body_is_sound(header, body[:cut]) for cut in range(len(body)))


@pytest.mark.parametrize("at", range(frame.HEADER_BYTES))
def test_any_flipped_bit_in_the_header_makes_it_no_header(at: int) -> None:
    for bit in range(8):
        spoiled = bytearray(SMALL)
        spoiled[at] ^= 1 << bit
        assert frame.parse_header(bytes(spoiled)) is None


@pytest.mark.parametrize("at", range(frame.HEADER_BYTES, len(SMALL)))
def test_any_flipped_bit_in_the_body_is_found_and_the_header_still_counts_it(at: int) -> None:
    for bit in range(8):
        spoiled = bytearray(SMALL)
        spoiled[at] ^= 1 << bit
        header = frame.parse_header(bytes(spoiled))
        assert header is not None and (header.events, header.points) == (2, 1)
        assert not frame.body_is_sound(header, body_of(bytes(spoiled), header))


def test_a_sound_header_of_another_version_is_named_not_taken_for_damage() -> None:
    with pytest.raises(frame.UnknownVersion, match="2"):
        frame.parse_header(with_header_bytes(4, b"\x02"))


def test_an_unknown_kind_of_frame_is_no_header() -> None:
    assert frame.parse_header(with_header_bytes(5, b"\x05")) is None


def test_a_body_up_to_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    largest = struct.pack("<I", frame.BODY_BYTES_MAX - 5)
    beyond = struct.pack("<I", frame.BODY_BYTES_MAX - 4)
    accepted = frame.parse_header(with_header_bytes(36, largest))
    assert accepted is not None and accepted.body_length == frame.BODY_BYTES_MAX
    assert frame.parse_header(with_header_bytes(36, beyond)) is None


def test_a_huge_length_does_not_wrap_around() -> None:
    assert frame.parse_header(with_header_bytes(32, b"\xff" * 8)) is None


def test_an_empty_frame_is_a_header_alone() -> None:
    seal = frame.encode(frame.SEAL, STREAM, 5)
    header = frame.parse_header(seal)
    assert len(seal) == frame.HEADER_BYTES == 72
    assert header is not None and header.body_length == 0 and frame.body_is_sound(header, b"")


def test_the_same_events_make_the_same_bytes() -> None:
    again = frame.encode(
        frame.DATA, STREAM, 1 << 40, definitions=b"\x93\x02\x00\xa1k", events=b"\xc0" * 9,
        events_before=7, points_before=5, event_count=2, point_count=1,
    )  # fmt: skip
    assert again == SMALL
