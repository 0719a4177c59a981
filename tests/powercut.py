"""What a power cut may leave: operations are recorded, and crash states are built from the record.

The rules: what was synced is there. Of what a file got since its last sync, nothing, a part or all may be there, cut at
any byte or sector (but one write of less than a sector is there or not), and zeros where the blocks never came (delayed
allocation). A name made, moved or removed since its folder's last sync may be there or not: each for itself, in any
order (*strict*, what POSIX promises), or a beginning of the journal, which any sync brings to the device (*journalled*,
what ext4 and xfs do). A file whose sync failed keeps zeros where the unsynced part was, however often it is synced
later.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from faults import FaultyFiles

SECTOR = 512
NOISES = ("lost", "all", "bytes", "sectors", "zeros", "holes")


class Node:
    """A file or folder, whatever it is called."""

    __slots__ = ("children", "mtime_ns", "number")

    def __init__(self, number: int, *, folder: bool) -> None:
        self.number = number
        self.children: dict[str, Node] | None = {} if folder else None
        self.mtime_ns = 0  # of a file that others made; 0: when it is made again


class Op(NamedTuple):
    """One recorded effect; *kind* is enter, leave, move, data, cut, sync, sync all, poison or promise."""

    kind: str
    node: Node | None = None
    folder: Node | None = None
    name: str = ""
    value: Any = None
    before: tuple[Node, str] | None = None  # of a move: where it was


class Recorder(FaultyFiles):
    """Records what happens below *roots*, folders that are there and on the device. A failed sync poisons its file."""

    def __init__(self, roots: list[Path], promise: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.record: list[Op] = []
        self.roots: dict[str, Node] = {}
        self._count = 0
        self._promise, self._promised = promise, None
        for root in roots:
            self.roots[str(root)] = self._adopt(root)

    # -- what happens

    def create(self, path: str) -> int:
        fd: int = super().create(path)
        self._enter(path, folder=False)
        return fd

    def create_to_fill(self, path: str) -> int:
        fd: int = super().create_to_fill(path)
        self._enter(path, folder=False)
        return fd

    def open_part(self, path: str) -> int:
        fd: int = super().open_part(path)
        self._enter(path, folder=False)
        return fd

    def clone(self, source: int, target: int) -> None:
        super().clone(source, target)
        self._wrote(target, os.pread(target, os.fstat(target).st_size, 0))

    def copy_range(self, source: int, target: int, count: int) -> int:
        at = os.lseek(target, 0, os.SEEK_CUR)
        copied: int = super().copy_range(source, target, count)
        self._wrote(target, os.pread(target, copied, at))
        return copied

    def create_shared(self, path: str, *, anew: bool = False) -> int:
        fd: int = super().create_shared(path, anew=anew)
        if anew and (node := self._find(path)):
            self._note(Op("cut", node, value=0))
        self._enter(path, folder=False)
        return fd

    def make_folder(self, path: str) -> None:
        super().make_folder(path)
        self._enter(path, folder=True)

    def make_shared_folder(self, path: str) -> None:
        super().make_shared_folder(path)
        self._enter(path, folder=True)

    def make_one_folder(self, path: str) -> None:
        super().make_one_folder(path)
        self._enter(path, folder=True)

    def make_folder_in(self, folder: int, name: str) -> None:
        super().make_folder_in(folder, name)
        self._enter(f"{_path_of(folder)}/{name}", folder=True)

    def write(self, fd: int, data: bytes) -> None:
        before = os.fstat(fd).st_size
        try:
            super().write(fd, data)
        finally:
            self._wrote(fd, data[: os.fstat(fd).st_size - before])

    def append(self, fd: int, data: bytes) -> int:  # type: ignore[override]
        count = super().append(fd, data)
        self._wrote(fd, data[:count])
        return count

    def overwrite(self, path: str, old: bytes, new: bytes) -> bool:
        done = super().overwrite(path, old, new)
        if done and (node := self._find(path)):
            self._note(Op("cut", node, value=0))
            self._note(Op("data", node, value=new))
        return done

    def truncate(self, fd: int, length: int) -> None:
        super().truncate(fd, length)
        self._note(Op("cut", self._find(_path_of(fd)), value=length))

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self._move(source, target)

    def rename_into(self, source: str, folder: int, name: str) -> None:
        target = f"{_path_of(folder)}/{name}"
        same = os.path.exists(target) and os.path.samefile(source, target)
        super().rename_into(source, folder, name)
        if not same:
            self._move(source, target)

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        self._enter(target, folder=False, node=self._find(source))

    def link_open(self, source: int, target: str) -> None:
        super().link_open(source, target)
        known = self._find(_path_of(source))
        self._enter(target, folder=False, node=known)
        if known is None:  # a user's own file, of which nothing is known to be on the device
            self._wrote(source, os.pread(source, os.fstat(source).st_size, 0), target)
            if (node := self._find(target)) is not None:
                node.mtime_ns = os.fstat(source).st_mtime_ns

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self._leave(path)

    def remove_folder(self, path: str) -> None:
        super().remove_folder(path)
        self._leave(path)

    def remove_tree(self, path: str) -> None:
        super().remove_tree(path)
        self._leave(path)

    def sync(self, fd: int) -> None:
        self._sync(_path_of(fd), lambda: super(Recorder, self).sync(fd))

    def sync_path(self, path: str) -> None:
        self._sync(path, lambda: super(Recorder, self).sync_path(path))

    def sync_folder(self, path: str) -> None:
        self._sync(path, lambda: super(Recorder, self).sync_folder(path))

    def sync_file_system(self, path: str) -> None:
        try:
            super().sync_file_system(path)
        except OSError:
            self._note(Op("poison"))
            raise
        self._note(Op("sync all"))

    # -- its record

    def _note(self, op: Op) -> None:
        promised = self._promise()
        if promised != self._promised:
            self._promised = promised
            self.record.append(Op("promise", value=promised))
        self.record.append(op)

    def _sync(self, path: str, really: Callable[[], None]) -> None:
        node = self._find(path)
        try:
            really()
        except OSError:
            if node is not None:
                self._note(Op("poison", node))
            raise
        if node is not None:
            self._note(Op("sync", node))

    def _wrote(self, fd: int, data: bytes, path: str = "") -> None:
        node = self._find(path or _path_of(fd))
        if node is not None and data:
            self._note(Op("data", node, value=bytes(data)))

    def _enter(self, path: str, *, folder: bool, node: Node | None = None) -> None:
        path = path.rstrip("/")
        parent, name = self._parent(path)
        if parent is None and folder and self._root_of(path) not in (None, path):
            self._enter(os.path.dirname(path), folder=True)
            parent, name = self._parent(path)
        if parent is None or parent.children is None or name in parent.children:
            return
        node = node or self._make(folder=folder)
        parent.children[name] = node
        self._note(Op("enter", node, parent, name))

    def _leave(self, path: str) -> None:
        parent, name = self._parent(path)
        if parent is not None and parent.children is not None and name in parent.children:
            self._note(Op("leave", parent.children.pop(name), parent, name))

    def _move(self, source: str, target: str) -> None:
        (was, old), (parent, name) = self._parent(source), self._parent(target)
        assert was is not None and was.children is not None and parent is not None and parent.children is not None
        node = parent.children[name] = was.children.pop(old)
        self._note(Op("move", node, parent, name, before=(was, old)))

    def _make(self, *, folder: bool) -> Node:
        self._count += 1
        return Node(self._count, folder=folder)

    def _root_of(self, path: str) -> str | None:
        return next((root for root in self.roots if path == root or path.startswith(f"{root}/")), None)

    def _find(self, path: str) -> Node | None:
        root = self._root_of(path)
        node = self.roots[root] if root else None
        for name in path[len(root or "") + 1 :].split("/") if node and path != root else ():
            node = (node.children or {}).get(name) if node else None
        return node

    def _parent(self, path: str) -> tuple[Node | None, str]:
        parent, _, name = path.rpartition("/")
        return self._find(parent), name

    def _adopt(self, path: Path) -> Node:
        """Take what is there as being on the device."""
        node = self._make(folder=path.is_dir())
        if node.children is not None:
            for entry in sorted(path.iterdir()):
                child = node.children[entry.name] = self._adopt(entry)
                self.record.append(Op("enter", child, node, entry.name))
        else:
            self.record.append(Op("data", node, value=path.read_bytes()))
        self.record.append(Op("sync", node))
        return node


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


class _Content:
    """One file's bytes: on the device, and what came since."""

    def __init__(self) -> None:
        self.durable = b""
        self.pending: list[Op] = []
        self.holes: list[tuple[int, int]] = []

    def now(self, count: int | None = None) -> bytes:
        data = self.durable
        for op in self.pending[:count]:
            data = data + op.value if op.kind == "data" else data[: op.value]
        return data

    def sync(self) -> None:
        data = bytearray(self.now())
        for begin, end in self.holes:
            data[begin:end] = bytes(min(end, len(data)) - min(begin, len(data)))
        self.durable, self.pending = bytes(data), []

    def poison(self) -> None:
        self.holes.append((len(self.durable), len(self.now())))

    def after_the_cut(self, rnd: random.Random) -> bytes:
        noise = rnd.choice(NOISES)
        if noise == "lost" or not self.pending:
            return self.durable
        data = bytearray(self.now(None if noise == "all" else rnd.randint(0, len(self.pending))))
        begin = _shared(data, self.durable)
        if len(self.pending) == 1 and len(data) <= SECTOR and noise in ("bytes", "sectors", "holes"):
            noise = "zeros"  # one write of one sector: there, or not
            data = data if rnd.random() < 0.5 else bytearray(self.durable)
            return bytes(data[:begin]) + bytes(len(data) - begin) if rnd.random() < 0.5 else bytes(data)
        for hole_begin, hole_end in self.holes:
            data[hole_begin:hole_end] = bytes(max(0, min(hole_end, len(data)) - hole_begin))
        return _spoiled(data, begin, noise, rnd)


def _shared(one: bytes | bytearray, other: bytes) -> int:
    """Return how much of the beginning of both is equal."""
    unequal = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(unequal, min(len(one), len(other)))


def _spoiled(data: bytearray, begin: int, noise: str, rnd: random.Random) -> bytes:
    at = rnd.randint(begin, len(data))
    if noise == "bytes":
        return bytes(data[:at])
    if noise == "sectors":
        return bytes(data[: max(begin, at - at % SECTOR)])
    if noise == "zeros":
        return bytes(data[:at]) + bytes(len(data) - at)
    if noise == "holes":
        for sector in range(begin // SECTOR, len(data) // SECTOR + 1):
            low, high = max(begin, sector * SECTOR), min(len(data), (sector + 1) * SECTOR)
            if low < high and rnd.random() < 0.5:
                data[low:high] = bytes(high - low)
    return bytes(data)


class CrashState:
    """One state that a power cut behind the first *upto* records may leave.

    Args:
        intact: roots that are as if nothing had happened: their device survived.
    """

    def __init__(
        self, recorder: Recorder, upto: int, rnd: random.Random, *, journalled: bool, intact: tuple[str, ...] = ()
    ) -> None:
        self.promised: Any = None
        self._rnd, self._journalled = rnd, journalled
        self._contents: dict[Node, _Content] = {}
        self._names: list[Op] = []  # not known to be on the device
        self._entries: dict[Node, dict[str, Node]] = {}
        self._root = {node: node for node in recorder.roots.values()}
        self._kept = kept = {recorder.roots[root] for root in intact}
        for op in recorder.record[:upto]:
            self._learn(op)
        self._choose_names(kept)
        roots = sorted(recorder.roots.items(), key=lambda item: item[1] not in kept)  # a shared file is intact, too
        self.roots = {path: self._tree(node, node in kept) for path, node in roots}

    def _learn(self, op: Op) -> None:
        if op.kind == "promise":
            self.promised = op.value
        elif op.kind in ("data", "cut") and op.node is not None:
            self._content(op.node).pending.append(op)
        elif op.kind in ("enter", "leave", "move"):
            self._names.append(op)
            assert op.folder is not None and op.node is not None
            self._root[op.node] = self._root[op.folder]
        elif op.kind == "poison":
            for node in [op.node] if op.node else list(self._contents):
                if self._root.get(node) not in self._kept:
                    self._content(node).poison()
        elif op.kind in ("sync", "sync all"):
            self._sync(op.node)

    def _content(self, node: Node) -> _Content:
        return self._contents.setdefault(node, _Content())

    def _sync(self, node: Node | None) -> None:
        for one in [node] if node else list(self._contents):
            if one.children is None:
                self._content(one).sync()
        for op in [op for op in self._names if node is None or self._journalled or _touches(op, node)]:
            self._apply(op)
            self._names.remove(op)

    def _apply(self, op: Op) -> None:
        assert op.node is not None and op.folder is not None
        if op.before is not None:
            folder, name = op.before
            if self._entries.setdefault(folder, {}).get(name) is op.node:
                del self._entries[folder][name]
        entries = self._entries.setdefault(op.folder, {})
        if op.kind != "leave":
            entries[op.name] = op.node
        elif entries.get(op.name) is op.node:
            del entries[op.name]

    def _choose_names(self, kept: set[Node]) -> None:
        likely = self._rnd.choice((0.0, 0.3, 0.7, 1.0))
        upto = self._rnd.randint(0, len(self._names))
        for number, op in enumerate(self._names):
            chosen = number < upto if self._journalled else self._rnd.random() < likely
            if chosen or (op.folder is not None and self._root[op.folder] in kept):
                self._apply(op)

    def _tree(self, node: Node, kept: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, child in self._entries.get(node, {}).items():
            if child.children is not None:
                found[name] = self._tree(child, kept)
            else:
                found[name] = child, self._bytes_of(child, kept)
        return found

    def _bytes_of(self, node: Node, kept: bool) -> bytes:
        content = self._content(node)
        if kept:
            content.durable, content.pending = content.now(), []
        if content.pending:  # decided once: a file may have two names
            content.durable, content.pending = content.after_the_cut(self._rnd), []
        return content.durable

    def build(self) -> None:
        """Put it where it was."""
        made: dict[Node, str] = {}
        for path, tree in self.roots.items():
            shutil.rmtree(path, ignore_errors=True)
            _build(path, tree, made)


def _touches(op: Op, folder: Node) -> bool:
    return op.folder is folder or (op.before is not None and op.before[0] is folder)


def _build(path: str, tree: dict[str, Any], made: dict[Node, str]) -> None:
    os.mkdir(path, 0o700)
    for name, value in tree.items():
        target = f"{path}/{name}"
        if isinstance(value, dict):
            _build(target, value, made)
        elif value[0] in made:
            os.link(made[value[0]], target)
        else:
            made[value[0]] = target
            with open(target, "wb") as file:
                file.write(value[1])
            if value[0].mtime_ns:
                os.utime(target, ns=(value[0].mtime_ns, value[0].mtime_ns))
