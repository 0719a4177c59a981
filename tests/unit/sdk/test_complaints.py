"""Complaints: whoever keeps the log's records keeps nothing else of ours alive."""

from __future__ import annotations

import gc
import weakref

import pytest

from trainspool import complaints


class Ring:
    """Something that a frame on the way of the error holds."""


def _fail() -> weakref.ref[Ring]:
    ring = Ring()
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        complaints.warn("cannot write %s: %s", "the spool", error)
    return weakref.ref(ring)


def test_a_record_that_is_kept_keeps_no_exception_and_what_that_leads_to(caplog: pytest.LogCaptureFixture) -> None:
    ring = _fail()
    gc.collect()
    assert ring() is None
    ours = [record.getMessage() for record in caplog.records if record.name == "trainspool"]
    assert ours == ["cannot write the spool: [Errno 28] No space left on device"]
