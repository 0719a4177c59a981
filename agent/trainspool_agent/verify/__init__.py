"""Every frame checked, damage named: which file, which byte, what is lost exactly, what survives. Changes nothing.

Each segment is checked by itself; what is lost is for the stream's own reader to say, since another segment may hold
the same events.

Source: sdk/docs/spool-format.md, "Torn tail or damage?".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainspool.errors import SpoolError, UnknownFormatVersion
from trainspool.spool import layout
from trainspool.spool.items import Damage, Opened
from trainspool.spool.layout import SegmentName
from trainspool.spool.reader import StreamReader
from trainspool_agent.compact import RunRef
from trainspool_agent.look import spool as inspect_spool
from trainspool_agent.look.spool import LIVE, UNKNOWN, SeenStream
from trainspool_agent.verify import state as verifystate
from trainspool_agent.verify.findings import Finding
from trainspool_agent.verify.ring import check_ring
from trainspool_agent.verify.segment import CheckedSegment, check_segment

READ_BYTES = 4 << 20
DAMAGED_SUFFIX = ".damaged"


@dataclass
class CheckedStream:
    """What was found of one stream. Counts are of sound frames, each counted once however many segments hold it."""

    stream: str
    folder: str
    life: str
    segments: int = 0
    frames: int = 0
    bytes: int = 0
    events: int = 0
    points: int = 0
    findings: list[Finding] = field(default_factory=list)


@dataclass
class Verdict:
    """What was found of everything looked at."""

    streams: list[CheckedStream] = field(default_factory=list)
    stores: list[Finding] = field(default_factory=list)
    checkpoints: int = 0

    @property
    def findings(self) -> list[Finding]:
        return [*(finding for stream in self.streams for finding in stream.findings), *self.stores]

    @property
    def damage(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_damage]


def bytes_of(streams: Iterable[SeenStream]) -> int:
    """Return how many bytes of segments there are to check."""
    return sum(seen.spool_bytes for seen in streams)


def verify(streams: Iterable[SeenStream], progress: Callable[[int], None]) -> Verdict:
    """Check *streams* with their rings and cursors, and the checkpoints of their runs in the stores they name.

    Args:
        progress: called with the bytes of each segment once it is checked.
    """
    verdict, runs = Verdict(), set[RunRef]()
    for seen in streams:
        verdict.streams.append(_check_stream(seen, runs, progress))
    for folder in verifystate.run_folders(runs):
        checked, findings = verifystate.check_checkpoints(folder)
        verdict.checkpoints += checked
        verdict.stores += findings
    return verdict


def verify_segment(path: Path) -> Verdict:
    """Check one segment by itself. Raises as ``walk.read_segment``."""
    checked = check_segment(path, None)
    stream = CheckedStream(checked.stream, str(path.parent), "")
    _count_segment(stream, checked)
    stream.findings = [finding for finding in checked.findings if finding.what or finding.is_damage]
    return Verdict([stream])


def _check_stream(seen: SeenStream, runs: set[RunRef], progress: Callable[[int], None]) -> CheckedStream:
    folder = seen.place.folder
    stream = CheckedStream(seen.name, str(folder), seen.life)
    if seen.trouble:
        stream.findings.append(Finding(str(folder), 0, seen.trouble, is_damage=True))
        return stream
    segments = []
    for name in layout.segments(folder):
        try:
            checked = check_segment(folder / str(name), seen.place.stream)
        except (SpoolError, OSError) as error:
            stream.findings.append(Finding(str(folder / str(name)), 0, str(error), is_damage=True))
            continue
        segments.append(checked)
        _count_segment(stream, checked)
        runs |= checked.runs
        progress(checked.bytes)
    stream.findings += _weigh(seen, segments)
    for ring in seen.rings:
        stream.findings += check_ring(ring, seen)
    stream.findings += verifystate.check_cursor(folder)
    return stream


def _count_segment(stream: CheckedStream, checked: CheckedSegment) -> None:
    stream.segments += 1
    stream.frames += checked.frames
    stream.bytes += checked.bytes
    stream.events += checked.events
    stream.points += checked.points


def _weigh(seen: SeenStream, segments: list[CheckedSegment]) -> Iterator[Finding]:
    """Say of each bad place what is lost by it, and of each loss where it shows."""
    losses, error = _losses(seen)
    if error is not None:
        newer = isinstance(error, UnknownFormatVersion)
        if not newer:
            yield Finding(str(getattr(error, "path", seen.place.folder)), getattr(error, "offset", 0), str(error), True)
    left = list(losses)
    for index, checked in enumerate(segments):
        for finding in checked.findings:
            loss = next((one for one in left if _is_of(one, finding, checked, segments[index + 1 :])), None)
            if loss is not None:
                left.remove(loss)
                yield finding.losing(loss)
            elif finding.torn:
                yield finding.saying(_torn(seen, is_last=index == len(segments) - 1))
            else:
                yield finding
    aside = list(_set_aside(seen.place.folder))
    for loss in left:
        kept = next((path for begin, path in aside if begin <= loss.begin), None)
        if kept is not None and not loss.path.name.endswith(DAMAGED_SUFFIX) and loss.reason == "events are missing":
            what = f"a gap that was counted; the damaged bytes are set aside in {kept}"
            yield Finding(str(loss.path), loss.at, what, False).losing(loss)
        else:
            where = f"{loss.reason}: stream offsets {loss.begin}-{loss.end} are in no segment"
            yield Finding(str(loss.path), loss.at, where, True).losing(loss)


def _losses(seen: SeenStream) -> tuple[list[Damage], Exception | None]:
    """What the stream's reader cannot read, other segments tried; and why it stopped, if it did."""
    folder, names = seen.place.folder, layout.segments(seen.place.folder)
    if not names:
        return [], None
    may_grow = seen.life in (LIVE, UNKNOWN)
    reader = StreamReader(folder, seen.place.stream, names[0].offset, writer_alive=lambda: may_grow)
    found: list[Damage] = []
    try:
        while items := reader.read(READ_BYTES):
            found += [item for item in items if not isinstance(item, Opened) and isinstance(item, Damage)]
    except (SpoolError, OSError) as error:
        return found, error
    finally:
        reader.close()
    return [loss for loss in found if loss.end > loss.begin or not loss.exact], None


def _is_of(loss: Damage, finding: Finding, checked: CheckedSegment, later: list[CheckedSegment]) -> bool:
    """Whether *finding* is where *loss* comes from: the same place, or a torn tail before the segment it shows in."""
    if not finding.is_damage and not finding.torn:
        return False
    if (str(loss.path), loss.at) == (finding.file, finding.at):
        return True
    return finding.torn and loss.begin == checked.end and any(str(loss.path) == str(one.path) for one in later)


def _torn(seen: SeenStream, *, is_last: bool) -> str:
    if not is_last:
        return "torn tail, ordinary: nothing is missing, the next segment goes on where it begins"
    if seen.life in (LIVE, UNKNOWN):
        return "torn tail, ordinary: the last segment, which may still grow"
    return "torn tail, ordinary: the process died while it wrote this frame"


def _set_aside(folder: Path) -> Iterator[tuple[int, str]]:
    """The first offsets of the segments that a repair set aside, and their names."""
    for path in sorted(folder.glob(f"*.seg{DAMAGED_SUFFIX}*"), reverse=True):
        name: SegmentName | None = layout.parse_segment_name(path.name.partition(DAMAGED_SUFFIX)[0])
        if name is not None:
            yield name.offset, path.name


def streams_of(spools: Iterable[Path]) -> list[SeenStream]:
    """Return the streams of *spools*."""
    return [seen for spool in spools for seen in inspect_spool.seen_streams(spool)]
