"""What of a spool may go, what must stay and why; then the going. One pass over this host's streams.

A segment may go once every event in it is in the stores for good; then it is kept by age and by size, and under a
quota as long as there is room. Nothing that is not stored ever goes, nothing with damage, nothing of another host.

Source: design.md §1, §2.4; agent/docs/retention.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainspool.errors import TrainspoolError
from trainspool.spool import layout, quota, trimmed
from trainspool.spool.layout import SegmentName
from trainspool.spool.quota import Quota, Usage
from trainspool_agent import cursor as cursors
from trainspool_agent import discover
from trainspool_agent.discover import Place
from trainspool_agent.look import walk
from trainspool_agent.retention import trimming
from trainspool_agent.retention.durability import Durability
from trainspool_agent.retention.trimming import Content
from trainspool_agent.settings import Retention

UNSEALED_S = 7200.0  # a segment is rolled after an hour: one this old, and not sealed, was abandoned
DAY_S = 86400.0
_NO_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF))

OLD, BEYOND, QUOTA, LEFT_OVER = "old", "beyond the size kept", "over the quota", "given up earlier"


@dataclass(frozen=True)
class Freed:
    """One segment that went, or would: *why* is OLD, BEYOND, QUOTA or LEFT_OVER. *bytes* with its staged files."""

    stream: str
    segment: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Kept:
    """Segments of one stream that stay, for one reason; *needed*: whatever age, size and quota say."""

    stream: str
    segments: int
    bytes: int
    why: str
    needed: bool = True


@dataclass
class Report:
    """One pass over one spool: what it held and holds, and what of that was and is beyond its quota."""

    spool: str
    usage: Usage
    quota: Quota
    left: Usage
    excess: str | None = None
    left_excess: str | None = None
    freed: list[Freed] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        return sum(one.bytes for one in self.freed)


@dataclass(eq=False)
class _Candidate:
    """A segment whose events are all durable. *when*: of its last write, never before the segment in front of it."""

    stream: _Stream
    name: SegmentName
    following: SegmentName | None
    bytes: int
    when: float


@dataclass(eq=False)
class _Stream:
    """One stream: what is chosen to go, and whether the rest has to stay."""

    place: Place
    finished: bool
    names: list[SegmentName]
    durable: int = 0  # how many of *names*, from the first on, need not stay
    chosen: list[tuple[_Candidate, Content, Freed]] = field(default_factory=list)
    blocked: bool = False

    @property
    def goes_whole(self) -> bool:
        return self.finished and len(self.chosen) == len(self.names)


def sweep(
    spool: Path, host: str, rules: Retention, *, elsewhere: Path | None = None, dry_run: bool = False
) -> Report | None:
    """Apply *rules* to what *host* has in *spool*; None if another pass is at it. Blocks: use a thread.

    Safe beside a running agent and beside writers: it looks at files only, and what it deletes no one needs.

    Raises:
        OSError: the folder cannot be read or locked; nothing went.
    """
    host_folder = spool / layout.STREAMS / host
    if not host_folder.is_dir():
        return Report(str(spool), Usage(), _quota_of(spool, Usage(), rules), Usage())
    with _alone(host_folder) as alone:
        return _Sweep(spool, host, rules, elsewhere, dry_run=dry_run).run() if alone else None


def _quota_of(folder: Path, usage: Usage, rules: Retention) -> Quota:
    return quota.default_quota(str(folder), usage, size=rules.quota_bytes, count=rules.quota_files)


def measured(spool: Path, host: str, rules: Retention) -> tuple[Usage, Quota]:
    """Return what *host* has in *spool*, and how much it may have."""
    host_folder = spool / layout.STREAMS / host
    usage = quota.measure(str(host_folder))
    return usage, _quota_of(host_folder, usage, rules)


@contextlib.contextmanager
def _alone(host_folder: Path) -> Iterator[bool]:
    """Keep other passes out; where there are no locks nobody is, and two passes at once do the same twice."""
    fd = os.open(host_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield True
    finally:
        os.close(fd)


class _Sweep:
    """One call of ``sweep``."""

    def __init__(self, spool: Path, host: str, rules: Retention, elsewhere: Path | None, *, dry_run: bool) -> None:
        self._spool, self._host, self._rules, self._dry_run = spool, host, rules, dry_run
        self._durability = Durability(elsewhere)
        self._now = time.time()
        usage, allowed = measured(spool, host, rules)
        self.report = Report(str(spool), usage, allowed, usage, allowed.excess(usage))
        self._usage, self._durable_bytes = usage, 0

    def run(self) -> Report:
        host_folder = self._spool / layout.STREAMS / self._host
        if not self._dry_run:
            with self._noting(str(host_folder)):
                trimming.remove_leftovers(host_folder)
        candidates = [one for place in discover.streams(self._spool, self._host) for one in self._candidates_of(place)]
        self._durable_bytes = sum(one.bytes for one in candidates)
        streams = dict.fromkeys(one.stream for one in candidates)
        for one in sorted(candidates, key=lambda one: (one.when, one.stream.place.name, one.name)):
            self._judge(one)
        for stream in streams:
            if stream.chosen:
                with self._noting(str(stream.place.folder)):
                    self._go(stream)
        if self.report.freed and not self._dry_run:
            self._usage = quota.measure(str(host_folder))
        self.report.left, self.report.left_excess = self._usage, self.report.quota.excess(self._usage)
        return self.report

    @contextlib.contextmanager
    def _noting(self, where: str) -> Iterator[None]:
        """One stream's trouble is said, and stops no other."""
        try:
            yield
        except (OSError, TrainspoolError) as error:
            self.report.problems.append(f"{where}: {error}")

    # -- what may go

    def _candidates_of(self, place: Place) -> list[_Candidate]:
        try:
            discover.check_folder(place)
            known = cursors.load(place.folder)
            return self._durable_segments(place, known)
        except (OSError, TrainspoolError) as error:
            self.report.problems.append(f"{place.folder}: {error}")
            return []

    def _durable_segments(self, place: Place, known: cursors.Cursor) -> list[_Candidate]:
        names = self._without_leftovers(place, layout.segments(place.folder))
        stream = _Stream(place, known.finished, names)
        upto, holding = self._durability.upto(known, place.name)
        found: list[_Candidate] = []
        when = 0.0
        for index, name in enumerate(names):
            info = os.stat(place.folder / str(name))
            why = self._why_needed(stream, index, upto, holding, self._now - info.st_mtime)
            if why:
                self._keep(stream, names[index:], why)
                break
            when = max(when, info.st_mtime)
            following = names[index + 1] if index + 1 < len(names) else None
            found.append(_Candidate(stream, name, following, info.st_size, when))
        stream.durable = len(found)
        return found

    def _why_needed(self, stream: _Stream, index: int, upto: int, holding: str, age_s: float) -> str:
        """Say why a segment must stay, whatever age, size and quota say; empty if it need not."""
        last = index == len(stream.names) - 1
        if last and not stream.finished:
            return "its process lives, or nobody has finished the stream: the last segment stays"
        end = walk.segment_end(stream.place.folder / str(stream.names[index]))
        if end is None or end.offset > upto:
            of_run = f": run {holding} is durable up to offset {upto}" if holding else ""
            return f"not all of it is in the store for good{of_run}"
        if not end.sealed and not stream.finished and age_s < UNSEALED_S:
            return "not sealed: its process may still write to it"
        return ""

    def _without_leftovers(self, place: Place, names: list[SegmentName]) -> list[SegmentName]:
        """Delete what a pass that died had given up already; return the rest."""
        given_up = trimmed.offset(place.folder)
        left: list[SegmentName] = []
        for name in names:
            path = place.folder / str(name)
            end = walk.segment_end(path) if name.offset < given_up and name != names[-1] else None
            if end is None or end.offset > given_up:
                left.append(name)
                continue
            content = trimming.look_into(place.folder, name, place.stream, None)
            self.report.freed.append(Freed(place.name, str(name), os.stat(path).st_size, LEFT_OVER))
            if not self._dry_run:
                still_named = trimming.named_behind(place.folder, given_up, place.stream)
                staged = [one for at, one in content.staged if at < given_up and one not in still_named]
                trimming.delete(place.folder, [name], staged)
        return left

    # -- what goes

    def _judge(self, one: _Candidate) -> None:
        """Choose a segment to go if a rule says so, nothing in it speaks against it, and all before it goes too."""
        stream = one.stream
        if stream.blocked:
            return
        why, problem, content = self._rule_against(one), "", None
        if why is not None:
            content = trimming.look_into(stream.place.folder, one.name, stream.place.stream, one.following)
            problem = content.problem or self._foreign(one)
        if why is None or content is None or problem:
            stream.blocked = True
            rest = stream.names[stream.names.index(one.name) : stream.durable]
            self._keep(stream, rest, problem or "in the store; kept for replay", needed=bool(problem))
            return
        freed = Freed(stream.place.name, str(one.name), one.bytes + self._staged_bytes(stream, content), why)
        stream.chosen.append((one, content, freed))
        self._usage = Usage(self._usage.bytes - freed.bytes, self._usage.files - 1)
        self._durable_bytes -= one.bytes

    def _rule_against(self, one: _Candidate) -> str | None:
        age_s = self._now - one.when
        if age_s > self._rules.days * DAY_S:
            return OLD
        if self._durable_bytes > self._rules.bytes:
            return BEYOND
        return QUOTA if self.report.quota.excess(self._usage) else None

    def _foreign(self, one: _Candidate) -> str:
        """Say what else lies in a folder that would go whole, such as damage set aside."""
        if one.following is not None:
            return ""
        name = trimming.foreign_file(one.stream.place.folder)
        return f"{one.stream.place.folder / name} is nothing that retention may delete" if name else ""

    def _staged_bytes(self, stream: _Stream, content: Content) -> int:
        names = {name for _, name in content.staged if layout.is_safe_name(name)}
        total = 0
        for name in names:
            with contextlib.suppress(OSError):
                info = os.lstat(stream.place.folder / layout.STAGING / name)
                total += info.st_size if info.st_nlink == 1 else 0
        return total

    def _go(self, stream: _Stream) -> None:
        """Give up what is chosen of a stream; what cannot be deleted now is not said to be freed."""
        contents = [content for _, content, _ in stream.chosen]
        if not self._dry_run:
            for store in frozenset().union(*(content.stores for content in contents)):
                self._durability.sync_experiments(store)
            if stream.goes_whole:
                trimming.remove(stream.place.folder)
            else:
                self._trim(stream, contents)
        self.report.freed += (freed for *_, freed in stream.chosen)

    def _trim(self, stream: _Stream, contents: list[Content]) -> None:
        upto = max(content.end for content in contents)
        # A frame that was written twice may stand behind the mark too: it is given up all the same.
        still_named = trimming.named_behind(stream.place.folder, upto, stream.place.stream)
        named = [name for content in contents for at, name in content.staged if at < upto]
        staged = [name for name in named if name not in still_named]
        trimming.trim(stream.place.folder, [one.name for one, *_ in stream.chosen], staged, upto)

    # -- what is said

    def _keep(self, stream: _Stream, names: list[SegmentName], why: str, *, needed: bool = True) -> None:
        size = 0
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(stream.place.folder / str(name)).st_size
        self.report.kept.append(Kept(stream.place.name, len(names), size, why, needed))
