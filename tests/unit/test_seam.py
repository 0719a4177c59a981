"""Whatever changes a disk goes through the two seams that crash tests replace, and nothing past them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEAMS = {"sdk/trainspool/spool/files.py", "agent/trainspool_agent/files.py"}
OF_OS = set(
    "write pwrite writev pwritev truncate ftruncate fsync fdatasync rename renames replace link symlink unlink remove "
    "mkdir makedirs rmdir removedirs chmod fchmod lchmod chown utime mknod mkfifo posix_fallocate sendfile "
    "copy_file_range splice".split()
)
OF_PATHS = set("write_text write_bytes symlink_to hardlink_to rmdir mkdir".split())
FOLDING = (
    "rename replace unlink chmod touch".split()
)  # of a Path; also of a string or of the seam, which is told by its name
WRITING_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"}
FOREIGN = {"shutil", "tempfile", "aiofiles"}

NO_SPOOL_NO_STORE = {
    # Shared memory: the ring, and the folder that holds it.
    "sdk/trainspool/spool/ring.py": {"os.open", "os.posix_fallocate", "os.unlink"},
    "sdk/trainspool/spool/ringfile.py": {"os.pwrite"},
    "sdk/trainspool/spool/ringfolder.py": {"mkdir"},
    # The agent's lock, health, log and pointers, beside the rings.
    "sdk/trainspool/autostart.py": {"open", "mkdir", "write_text"},
    "agent/trainspool_agent/agentlock.py": {"os.open", "os.pwrite", "os.ftruncate"},
    "agent/trainspool_agent/health.py": {"os.open", "open", "os.rename"},
    "agent/trainspool_agent/service.py": {"os.open", "os.replace"},
    "agent/trainspool_agent/sync.py": {"mkdir", "write_bytes"},
    "agent/trainspool_agent/takeover.py": {"mkdir", "shutil.rmtree"},
    # Locks are taken on descriptors that could write; nothing is written.
    "agent/trainspool_agent/liveness.py": {"os.open"},
    "agent/trainspool_agent/verify/repair.py": {"os.open"},
    # Read only, by flags that have a name.
    "sdk/trainspool/spool/quota.py": {"os.open"},
    # Folders, to make things in through the seam.
    "agent/trainspool_agent/store/transfer.py": {"os.open"},
    "agent/trainspool_agent/store/content.py": {"os.open"},
    "agent/trainspool_agent/store/placed.py": {"os.open"},
    # What a person asked to have, where they asked to have it.
    "agent/trainspool_agent/look/fetching.py": {"mkdir", "open", "os.replace", "os.unlink", "os.write"},
    # A database beside the store, by another program; it gets its name when it was counted.
    "agent/trainspool_agent/export/target.py": {
        *("os.open", "os.link", "os.rename", "os.unlink", "os.fsync", "shutil.rmtree", "tempfile.TemporaryDirectory")
    },
    # A view of a store, of links, in the folder of that database.
    "agent/trainspool_agent/export/repeats.py": {"os.mkdir", "os.symlink", "write_bytes"},
    # A folder of their own, removed again, when the spool takes nothing.
    "sdk/trainspool/artifacts.py": {"tempfile.mkdtemp"},
    # Copies for who asks for them, where they ask for them.
    "sdk/trainspool/reading/artifacts.py": {"os.makedirs", "shutil.copyfile", "shutil.copytree", "tempfile.mkdtemp"},
    # The same for a self-test, and questions to the shell's path.
    "agent/trainspool_agent/doctor/selftest.py": {"tempfile.TemporaryDirectory"},
    "agent/trainspool_agent/doctor/__init__.py": {"os.open", "tempfile.NamedTemporaryFile"},
    "agent/trainspool_agent/demo/training.py": {"tempfile.TemporaryDirectory"},
    "agent/trainspool_agent/typed.py": {"shutil.which"},
    "agent/trainspool_agent/cli/show.py": {"os.open"},
}


def test_nothing_writes_to_a_disk_past_the_seams() -> None:
    found = {(path, name, line) for path in sources() for name, line in writing_calls(ROOT / path)}
    past = sorted(one for one in found if one[1] not in NO_SPOOL_NO_STORE.get(one[0], ()))
    assert not past, f"put it into {' or '.join(sorted(SEAMS))}, or say here why it is neither spool nor store: {past}"


def test_what_is_allowed_is_still_needed() -> None:
    found = {(path, name) for path in sources() for name, _ in writing_calls(ROOT / path)}
    allowed = {(path, name) for path, names in NO_SPOOL_NO_STORE.items() for name in names}
    assert not allowed - found


def sources() -> Iterator[str]:
    for part in ("sdk/trainspool", "agent/trainspool_agent"):
        for path in sorted((ROOT / part).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if name not in SEAMS:
                yield name


def writing_calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and (name := writes(node)):
            yield name, node.lineno


def writes(call: ast.Call) -> str | None:
    """Return what a call that may write is called, None if it only reads or asks the seam."""
    name = ast.unparse(call.func)
    owner, _, verb = name.rpartition(".")
    if name == "os.open":
        flags = {
            node.attr for argument in call.args[1:] for node in ast.walk(argument) if isinstance(node, ast.Attribute)
        }
        named = any(isinstance(argument, ast.Name) for argument in call.args[1:2])
        return name if named or flags & WRITING_FLAGS else None
    if name in ("open", "io.open", "os.fdopen") or (verb == "open" and owner.startswith("Path")):
        mode = call.args[1] if len(call.args) > 1 else next((k.value for k in call.keywords if k.arg == "mode"), None)
        reads = mode is None or (isinstance(mode, ast.Constant) and not set("wax+") & set(str(mode.value)))
        return None if reads else name
    if owner == "os":
        return name if verb in OF_OS else None
    if owner.split(".")[0] in FOREIGN:
        return name
    if verb in OF_PATHS and not owner.endswith("fs"):
        return verb
    return verb if verb in FOLDING and owner in ("path", "temporary", "target") else None
