"""From where on a stream is kept: retention gives up its beginning by one small file, and only then deletes anything.

The file's rename is what decides. Before it nothing is gone; behind it the events before the mark mean nothing any
more, whether or not the segments that held them are still there.

Source: sdk/docs/spool-format.md, "Files".
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from pathlib import Path

from trainspool.spool import files
from trainspool.spool.layout import TRIMMED

_LINE = re.compile(rb"trimmed ([0-9a-f]{16}) ([0-9a-f]{8})\n\Z")


def offset(folder: Path | str) -> int:
    """Return the stream offset before which events were given up; 0 where there is no mark, or it is not sound.

    An unsound mark costs a message, not data: the missing beginning is then named as damage.
    """
    try:
        fd = os.open(f"{folder}/{TRIMMED}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        line = _LINE.match(os.read(fd, 64))
    except OSError:
        return 0
    finally:
        os.close(fd)
    return int(line[1], 16) if line and int(line[2], 16) == zlib.crc32(line[1]) else 0


def mark(folder: Path | str, upto: int) -> None:
    """Give up every event before *upto*; on the device on return.

    Raises:
        OSError: the mark is as it was, or the new one: look before anything is deleted.
    """
    fs, temporary, digits = files.fs, f"{folder}/{TRIMMED}.tmp", b"%016x" % upto
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(temporary)
    fd = fs.create(temporary)
    try:
        fs.write(fd, b"trimmed %s %08x\n" % (digits, zlib.crc32(digits)))
        fs.sync(fd)
    finally:
        fs.close(fd)
    fs.rename(temporary, f"{folder}/{TRIMMED}")
    fs.sync_folder(str(folder))
