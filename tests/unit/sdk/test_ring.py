"""Ring: an append is whole or not at all, what does not fit is counted, and others can read it at every moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import spooled

from trainspool.spool import events, ring, ringfile
from trainspool.spool.ring import Chunk, FreeThreadedChunk, Ring

STREAM = bytes(range(16))
IDENTITY = msgpack.packb({"format": 1, "stream": STREAM.hex(), "pid": 1})
SMALL = ring.RING_BYTES_MIN  # four chunks of 64 KiB
CHUNK = ringfile.CHUNK_BYTES_UNIT
FIRST = 1 << 20  # so that every event has the same size


def event(number: int) -> bytes:
    return events.pack(events.POINT, 0, 0, 10**18, number + FIRST, 0.5)


@pytest.fixture(params=[Chunk, FreeThreadedChunk], autouse=True)
def chunk_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_chunk_class", lambda: request.param)


@pytest.fixture
def made(place: spooled.Place) -> Ring:
    return Ring(STREAM, IDENTITY, place.rings, SMALL)


def view(made: Ring) -> ringfile.RingView:
    assert made.path is not None
    return ringfile.read_ring(made.path)


def fill(made: Ring, first: int = 0) -> int:
    """Append until the ring refuses; return the number of the event that did not fit."""
    while made.append(event(first)):
        first += 1
    return first


def steps(data: bytes) -> list[int]:
    return [found[4] - FIRST for found in events.decode(data)]


def drain(made: Ring) -> Iterator[int]:
    """Take everything out, as the pump does."""
    while data := made.committed():
        made.advance(len(data))
        yield from steps(data)


def test_events_come_out_whole_in_order_and_once_over_many_laps(made: Ring) -> None:
    logged, seen = 0, []
    for _ in range(7):
        after = fill(made, logged)
        seen += drain(made)
        logged = after
    assert seen == list(range(logged))
    assert made.head == made.end > SMALL


def test_draining_a_little_at_a_time_makes_room_by_whole_chunks(made: Ring) -> None:
    logged = fill(made)
    seen: list[int] = []
    while not made.append(event(logged)):
        data = made.committed()
        half = data[: len(data) // 2 // len(event(0)) * len(event(0))] or data
        made.advance(len(half))
        seen += steps(half)
    seen += drain(made)
    assert seen == list(range(logged + 1))


def test_a_full_ring_takes_nothing_and_says_so(made: Ring) -> None:
    logged = fill(made)
    end = made.end
    assert not made.append(event(logged)) and made.end == end
    assert list(drain(made)) == list(range(logged))
    assert made.append(event(logged))


def test_an_event_larger_than_a_chunk_is_refused_and_the_ring_goes_on(made: Ring) -> None:
    assert not made.append(b"\xc0" * (CHUNK + 1))
    assert made.append(b"\xc0" * CHUNK) and made.append(event(7))
    assert list(drain(made)) == [7]


def test_an_event_that_ends_exactly_at_the_chunk_is_drained_and_the_chunk_is_free_again(made: Ring) -> None:
    for lap in range(9):
        assert made.append(b"\xc0" * (CHUNK - len(event(lap))) + event(lap))
        assert list(drain(made)) == [lap]
    assert made.head == made.end == 9 * CHUNK


def test_drops_are_counted_per_run_and_readable_from_outside(made: Ring) -> None:
    for number in range(5):
        made.drop("a" * 32, 1, 1)
        made.drop(f"run{number % 2}", number, 1)
    assert made.dropped("a" * 32) == (5, 5) and made.dropped("nobody") == (0, 0)
    with view(made) as seen:
        assert seen.drops == {"a" * 32: (5, 5), "run0": (6, 3), "run1": (4, 2)}


def test_runs_beyond_the_drop_table_are_counted_together_in_its_last_slot(made: Ring) -> None:
    for number in range(ringfile.DROP_SLOTS + 50):
        made.drop(f"run{number}", 2, 1)
    with view(made) as seen:
        drops = seen.drops
    assert sum(points for points, _ in drops.values()) == 2 * (ringfile.DROP_SLOTS + 50)
    assert drops[""] == (2 * 51, 51)


def test_a_holder_of_a_renewed_chunk_is_refused_and_finds_the_present_one(made: Ring) -> None:
    stale = made.chunk
    logged = fill(made)
    list(drain(made))
    with pytest.raises(ValueError, match="no more"):
        stale.write(event(999_999))
    stale.tail[0] = stale.position  # the commit of a thread that wrote before the lap ended: goes nowhere
    assert made.append(event(logged))
    assert list(drain(made)) == [logged]


def test_a_rotation_that_is_overtaken_while_it_fills_does_not_go_back(made: Ring) -> None:
    """A handler that logs more than a ring during the fill, the pump draining: the outer rotation must not hang."""
    before = made.chunk
    while made.append(event(0)) and made.chunk is before:
        pass
    full = made.chunk
    seen, overtaken = [], []

    def overtaking(data: bytes) -> None:
        if not overtaken:
            overtaken.append(True)
            for number in range(1, 6 * CHUNK // len(event(0))):
                assert made.append(event(number))
                seen.extend(step for step in drain(made) if step)
            raise ValueError("no room")
        original(data)

    original = full.write
    if isinstance(full, FreeThreadedChunk):
        pytest.skip("its fill holds a lock that nothing of the same chunk passes")
    list(drain(made))
    full.write = overtaking
    thread = threading.Thread(target=made._rotate, args=(full,), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the rotation hangs"
    assert made.append(event(777_777))
    seen += [step for step in drain(made) if step]
    assert seen[-1] == 777_777 and seen[:-1] == list(range(1, 6 * CHUNK // len(event(0))))


def test_a_reader_sees_whole_events_in_order_at_every_moment(made: Ring) -> None:
    """Beside a thread that appends and one that drains; what it reads counts if `head` did not move meanwhile."""
    stop, logged = threading.Event(), [0]

    def log() -> None:
        while not stop.is_set():
            logged[0] += made.append(event(logged[0]))

    def drain_now_and_then() -> None:
        while not stop.wait(0.002):
            list(drain(made))

    threads = [threading.Thread(target=log), threading.Thread(target=drain_now_and_then)]
    for thread in threads:
        thread.start()

    def looked() -> bool:
        with view(made) as seen:
            head = seen.head
            data = b"".join(seen.committed(head))
            if seen.head != head:
                return False
        found = steps(data)
        assert found == list(range(found[0], found[0] + len(found))) if found else True
        return bool(found)

    try:
        for _ in range(100):
            spooled.until(looked)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_after_death_the_rest_is_read_from_wherever_the_chunks_lie(made: Ring) -> None:
    """Its end too: the chunk that comes first in the table need not come first in the stream."""
    logged = fill(made)
    data = made.committed()
    made.advance(len(data))  # the first chunk is reused: it now comes last in the stream, and first in the table
    gone = len(steps(data))
    after = fill(made, logged)
    with view(made) as seen:
        assert steps(b"".join(seen.committed(seen.head))) == list(range(gone, after))
        assert seen.end == made.end


def test_a_ring_that_was_unlinked_is_continued_by_another_under_the_same_name(made: Ring, place: spooled.Place) -> None:
    made.drop("run", 3, 2)
    for number in range(10):
        made.append(event(number))
    assert not made.is_unlinked()
    stale = made.chunk
    os.unlink(made.path or "")
    assert made.is_unlinked()
    new = made.replace(STREAM, IDENTITY, place.rings)
    with pytest.raises(ValueError):
        stale.write(event(10))
    assert made.append(event(10)), "a thread that still holds the old ring logs into the new one"
    assert new.append(event(11))
    assert not made.is_exhausted()
    seen = list(drain(made))
    assert made.is_exhausted() and seen == list(range(10))
    assert list(drain(new)) == [10, 11]
    made.unlink()
    assert not new.is_unlinked(), "letting go of the old ring must not remove the new one's file"
    assert new.dropped("run") == (3, 2)


def test_a_drop_counted_on_a_replaced_ring_reaches_the_new_one(made: Ring, place: spooled.Place) -> None:
    made.drop("run", 1, 1)
    os.unlink(made.path or "")
    new = made.replace(STREAM, IDENTITY, place.rings)
    made.drop("run", 1, 1)  # a thread that was refused by the old ring just before
    assert new.dropped("run") == (2, 2)


def test_a_private_ring_works_and_has_no_file() -> None:
    made = Ring(STREAM, IDENTITY, None, SMALL)
    logged = fill(made)
    assert list(drain(made)) == list(range(logged)) and made.path is None and not made.is_unlinked()


def test_abandoned_after_fork_it_is_never_touched_again(made: Ring) -> None:
    made.append(event(1))
    chunk = made.chunk
    with view(made) as seen:
        made.abandon()
        before = os.pread(seen.fd, SMALL, 0)
        with pytest.raises(ValueError):
            chunk.write(event(2))
        chunk.tail[0] = chunk.position
        assert not made.append(event(3)), "a call in progress finds no room, and does not hang"
        made.drop("run", 1, 1)
        chunk.fill()
        assert os.pread(seen.fd, SMALL, 0) == before


def test_abandoning_does_not_wait_for_a_lock_that_a_thread_of_the_parent_holds(made: Ring) -> None:
    lock = getattr(made.chunk, "lock", None)
    if lock is None:
        pytest.skip("this chunk has no lock")
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(20)

    threading.Thread(target=hold).start()
    held.wait(20)
    abandoning = threading.Thread(target=made.abandon, daemon=True)
    abandoning.start()
    abandoning.join(5)
    hung = abandoning.is_alive()
    done.set()
    assert not hung


def test_a_ring_that_cannot_be_made_leaves_nothing(place: spooled.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Ring(STREAM, IDENTITY, place.rings, SMALL)
    assert list(place.rings.iterdir()) == []


def test_sizes_follow_what_was_asked_for_within_the_limits(place: spooled.Place) -> None:
    assert [Ring(STREAM, IDENTITY, None, size).ring_bytes for size in (1, SMALL, 1 << 20, 8 << 20, 1 << 40)] == [
        SMALL, SMALL, 1 << 20, 8 << 20, ring.RING_BYTES_MAX,
    ]  # fmt: skip


@pytest.mark.parametrize("threads", [8])
def test_threads_that_append_at_once_lose_and_repeat_nothing(made: Ring, threads: int) -> None:
    import sys

    each, switch = 4000, sys.getswitchinterval()
    seen: list[int] = []

    def log(source: int) -> None:
        for number in range(each):
            while not made.append(event(number * threads + source)):
                pass

    sys.setswitchinterval(1e-5)
    try:
        loggers = [threading.Thread(target=log, args=(source,)) for source in range(threads)]
        for thread in loggers:
            thread.start()
        while any(thread.is_alive() for thread in loggers):
            seen += drain(made)
    finally:
        sys.setswitchinterval(switch)
    seen += drain(made)
    assert list(spooled.split_by_source(seen, threads)) == [list(range(each))] * threads


def test_the_identity_that_a_reader_finds_is_the_one_given(made: Ring) -> None:
    with view(made) as seen:
        assert seen.identity == msgpack.unpackb(IDENTITY) and seen.stream == STREAM and seen.end == 0


def test_a_ring_file_is_private(made: Ring) -> None:
    assert made.path is not None and Path(made.path).stat().st_mode & 0o777 == 0o600
